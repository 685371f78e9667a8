-- Read the same fields of many records: what costs, for one record, is the round trip.
-- KEYS     jobs
-- ARGV     [1...] fields
-- returns  for each job its fields' values
local found = {}
for i = 1, #KEYS do found[i] = redis.call('HMGET', KEYS[i], unpack(ARGV)) end
return found
