-- Extend a lease that is held with this token.
-- KEYS     lease
-- ARGV     [1] token  [2] TTL in milliseconds
-- returns  1 if it is held with this token, 0 if it is free or held with another one
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
