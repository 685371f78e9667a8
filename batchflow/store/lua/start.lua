-- Count the start of a step in the record, and read the record. A start stays counted if the step
-- kills its worker. With a batch nothing is counted: the batch is paid, and must not be given up.
-- KEYS     record
-- ARGV     [1] live states, comma-separated
-- returns  the record, flat; empty if there is none
local known = redis.call('HMGET', KEYS[1], 'state', 'batch_id')
if known[1] and contains(ARGV[1], known[1]) and not known[2] then
  redis.call('HINCRBY', KEYS[1], 'starts', 1)
end
return redis.call('HGETALL', KEYS[1])
