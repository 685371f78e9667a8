-- Record that Flyte knows the end of a job, or will not ask for it.
-- KEYS     record, uncollected
-- ARGV     [1] job id
-- returns  1, or 0 if there is no such record
redis.call('ZREM', KEYS[2], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSETNX', KEYS[1], 'collected_at', now())
return 1
