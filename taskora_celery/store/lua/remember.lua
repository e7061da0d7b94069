-- Remember that a job was cancelled which may not have begun, for workers that start later.
--
-- KEYS  1 the sorted set of such jobs, by time
-- ARGV  1 now (ms)  2 ttl (ms)  3 how many to keep  4 job
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[4])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. (tonumber(ARGV[1]) - tonumber(ARGV[2])))
redis.call('ZREMRANGEBYRANK', KEYS[1], 0, -1 - tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
