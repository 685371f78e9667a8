-- Start or extend the pause of a credential after a failure: it doubles with each failure, and lasts
-- at least as long as OpenAI asked for. Failures of requests that were sent before the pause began
-- count as one.
-- KEYS     backoff
-- ARGV     [1] first pause in seconds  [2] longest pause in seconds  [3] Retry-After in seconds, 0
--          if none  [4] jitter between 0 and 1  [5] message
--          [6] what the jobs wait for, '' if Flyte is not to show it
-- returns  the length of the pause in seconds, as text
local at = tonumber(now())
local ends = tonumber(redis.call('HGET', KEYS[1], 'until') or 0)
local delay = tonumber(ARGV[3])
if ends <= at then
  local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
  local longer = math.min(tonumber(ARGV[2]), tonumber(ARGV[1]) * 2 ^ math.min(failures - 1, 30))
  delay = math.max(longer * (0.5 + tonumber(ARGV[4]) / 2), delay)
end
ends = math.max(at + delay, ends)
redis.call('HSET', KEYS[1], 'until', string.format('%.3f', ends), 'message', ARGV[5],
  'waiting_for', ARGV[6])
redis.call('EXPIRE', KEYS[1], math.ceil(ends - at) * 2 + 60)
return string.format('%.3f', ends - at)
