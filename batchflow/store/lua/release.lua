-- Give a lease back, if it is still ours.
-- KEYS     lease
-- ARGV     [1] our token
-- returns  1 if it was ours
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
