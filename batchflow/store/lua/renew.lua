-- Keep a lease, if it is still ours.
-- KEYS     lease
-- ARGV     [1] our token  [2] TTL in milliseconds
-- returns  1 if it is ours, 0 if it is gone or somebody else's
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
