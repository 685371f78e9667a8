-- Make a live job due now if it has no due time.
-- KEYS     record, due
-- ARGV     [1] job id  [2] live states, comma-separated
-- returns  1 if it had none, 0 if it has one, or has ended, or has no record
local state = fields_of_record('state')[1]
if not state or not contains(ARGV[2], state) then return 0 end
return redis.call('ZADD', KEYS[2], 'NX', now(), ARGV[1])
