-- A delivery of a job begins: count it, take the fence, and return what the context needs.
--
-- KEYS  1 record  2 journal  3 attempts
-- ARGV  1 these values, packed together:
--       now (ms), ttl (ms), task name, attempt, redelivered ("1" or ""), worker,
--       stamp: when the publisher created the job (ms), or 0 where it did not say,
--       channel, wanted: the fence that the caller uses already (a number), or 0, tag of the delivery, its token,
--       anyway ("1": run it also where its outcome is recorded), id of the trace, or "",
--       over ("1": it has run already, and Celery has stored how it ended)
-- Returns { fence, delivery, created, checkpoint or "", attempts, stalls, cancel request or "" }, or for the delivery of a job
-- of which no more is known "<fence> <delivery> <stalls> <created>": the client reads one value in a sixth of the time
-- It has "1" after these where nobody has told how the delivery before had ended.
-- fence 0: a later delivery holds the job, -1: this fence cannot be had, -2: this message's outcome is recorded, -3: its retry has
-- begun; in all four nothing was changed; -4: it is cancelled, and does not begin
local now, ttl, name, number, redelivered, worker, stamped, channel, wanted, tag, token, anyway, trace, over =
  unpack(cmsgpack.unpack(ARGV[1]))
local old = redis.call('HMGET', KEYS[1], 's', 'a', 'd', 'f', 'w', 'c', 'b', 'k', 'u', 'l', 'x', 'j', 'z', 'e', 'r', 'o')
local known, state, attempt, delivery, fence = old[1], old[1], old[2], tonumber(old[3] or '0'), tonumber(old[4] or '0')
local stamp, stalls = tonumber(stamped), tonumber(old[11] or '0')
local created = old[6] or (stamp > 0 and stamped or now)
local request, unheard = old[12], nil
-- A loss too many ended the job, and the message came all the same: that delivery was lost like those before it.
local failed = state == 'FAILURE' and old[13] == 'JobStalledError'
local same = tag ~= '' and old[10] == tag and attempt == number

-- The same beginning again: its answer was lost on the way, and the execution took a fence of its own, or asks for one. Nobody
-- but this delivery has its token; where there is none, no other delivery began on this worker in this millisecond.
local again = state == 'STARTED' and attempt == number and old[10] == tag and old[16] == token
  and old[5] == worker and old[7] == now and (token ~= '0' or wanted > fence)

if wanted > 0 and fence == wanted then
  return { old[4], delivery, created, '', {}, stalls, '' } -- sent once more with the fence that it has
end
if again and wanted > 0 and fence > wanted then
  return { '-1', 0, created, '', {}, stalls, '' } -- a clock that lags behind: to be asked again without a fence of its own
end

if request and (state == 'REVOKED' or state == 'STARTED' or state == 'LOST') then
  -- A request holds for the first message that comes of a job that had none, for every delivery of that message, and for its
  -- retries. Another message under the same id was sent anew.
  local other = old[10] and old[10] ~= tag and tonumber(number) <= tonumber(attempt or '0')
  if wanted > 0 and over == '1' then
    if state == 'REVOKED' then state = false end -- it has run meanwhile, and is over
  elseif wanted > 0 and not old[10] then
    -- It runs already: it began in the moment of the request, and was not registered yet. It is asked to stop.
    state = false
  elseif not other and not again then
    if state ~= 'REVOKED' then
      local readable, asked = pcall(cmsgpack.unpack, string.sub(request, 2)) -- a damaged one is a request all the same
      local reason = readable and type(asked) == 'table' and asked[3]
      redis.call('HSET', KEYS[1], 'r', type(reason) == 'string' and reason or '', 'z', 'JobCancelledError')
      redis.call('PUBLISH', channel, 'begin')
    end
    redis.call('HSET', KEYS[1], 's', 'REVOKED', 'l', tag, 'a', number, 'n', name, 'c', created)
    redis.call('HSETNX', KEYS[1], 'e', now)
    for n = 1, 3 do redis.call('PEXPIRE', KEYS[n], ttl) end
    return { '-4', 0, created, '', {}, stalls, request }
  end
end

local final = state == 'SUCCESS' or state == 'FAILURE' or state == 'REVOKED'
-- The job whose outcome is recorded was created before this one, or a message with the same number had another tag.
local anew = final and (stamp > tonumber(old[6] or '0')
  or attempt == number and tag ~= '' and old[10] ~= '' and old[10] ~= tag
  or redelivered == '' and tonumber(number) <= tonumber(attempt or '0'))

