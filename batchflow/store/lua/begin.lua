-- Count a try before a request is sent whose outcome may stay unknown, unless the job must not
-- continue. A request whose try was not counted was never sent.
-- KEYS     record
-- ARGV     [1] states that may begin, comma-separated  [2] tries when the record was read, '' if it
--          does not matter; if it has more by now, or a batch, another worker has begun
-- returns  [1] begun | cancelled | refused | missing  [2] tries, including this one
local known = redis.call('HMGET', KEYS[1], 'state', 'cancel_requested', 'tries', 'batch_id')
if not known[1] then return {'missing', 0} end
if not contains(ARGV[1], known[1]) then return {'refused', 0} end
if ARGV[2] ~= '' and tonumber(ARGV[2]) ~= tonumber(known[3] or 0) then return {'refused', 0} end
if known[4] then return {'refused', 0} end
if known[2] then return {'cancelled', 0} end
redis.call('HSET', KEYS[1], 'tried_at', now())
return {'begun', redis.call('HINCRBY', KEYS[1], 'tries', 1)}
