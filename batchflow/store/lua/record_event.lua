-- Record that events happened now.
-- KEYS     pulse
-- ARGV     [1...] names and values: 'now', or a number
-- returns  the time
local at = now()
for i = 1, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1] == 'now' and at or ARGV[i + 1])
end
return at
