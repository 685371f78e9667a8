-- Add fields to a record whatever its state.
-- KEYS     record
-- ARGV     [1...] fields and values
-- returns  1, or 0 if there is no such record
if redis.call('EXISTS', KEYS[1]) == 0 then return 0 end
redis.call('HSET', KEYS[1], unpack(ARGV))
return 1
