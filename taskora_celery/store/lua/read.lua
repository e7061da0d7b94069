-- A job's record, and its journal from a position on, at one moment.
--
-- KEYS  1 record  2 journal  3 attempts
-- ARGV  fields of the record: 1 how many, then their names; then batches to skip ("" for no journal), attempts ("1" or "")
-- Returns { values of the fields, batches removed so far, journal, attempts }
local count = tonumber(ARGV[1])
local record = redis.call('HMGET', KEYS[1], unpack(ARGV, 2, count + 1))
local removed = tonumber(redis.call('HGET', KEYS[1], 'i') or '0') or 0
if not (removed >= 0 and removed < 2 ^ 53) then removed = 0 end  -- damaged: what there is, is read
local journal, attempts = {}, {}
local skip = ARGV[count + 2]
if skip ~= '' then
  local from = tonumber(skip) - removed
  if from < 0 then from = 0 end
  journal = redis.call('LRANGE', KEYS[2], from, -1)
end
if ARGV[count + 3] == '1' then
  attempts = redis.call('LRANGE', KEYS[3], 0, -1)
end
return { record, removed, journal, attempts }
