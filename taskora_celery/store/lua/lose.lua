-- A delivery is lost: its process or its worker died, or it showed no sign of life. Its execution is fenced off at once.
--
-- KEYS  1 record  2 journal  3 attempts
-- ARGV  1 now (ms)  2 ttl (ms)  3 channel  4 delivery tag  5 token, or "" where only the tag is known  6 task name
--       7 attempt  8 worker  9 reason  10 state that ends the job, or "": it will be delivered again  11 error class
--       12 how many losses are allowed, or ""  13 packed journal entry  14 class of the error where there were more
--       15 when the publisher created the job (ms), or 0 where it did not say  16 newest log entries to keep
--       17 "1": the loss is not the job's fault, and does not count
-- Returns { losses so far, "1" where the job has ended, "2" where it has ended as cancelled, else "" }; losses -1: this delivery is
-- over or superseded, and nothing was changed
local now, token, stamp = tonumber(ARGV[1]), tonumber(ARGV[5]), tonumber(ARGV[15])
local old = redis.call('HMGET', KEYS[1], 's', 'a', 'd', 'f', 'w', 'b', 'l', 'o', 'x', 'q', 'c', 'j')
local state, attempt, delivery, worker, started = old[1], old[2], old[3], old[5], tonumber(old[6] or now)
local fence, same = tonumber(old[4] or '0'), old[7] == ARGV[4]

if same and (ARGV[5] == '' or old[8] == ARGV[5]) then
  if state ~= 'STARTED' then return { -1, '' } end
else
  if not token or fence >= token then return { -1, '' } end -- another delivery has begun since
  local early = old[12] and not old[7] -- cancelled as one that had not begun, while it began unregistered
  if (state == 'SUCCESS' or state == 'FAILURE' or state == 'REVOKED') and not early then
    if same or stamp <= tonumber(old[11] or '0') then return { -1, '' } end -- delivered once more after its end
    -- The same id was sent anew: a job of its own.
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
    old, attempt = {}, false
  elseif state == 'IGNORED' then
    attempt = false -- replaced by another task under its id
  elseif attempt and tonumber(attempt) > tonumber(ARGV[7]) then
    return { -1, '' } -- its retry has begun
  end
  -- It died before it was registered: nobody has told of it yet.
  delivery = attempt == ARGV[7] and tonumber(delivery) + 1 or 1
  attempt, worker, started = ARGV[7], ARGV[8], math.floor(token / 1000)
end

local stalls = tonumber(old[9] or '0') + (ARGV[17] == '' and 1 or 0)
local ended, class = ARGV[10], ARGV[11]
local reason = ARGV[9]
if old[12] then
  local readable, asked = pcall(cmsgpack.unpack, string.sub(old[12], 2)) -- a damaged one is a request all the same
  asked = readable and type(asked) == 'table' and asked[3]
  ended, class, reason = 'REVOKED', 'JobCancelledError', type(asked) == 'string' and asked or ''
end
if ended == '' and ARGV[12] ~= '' and stalls > tonumber(ARGV[12]) then
  ended, class = 'FAILURE', ARGV[14]
end
local clock = redis.call('TIME')
local taken = math.max(fence + 1, tonumber(clock[1]) * 1000000 + tonumber(clock[2]))
local created = old[11] or (stamp > 0 and ARGV[15] or started)
local seq = tonumber(old[10] or '0')
redis.call('HSET', KEYS[1], 's', ended ~= '' and ended or 'LOST', 'n', ARGV[6], 'a', attempt, 'd', delivery, 'w', worker,
  'b', started, 'c', created, 'f', string.format('%.0f', taken), 'l', ARGV[4], 'o', ARGV[5] ~= '' and ARGV[5] or old[8],
  'x', stalls, 'q', seq + 1, 'r', reason, 'u', '0')
if redis.call('RPUSH', KEYS[2], seq .. ' 1 0 ' .. ARGV[13]) > tonumber(ARGV[16]) + 1000 then
  local logs = string.match(redis.call('LPOP', KEYS[2]), '^%d+ %d+ (%d+) ')
  redis.call('HINCRBY', KEYS[1], 'm', 0 - tonumber(logs or '0')) -- 0 less 0: minus 0 is no integer to Redis
  redis.call('HINCRBY', KEYS[1], 'i', 1)
end
redis.call('HSETNX', KEYS[1], 'h', started)
redis.call('HDEL', KEYS[1], 'e', 'g', 'v', 'z')
if ended ~= '' then redis.call('HSET', KEYS[1], 'e', ARGV[1]) end
if class ~= '' then redis.call('HSET', KEYS[1], 'z', class) end
if ended == '' then
  local lost = { number = tonumber(attempt), delivery = tonumber(delivery), worker = worker, started_ms = started,
    outcome = 'LOST', duration = (now - started) / 1000, reason = ARGV[9] }
  redis.call('RPUSH', KEYS[3], cmsgpack.pack(lost))
  redis.call('LTRIM', KEYS[3], -100, -1)
end
for n = 1, 3 do redis.call('PEXPIRE', KEYS[n], ARGV[2]) end
redis.call('PUBLISH', ARGV[3], 'lose')
return { stalls, old[12] and '2' or ended ~= '' and '1' or '' }
