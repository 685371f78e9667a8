-- Wait in a line no longer.
-- KEYS     line, lines
-- ARGV     [1] job id  [2] the line's name
-- returns  1 if it waited
local waited = redis.call('ZREM', KEYS[1], ARGV[1])
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[2]) end
return waited
