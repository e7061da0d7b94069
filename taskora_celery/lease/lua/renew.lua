-- Renew deliveries in kombu's index of unacknowledged messages, and see which messages nobody renewed in time.
--
-- KEYS  1 unacked_index  2… the claim of each delivery
-- ARGV  1 this worker's clock (s)  2 visibility timeout (s)  3 how many due messages to return, 0 for none
--       4 seconds for which a claim is kept
--       then for each delivery: tag, token (0: not known, its claim is not looked at), and seconds from now on which its score
--       is set, or "" to look only
-- Returns { { how each stands }, { due tag, seconds it is late, … }, seconds until the next is due or "" }
--       1 held, 0 gone: acknowledged or put back, -1 taken by another delivery, -2 looked at, and due
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1000000
local timeout = tonumber(ARGV[2])
-- kombu's sweep goes by its worker's own clock: the later of the two is safe with a Redis on another machine.
local base = math.max(now, tonumber(ARGV[1]))
local held = {}
for n = 2, #KEYS do
  local at = 3 * n - 1
  local tag, token, shift = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local claim = token ~= '0' and redis.call('GET', KEYS[n])
  if claim and claim ~= token then
    held[n - 1] = -1
  else
    if claim and shift ~= '' then redis.call('EXPIRE', KEYS[n], ARGV[4]) end
    local score = redis.call('ZSCORE', KEYS[1], tag)
    if not score then
      held[n - 1] = 0
    elseif shift ~= '' then
      -- XX: a score that is created after an acknowledgement would be an orphan for ever.
      redis.call('ZADD', KEYS[1], 'XX', string.format('%.6f', base + tonumber(shift)), tag)
      held[n - 1] = 1
    else
      held[n - 1] = tonumber(score) + timeout <= now and -2 or 1
    end
  end
end
local due, next_due = {}, ''
if tonumber(ARGV[3]) > 0 then
  local oldest = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[3]) - 1, 'WITHSCORES')
  for n = 1, #oldest, 2 do
    local late = now - timeout - tonumber(oldest[n + 1])
    if late >= 0 then
      due[#due + 1] = oldest[n]
      due[#due + 1] = string.format('%.3f', late)
    else
      next_due = string.format('%.3f', -late)
      break
    end
  end
end
return { held, due, next_due }
