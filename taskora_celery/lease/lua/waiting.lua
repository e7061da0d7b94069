-- What waits in lists of messages, and since when: kombu puts messages in at the head and takes them from the tail.
--
-- KEYS  lists
-- Returns for each its length, -1 where the key holds something else, and the publisher's stamp of the message that is taken next
-- (ms), "" where it has none. The message itself, which may be large, stays here.
local found = {}
for _, key in ipairs(KEYS) do
  local length = redis.pcall('LLEN', key)
  local stamp = ''
  if type(length) ~= 'number' then
    length = -1
  elseif length > 0 then
    -- A quote inside of a text is escaped in JSON, so this is found as a key alone.
    stamp = string.match(redis.call('LINDEX', key, -1), '"taskora_created":%s*(%d+)') or ''
  end
  found[#found + 1] = length
  found[#found + 1] = stamp
end
return found
