-- Read the same fields of several records, in one round trip.
-- KEYS     records
-- ARGV     [1...] fields
-- returns  the fields' values, for each record
local found = {}
for i = 1, #KEYS do found[i] = redis.call('HMGET', KEYS[i], unpack(ARGV)) end
return found
