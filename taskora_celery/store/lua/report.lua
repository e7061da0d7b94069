-- What one execution has to say since its last report, and its end. Only the holder of the fence changes the record.
--
-- KEYS  1 record  2 journal  3 attempts
-- ARGV  1 fence  2 now (ms), or "0": no sign of life, only a look  3 ttl (ms)  4 channel  5 newest log entries to keep
--       6 progress or ""  7 checkpoint or ""
--       8 state or "", the attempt has ended  9 when (ms)  10 reason  11 error class  12 attempt record to keep or ""
--       13 "1": the handler could not see that it was to stop, "2": Celery has stored this end already: it is written whatever
--       was requested
--       14 first entry's number within this execution, then for each batch: entries, log entries, packed batch
-- Returns 1 accepted, 0 superseded: counted, nothing else was changed, 2 accepted, and a cancel is requested,
-- 3 accepted but for the end: a cancel was requested before it (a gentle one decides nothing where ARGV 13 is "1"), -1 the record is unknown: nothing was changed
local held = redis.call('HMGET', KEYS[1], 'f', 'g', 'u', 'v', 'q', 'm', 'i', 't', 'j')
if not held[1] then return -1 end
local current = held[1] == ARGV[1]
-- An attempt that ended in a retry may still write its last log entries after the next one began.
local late = not current and held[2] == ARGV[1]
if not current and not late then
  redis.call('HINCRBY', KEYS[1], 'y', 1)
  return 0
end

local set, changed = {}, false
local function put(field, value)
  set[#set + 1] = field
  set[#set + 1] = value
end

if #ARGV > 14 then
  local counter = current and 'u' or 'v'
  local accepted = tonumber((current and held[3] or held[4]) or '0')
  local number, seq = tonumber(ARGV[14]), tonumber(held[5] or '0')
  local kept, written, fresh = tonumber(held[6] or '0'), tonumber(held[8] or '0'), {}
  for n = 15, #ARGV, 3 do
    local entries, logs = tonumber(ARGV[n]), tonumber(ARGV[n + 1])
    if number + entries > accepted then
      -- A jump means that entries were dropped before they came here: they count as written, and their numbers are left out.
      local gap = number - accepted
      if gap > 0 then
        seq = seq + gap
        written = written + gap
      end
      fresh[#fresh + 1] = {seq .. ' ' .. entries .. ' ' .. logs .. ' ', logs, n + 2}
      seq, kept, written = seq + entries, kept + logs, written + logs
      accepted = number + entries
      changed = true
    end
    number = number + entries
  end
  if changed then
    local limit, removed = tonumber(ARGV[5]), tonumber(held[7] or '0')
    -- Where the newest batches are too many by themselves, all before them would go as soon as they are there: they are counted,
    -- and not written. Each text that comes to a script, or is made by it, costs it 1 ns per byte: half of what a flood did.
    local newest, from = 0, #fresh + 1
    while from > 1 and newest <= limit do
      from = from - 1
      newest = newest + fresh[from][2]
    end
    if newest > limit then
      removed = removed + redis.call('LLEN', KEYS[2]) + from - 1
      redis.call('DEL', KEYS[2])
      kept = newest
    else
      from = 1
    end
    local batches, heads = 0, 0
    for n = from, #fresh do
      batches = redis.call('RPUSH', KEYS[2], fresh[n][1] .. ARGV[fresh[n][3]])
    end
    -- A job that retries for ever without a word has a journal with an end, too.
    local most = limit + 1000
    while kept > limit or batches - heads > most do
      local head = redis.call('LINDEX', KEYS[2], heads)
      local logs = head and tonumber(string.match(string.sub(head, 1, 64), '^%d+ %d+ (%d+) '))
      if not logs or (kept - logs < limit and batches - heads <= most) then break end
      kept, heads = kept - logs, heads + 1
    end
    if heads > 0 then
      redis.call('LTRIM', KEYS[2], heads, -1)
      removed = removed + heads
    end
    put(counter, accepted) put('q', seq) put('m', kept) put('i', removed) put('t', written)
  end
end

if current then
  if ARGV[2] ~= '0' then put('h', ARGV[2]) end
  if ARGV[6] ~= '' then put('p', ARGV[6]) changed = true end
end
local answer = 1
if held[9] and current then answer = 2 end
local ends = ARGV[8] ~= '' and current
-- The fifth field of a request says that it is gentle.
local spared = ends and held[9] and (ARGV[13] == '2' or ARGV[13] == '1' and cmsgpack.unpack(string.sub(held[9], 2))[5])
if ends and held[9] and ARGV[8] ~= 'REVOKED' and not spared then
  -- Who was told that the cancel is requested must not find the job done: it ends as cancelled, or not yet.
  ends, answer = false, 3
end
if current and ARGV[7] ~= '' and not (ends and ARGV[8] == 'SUCCESS') then put('k', ARGV[7]) end
if ends then
  put('s', ARGV[8])
  put('e', ARGV[9])
  if ARGV[10] ~= '' then put('r', ARGV[10]) end
  if ARGV[11] ~= '' then put('z', ARGV[11]) end
  if ARGV[8] == 'SUCCESS' then redis.call('HDEL', KEYS[1], 'k') end
  changed = true
end
if ARGV[12] ~= '' and ends then
  redis.call('RPUSH', KEYS[3], ARGV[12])
  redis.call('LTRIM', KEYS[3], -100, -1)
  changed = true
end
if #set > 0 then redis.call('HSET', KEYS[1], unpack(set)) end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('PEXPIRE', KEYS[3], ARGV[3])
if changed then redis.call('PUBLISH', ARGV[4], 'report') end
return answer
