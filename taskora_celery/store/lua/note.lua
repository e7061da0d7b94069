-- Note what has changed: which jobs there are (those that changed last, and those that have not ended), and what is counted.
--
-- KEYS  1 jobs by their last change of state (ms)  2 jobs that have not ended, by theirs  3 counts
-- ARGV  1 now (ms)  2 ttl (ms)  3 how many of the first to keep  4 and of the second  5 names of counts to keep
--       6 ttl of the counts (ms)
--       7 how many of the jobs that follow have not ended  8 how many have; then those, then these, then names and numbers to add
local going = 8 + tonumber(ARGV[7])
local counts = going + tonumber(ARGV[8])
if counts > 8 then
  for n = 9, counts do
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
end

if #ARGV > counts then
  local names, most = redis.call('HLEN', KEYS[3]), tonumber(ARGV[5])
  for n = counts + 1, #ARGV, 2 do
    local name = ARGV[n]
    if names >= most and redis.call('HEXISTS', KEYS[3], name) == 0 then
      name = string.match(name, '^[^\30]*') -- less the labels that users choose: of those there are not many
    end
    if redis.call('HINCRBY', KEYS[3], name, ARGV[n + 1]) == tonumber(ARGV[n + 1]) then names = names + 1 end
  end
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
end
return 1
