-- Record when OpenAI's lists will show what a try has created: no earlier than was recorded, if
-- another one has begun since.
-- KEYS     record
-- ARGV     [1] tried_at of the try  [2] seconds until then
-- returns  1, or 0 if there is no such record
local known = redis.call('HMGET', KEYS[1], 'state', 'tried_at', 'settled_at')
if not known[1] then return 0 end
local settled_at = later(now(), ARGV[2])
if known[2] ~= ARGV[1] and tonumber(known[3] or 0) > tonumber(settled_at) then return 1 end
redis.call('HSET', KEYS[1], 'settled_at', settled_at)
return 1
