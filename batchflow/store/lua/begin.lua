-- Say that a request is about to go out whose outcome could stay unknown, unless the job is not
-- to go on. What is not begun was never sent.
-- KEYS     job
-- ARGV     [1] states that may begin, with commas  [2] tries when the record was read, '' if it
--          does not matter; if it has more by now, or a batch, another worker has been at it, and
--          it is refused
-- returns  [1] begun | cancelled | refused | missing  [2] tries, this one included
local known = redis.call('HMGET', KEYS[1], 'state', 'cancel_requested', 'tries', 'batch_id')
if not known[1] then return {'missing', 0} end
if not holds(ARGV[1], known[1]) then return {'refused', 0} end
if ARGV[2] ~= '' and tonumber(ARGV[2]) ~= tonumber(known[3] or 0) then return {'refused', 0} end
if known[4] then return {'refused', 0} end
if known[2] then return {'cancelled', 0} end
redis.call('HSET', KEYS[1], 'tried_at', now())
return {'begun', redis.call('HINCRBY', KEYS[1], 'tries', 1)}
