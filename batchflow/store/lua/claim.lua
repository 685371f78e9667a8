-- Take the jobs that are due, and put each off so that nobody else takes it meanwhile.
-- KEYS     due
-- ARGV     [1] at most how many  [2] seconds for which they are put off
-- returns  their ids
local at = tonumber(now())
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', at, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], at + tonumber(ARGV[2]), id) end
return ids
