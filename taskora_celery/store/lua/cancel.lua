-- A job is to be cancelled. What has not begun is cancelled at once; what runs is asked to stop; what has ended stays as it is.
--
-- KEYS  1 record  2 journal  3 attempts
-- ARGV  1 now (ms)  2 ttl (ms)  3 the job's channel  4 the channel of all announcements  5 packed request, also the announcement
--       6 reason  7 "1": it is known to have been sent, so without a record it waits in its queue  8 packed journal entry
--       9 newest log entries to keep
-- Returns { outcome, state }; outcome 0 unknown, 1 too late, -1 cancelled before, 2 cancelled, 3 requested; only with the last two
-- something was changed
local old = redis.call('HMGET', KEYS[1], 's', 'q', 'j', 'z')
local state = old[1]
local function gentle(request)
  local readable, asked = pcall(cmsgpack.unpack, string.sub(request, 2)) -- a damaged one is not
  return readable and type(asked) == 'table' and asked[5] == true
end
if not state and ARGV[7] == '' then return { 0, '' } end
if state == 'REVOKED' and old[3] and old[4] == 'JobCancelledError' then return { -1, state } end
if state == 'SUCCESS' or state == 'FAILURE' or state == 'REVOKED' or state == 'IGNORED' then return { 1, state } end

local seq = tonumber(old[2] or '0')
local batches = redis.call('RPUSH', KEYS[2], seq .. ' 1 0 ' .. ARGV[8])
redis.call('HSET', KEYS[1], 'q', seq + 1)
if batches > tonumber(ARGV[9]) + 1000 then
  local logs = string.match(redis.call('LPOP', KEYS[2]), '^%d+ %d+ (%d+) ')
  redis.call('HINCRBY', KEYS[1], 'm', 0 - tonumber(logs or '0')) -- as in lose.lua
  redis.call('HINCRBY', KEYS[1], 'i', 1)
end
-- The first request counts, but one that is not gentle counts over a gentle one.
if not old[3] or gentle(old[3]) and not gentle(ARGV[5]) then redis.call('HSET', KEYS[1], 'j', ARGV[5]) end
local outcome = 3
if state ~= 'STARTED' then
  outcome = 2
  -- What was given back after an early acknowledgement comes as another message: the request holds for that one, too.
  if state == 'REJECTED' then redis.call('HDEL', KEYS[1], 'l') end
  redis.call('HSET', KEYS[1], 's', 'REVOKED', 'r', ARGV[6], 'z', 'JobCancelledError', 'e', ARGV[1])
end
for n = 1, 3 do redis.call('PEXPIRE', KEYS[n], ARGV[2]) end
redis.call('PUBLISH', ARGV[4], ARGV[5])
redis.call('PUBLISH', ARGV[3], 'cancel')
return { outcome, state or '' }
