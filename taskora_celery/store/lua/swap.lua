-- Replace a result in Celery's backend if it is still the one that was judged, and announce it as the backend does.
--
-- KEYS  1 the result
-- ARGV  1 what it was, or "" for none  2 what it is to be  3 ttl (s), or 0 for none
-- Returns 1 replaced, 0 it is another by now: nothing was changed
local now = redis.call('GET', KEYS[1])
if (now or '') ~= ARGV[1] then return 0 end
if ARGV[3] ~= '0' then redis.call('SETEX', KEYS[1], ARGV[3], ARGV[2]) else redis.call('SET', KEYS[1], ARGV[2]) end
redis.call('PUBLISH', KEYS[1], ARGV[2])
return 1
