-- Claim the jobs that are due: each is due again later, so that no other process claims it now.
-- KEYS     due
-- ARGV     [1] the most jobs to claim  [2] seconds until they are due again
-- returns  their ids
local at = tonumber(now())
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', at, 'LIMIT', 0, ARGV[1])
for _, id in ipairs(ids) do redis.call('ZADD', KEYS[1], at + tonumber(ARGV[2]), id) end
return ids
