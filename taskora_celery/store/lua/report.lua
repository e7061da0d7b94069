-- What one execution has to say since its last report, and its end. Only the holder of the fence changes the record.
--
-- KEYS  1 record  2 journal  3 attempts
-- ARGV  1 fence  2 now (ms), or "0": no sign of life, only a look  3 ttl (ms)  4 channel  5 newest log entries to keep
--       6 progress or ""  7 checkpoint or ""
--       8 state or "", the attempt has ended  9 when (ms)  10 reason  11 error class  12 attempt record to keep or ""
--       13 "1": the handler could not see that it was to stop, "2": Celery has stored this end already: it is written whatever
--       was requested
--       14 first entry's number within this execution  15 packed journal entry of the end, or ""
--       then for each batch: entries, log entries, packed batch
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

local answer = 1
if held[9] and current then answer = 2 end
local ends = ARGV[8] ~= '' and current
-- The fifth field of a request says that it is gentle.
local spared = ends and held[9] and (ARGV[13] == '2' or ARGV[13] == '1' and cmsgpack.unpack(string.sub(held[9], 2))[5])
if ends and held[9] and ARGV[8] ~= 'REVOKED' and not spared then
  -- Who was told that the cancel is requested must not find the job done: it ends as cancelled, or not yet.
  ends, answer = false, 3
end
-- The same end again, whose answer was lost: what it adds to the lists is there.
local news = ends and ARGV[12] ~= '' and redis.call('LINDEX', KEYS[3], -1) ~= ARGV[12]
local entry = news and ARGV[15] ~= ''

if #ARGV > 15 or entry then
  local counter = current and 'u' or 'v'
  local accepted = tonumber((current and held[3] or held[4]) or '0')
  local number, seq = tonumber(ARGV[14]), tonumber(held[5] or '0')
  local kept, written, batches = tonumber(held[6] or '0'), tonumber(held[8] or '0'), 0
  for n = 16, #ARGV, 3 do
    local entries, logs = tonumber(ARGV[n]), tonumber(ARGV[n + 1])
    if number + entries > accepted then
      -- A jump means that entries were dropped before they came here: they count as written, and their numbers are left out.
      local gap = number - accepted
      if gap > 0 then
        seq = seq + gap
        written = written + gap
      end
      batches = redis.call('RPUSH', KEYS[2], seq .. ' ' .. entries .. ' ' .. logs .. ' ' .. ARGV[n + 2])
      seq, kept, written = seq + entries, kept + logs, written + logs
      accepted = number + entries
      changed = true
    end
    number = number + entries
  end
  if entry then
    batches = redis.call('RPUSH', KEYS[2], seq .. ' 1 0 ' .. ARGV[15])
    seq, changed = seq + 1, true
  end
  if changed then
    local limit, removed = tonumber(ARGV[5]), tonumber(held[7] or '0')
    -- A job that retries for ever without a word has a journal with an end, too.
    local most = limit + 1000
    while kept > limit or batches > most do
      local head = redis.call('LINDEX', KEYS[2], 0)
      local logs = head and tonumber(string.match(string.sub(head, 1, 64), '^%d+ %d+ (%d+) '))
      if not logs or (kept - logs < limit and batches <= most) then break end
      redis.call('LPOP', KEYS[2])
      kept, removed, batches = kept - logs, removed + 1, batches - 1
    end
    put(counter, accepted) put('q', seq) put('m', kept) put('i', removed) put('t', written)
  end
end

if current then
  if ARGV[2] ~= '0' then put('h', ARGV[2]) end
  if ARGV[6] ~= '' then put('p', ARGV[6]) changed = true end
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
if news then
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
