-- Release a lease that is held with this token.
-- KEYS     lease
-- ARGV     [1] token
-- returns  1 if it was held with this token
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
