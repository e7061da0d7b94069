-- Note which jobs there are: those that changed last, and those that have not ended.
--
-- KEYS  1 jobs by their last change of state (ms)  2 jobs that have not ended, by theirs
-- ARGV  1 now (ms)  2 ttl (ms)  3 how many of the first to keep  4 and of the second
--       5 how many of the jobs that follow have not ended; then those, then the ones that have
local going = 5 + tonumber(ARGV[5])
for n = 6, #ARGV do
  redis.call('ZADD', KEYS[1], ARGV[1], ARGV[n])
  if n <= going then
    redis.call('ZADD', KEYS[2], ARGV[1], ARGV[n])
  else
    redis.call('ZREM', KEYS[2], ARGV[n])
  end
end
for n = 1, 2 do
  redis.call('ZREMRANGEBYRANK', KEYS[n], 0, -1 - tonumber(ARGV[n + 2]))
  redis.call('PEXPIRE', KEYS[n], ARGV[2])
end
return 1