if redelivered ~= '' and not anew and attempt and tonumber(attempt) > tonumber(number) and state ~= 'IGNORED' then
  return { '-3', 0, created, '', {}, stalls, '' }
end

-- An earlier attempt of the job whose outcome is recorded: it was begun in an outage, and is told of only now.
local late = final and (wanted > 0 or tonumber(now) < tonumber(old[14] or '0')) and attempt and tonumber(number) < tonumber(attempt)
  and (stamp > 0 and stamp <= tonumber(old[6] or '0') or stamp == 0 and tonumber(now) < tonumber(old[7] or '0'))

if late then
  return { '0', 0, created, '', {}, stalls, '' }
end

if final then
  if same and anyway == '' then
    -- The message of the outcome: an earlier delivery of it that registers late, or it was delivered once more.
    return { redelivered == '' and '0' or '-2', 0, created, '', {}, stalls, '' }
  end
  if anew then
    if wanted > 0 and wanted <= fence then
      return { '-1', 0, created, '', {}, stalls, '' } -- a clock that lags behind: to be asked again without a fence of its own
    end
    -- The same id was sent anew: a job of its own, only the fence goes on growing.
    redis.call('DEL', KEYS[1], KEYS[2], KEYS[3])
    request = false
    old[8], attempt, created, stalls = false, false, stamp > 0 and stamped or now, 0
  end
  state = false
elseif state == 'IGNORED' then
  -- The task was replaced by another under its id: the job goes on, and so does its log.
  if wanted > 0 and wanted <= fence then
    return { '-1', 0, created, '', {}, stalls, '' }
  end
  state, attempt = false, false
elseif wanted > 0 and fence > wanted then
  return { '0', 0, created, '', {}, stalls, '' }
end

if attempt == number then
  if not again then delivery = delivery + 1 end
  if not again and state == 'STARTED' or failed then
    local before, started = old[5] or '', tonumber(old[7] or now)
    local ended, reason = tonumber(now), 'no outcome from ' .. before
    if failed then
      ended, reason = tonumber(old[14] or now), old[15] or ''
    else
      stalls, unheard = stalls + 1, '1' -- the delivery before was never heard of again, and nobody has said so yet
    end
    local lost = { number = tonumber(attempt), delivery = delivery - 1, worker = before, started_ms = started,
      outcome = 'LOST', duration = (ended - started) / 1000, reason = reason }
    redis.call('RPUSH', KEYS[3], cmsgpack.pack(lost))
    redis.call('LTRIM', KEYS[3], -100, -1)
    redis.call('PEXPIRE', KEYS[3], ttl)
  end
else
  -- The delivery before may have ended (a killed process) before it was registered.
  delivery = redelivered == '1' and 2 or 1
end

-- Wall-clock microseconds as the floor: the fence keeps growing even where the record had expired or was lost.
local floor = wanted
if floor == 0 then
  local clock = redis.call('TIME')
  floor = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
end
local taken = fence + 1
if taken < floor then taken = floor end
local fields = { 's', 'STARTED', 'n', name, 'a', number, 'd', delivery, 'f', string.format('%.0f', taken),
  'w', worker, 'c', created, 'b', now, 'h', now, 'u', again and old[9] or '0', 'l', tag, 'o', token }
if stalls > 0 then
  fields[#fields + 1] = 'x'
  fields[#fields + 1] = stalls
end
if trace ~= '' then
  fields[#fields + 1] = 'T'
  fields[#fields + 1] = trace
end
if state == 'RETRY' then
  -- The attempt before may still be unwinding: its last log entries are welcome, nothing else of it is.
  fields[#fields + 1] = 'g'
  fields[#fields + 1] = old[4]
  fields[#fields + 1] = 'v'
  fields[#fields + 1] = old[9] or '0'
end
if known then redis.call('HDEL', KEYS[1], 'e', 'r', 'z') end
redis.call('HSET', KEYS[1], unpack(fields))
redis.call('PEXPIRE', KEYS[1], ttl)

local attempts = {}
if known then
  attempts = redis.call('LRANGE', KEYS[3], 0, -1)
  redis.call('PEXPIRE', KEYS[2], ttl)
  redis.call('PEXPIRE', KEYS[3], ttl)
end
redis.call('PUBLISH', channel, 'begin')
if not old[8] and not request and #attempts == 0 then
  return string.format('%.0f %d %d %s', taken, delivery, stalls, created)
end
return { string.format('%.0f', taken), delivery, created, old[8] or '', attempts, stalls, request or '', unheard }
