-- Note a failure of a credential, and until when nobody is to ask with it: exponentially longer,
-- or as long as OpenAI said if that is longer. Failures of requests that were under way together
-- count as one.
-- KEYS     backoff
-- ARGV     [1] first delay in seconds  [2] longest delay in seconds  [3] Retry-After in seconds, 0
--          if none  [4] jitter between 0 and 1  [5] message
-- returns  seconds from now, as text
local at = tonumber(now())
local ends = tonumber(redis.call('HGET', KEYS[1], 'until') or 0)
local delay = tonumber(ARGV[3])
if ends <= at then
  local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
  local longer = math.min(tonumber(ARGV[2]), tonumber(ARGV[1]) * 2 ^ math.min(failures - 1, 30))
  delay = math.max(longer * (0.5 + tonumber(ARGV[4]) / 2), delay)
end
ends = math.max(at + delay, ends)
redis.call('HSET', KEYS[1], 'until', string.format('%.3f', ends), 'message', ARGV[5])
redis.call('EXPIRE', KEYS[1], math.ceil(ends - at) * 2 + 60)
return string.format('%.3f', ends - at)
