-- A worker's heartbeat; those that have been silent for long are forgotten.
-- KEYS     workers
-- ARGV     [1] the worker and its queues  [2] seconds after which one is forgotten
-- returns  the number of those that are known
local at = tonumber(now())
redis.call('ZADD', KEYS[1], at, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at - tonumber(ARGV[2]))
return redis.call('ZCARD', KEYS[1])
