-- Acknowledge a message, unless another delivery of it is the one that counts: both have one tag, and one safety copy.
--
-- KEYS  1 unacked_index  2 unacked  3 the claim
-- ARGV  1 tag  2 token
-- Returns 1 removed, 0 there was nothing to remove, -1 taken by another delivery: nothing was changed
local claim = redis.call('GET', KEYS[3])
if claim and claim ~= ARGV[2] then return -1 end
redis.call('ZREM', KEYS[1], ARGV[1])
if claim then redis.call('DEL', KEYS[3]) end
return redis.call('HDEL', KEYS[2], ARGV[1])
