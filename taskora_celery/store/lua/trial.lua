-- Does in small what the other scripts do, and leaves nothing behind: whoever may run this may keep records here.
--
-- KEYS  1 a key of its own
-- ARGV  1 ttl (ms), where something refuses in the middle  2 a channel
-- Returns 1
redis.call('TIME')
redis.call('HSET', KEYS[1], 's', '1')
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('HINCRBY', KEYS[1], 's', 1)
redis.call('HDEL', KEYS[1], 's')
redis.call('RPUSH', KEYS[1], '1')
redis.call('LRANGE', KEYS[1], 0, -1)
redis.call('DEL', KEYS[1])
redis.call('ZADD', KEYS[1], 1, '1')
redis.call('DEL', KEYS[1])
redis.call('PUBLISH', ARGV[2], 'trial')
return 1
