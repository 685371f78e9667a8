-- Write a worker's heartbeat, and remove workers that have been silent for too long.
-- KEYS     workers
-- ARGV     [1] the worker and its queues  [2] seconds of silence after which a worker is removed
-- returns  the number of workers
local at = tonumber(now())
redis.call('ZADD', KEYS[1], at, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', at - tonumber(ARGV[2]))
return redis.call('ZCARD', KEYS[1])
