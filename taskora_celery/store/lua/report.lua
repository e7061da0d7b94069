-- What one execution has to say since its last report, and its end. Only the holder of the fence changes the record.
--
-- KEYS  1 record  2 journal  3 attempts
-- ARGV  1 these values, packed together:
--       fence, now (ms), or 0: no sign of life, only a look, ttl (ms), channel, limit: newest log entries to keep,
--       state or "": the attempt has ended, at: when (ms), reason, error class,
--       insists: "1": the handler could not see that it was to stop, "2": Celery has stored this end already: it is written
--       whatever was requested,
--       number of the first entry within this execution, then for each batch: entries, log entries
--       (what is after the first may be left out from the end on:)
--       2 progress or ""  3 checkpoint or ""  4 attempt record to keep or ""
--       5 packed journal entry of the end or ""  6… packed batches
-- Returns 1 accepted, 0 superseded: counted, nothing else was changed, 2 accepted, and a cancel is requested,
-- 3 accepted but for the end: a cancel was requested before it (a gentle one decides nothing where it insists with "1"),
-- -1 the record is unknown: nothing was changed
local given = cmsgpack.unpack(ARGV[1])
local fence, now, ttl, channel, limit, state, at, reason, error_class, insists, number = unpack(given, 1, 11)
local progress, checkpoint, attempt, entry = ARGV[2] or '', ARGV[3] or '', ARGV[4] or '', ARGV[5] or ''
local held = redis.call('HMGET', KEYS[1], 'f', 'g', 'u', 'v', 'q', 'm', 'i', 't', 'j')
if not held[1] then return -1 end
local current = held[1] == fence
-- An attempt that ended in a retry may still write its last log entries after the next one began.
local late = not current and held[2] == fence
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
local ends = state ~= '' and current
local spared = ends and held[9] and insists == '2'
if ends and held[9] and insists == '1' then
  -- The fifth field of a request says that it is gentle; a damaged one is not.
  local readable, asked = pcall(cmsgpack.unpack, string.sub(held[9], 2))
  spared = readable and type(asked) == 'table' and asked[5] == true
end
if ends and held[9] and state ~= 'REVOKED' and not spared then
  -- Who was told that the cancel is requested must not find the job done: it ends as cancelled, or not yet.
  ends, answer = false, 3
end
-- The same end again, whose answer was lost: what it adds to the lists is there.
local news = ends and attempt ~= '' and redis.call('LINDEX', KEYS[3], -1) ~= attempt
if not news then entry = '' end

if #ARGV > 5 or entry ~= '' then
  local counter = current and 'u' or 'v'
  local accepted = tonumber((current and held[3] or held[4]) or '0')
  local seq = tonumber(held[5] or '0')
  local kept, written, fresh = tonumber(held[6] or '0'), tonumber(held[8] or '0'), {}
  for n = 6, #ARGV do
    local entries, logs = given[2 * n], given[2 * n + 1]
    if number + entries > accepted then
      -- A jump means that entries were dropped before they came here: they count as written, and their numbers are left out.
      local gap = number - accepted
      if gap > 0 then
        seq = seq + gap
        written = written + gap
      end
      fresh[#fresh + 1] = {seq .. ' ' .. entries .. ' ' .. logs .. ' ', logs, n}
      seq, kept, written = seq + entries, kept + logs, written + logs
      accepted = number + entries
      changed = true
    end
    number = number + entries
  end
  if changed or entry ~= '' then
    changed = true
    local removed = tonumber(held[7] or '0')
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
    if entry ~= '' then
      batches = redis.call('RPUSH', KEYS[2], seq .. ' 1 0 ' .. entry)
      seq = seq + 1
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
  if now ~= 0 then put('h', now) end
  if progress ~= '' then put('p', progress) changed = true end
end
if current and checkpoint ~= '' and not (ends and state == 'SUCCESS') then put('k', checkpoint) end
if ends then
  put('s', state)
  put('e', at)
  if reason ~= '' then put('r', reason) end
  if error_class ~= '' then put('z', error_class) end
  if state == 'SUCCESS' then redis.call('HDEL', KEYS[1], 'k') end
  changed = true
end
if news then
  redis.call('RPUSH', KEYS[3], attempt)
  redis.call('LTRIM', KEYS[3], -100, -1)
  changed = true
end
if #set > 0 then redis.call('HSET', KEYS[1], unpack(set)) end
redis.call('PEXPIRE', KEYS[1], ttl)
redis.call('PEXPIRE', KEYS[2], ttl)
redis.call('PEXPIRE', KEYS[3], ttl)
if changed then redis.call('PUBLISH', channel, 'report') end
return answer
