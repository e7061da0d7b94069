-- Of several who have seen that a message is due, let one put it back: by the time that the others come to it, a worker may
-- have received it again, under the same tag.
--
-- KEYS  1 unacked_index
-- ARGV  1 tag  2 visibility timeout (s)  3 seconds for which nobody else finds it due
-- Returns its new score where it is the caller's to put back, "" where it is no longer due: nothing was changed
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not score then return '' end
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
if tonumber(score) + tonumber(ARGV[2]) > now then return '' end
local taken = string.format('%.6f', now - tonumber(ARGV[2]) + tonumber(ARGV[3]))
redis.call('ZADD', KEYS[1], 'XX', taken, ARGV[1])
return taken
