-- Say that a request is about to go out whose outcome could stay unknown, unless the job is not
-- to go on. What is not begun was never sent.
-- KEYS     job
-- ARGV     [1] states that may begin, with commas
-- returns  [1] begun | cancelled | refused | missing  [2] tries, this one included
local known = redis.call('HMGET', KEYS[1], 'state', 'cancel_requested')
if not known[1] then return {'missing', 0} end
if not string.find(',' .. ARGV[1] .. ',', ',' .. known[1] .. ',', 1, true) then
  return {'refused', 0}
end
if known[2] then return {'cancelled', 0} end
redis.call('HSET', KEYS[1], 'tried_at', now())
return {'begun', redis.call('HINCRBY', KEYS[1], 'tries', 1)}
