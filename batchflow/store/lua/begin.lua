-- Count a try before a request is sent whose outcome may stay unknown, unless the job must not
-- continue. A request whose try was not counted was never sent, except if the store lost the count:
-- a job from before the server changed is searched for first.
-- KEYS     record, server
-- ARGV     [1] states that may begin, comma-separated  [2] tries when the record was read, '' if it
--          does not matter; if it has more by now, or a batch, another worker has begun
--          [3] seconds until OpenAI's lists show what the request has created
-- returns  [1] begun | search | cancelled | refused | missing  [2] tries, including this one
--          [3] tried_at of this try  [4] tries, [5] tried_at and [6] settled_at before it, '' for none
local known = redis.call('HMGET', KEYS[1], 'state', 'cancel_requested', 'tries', 'batch_id',
  'tried_at', 'settled_at', 'created_at')
local tries = tonumber(known[3] or 0)
if not known[1] then return {'missing', 0} end
if not contains(ARGV[1], known[1]) then return {'refused', 0} end
if ARGV[2] ~= '' and tonumber(ARGV[2]) ~= tries then return {'refused', 0} end
if known[4] then return {'refused', 0} end

local changed_at = server_changed_at(2)
local at = now()
local settled_at = later(at, ARGV[3])
if tonumber(known[7]) <= changed_at
  and tonumber(known[6] or 0) < tonumber(later(changed_at, ARGV[3])) then
  redis.call('HSET', KEYS[1], 'tries', math.max(tries, 1), 'tried_at', known[5] or known[7],
    'settled_at', settled_at)
  return {'search', 0}
end
if known[2] then return {'cancelled', 0} end
redis.call('HSET', KEYS[1], 'tries', tries + 1, 'tried_at', at, 'settled_at', settled_at)
return {'begun', tries + 1, at, known[3] or '', known[5] or '', known[6] or ''}
