-- Cancel a job. One that OpenAI can't know of, and a transfer, ends at once; for a batch that may
-- be at OpenAI the wish is noted and the job is due now.
-- KEYS     job, due, recent, counts, events, index, metrics
-- ARGV     [1] job id  [2] live states, with commas  [3] the terminal state
--          [4] the kind that lives at OpenAI  [5] message  [6] length of the events stream
--          [7] source
-- returns  [1] cancelled | requested | refused | missing  [2] the state now
local known = redis.call('HMGET', KEYS[1], 'state', 'kind', 'tries', 'openai_status',
  'organization', 'execution', 'created_at')
local state, kind = known[1], known[2]
if not state then return {'missing', ''} end
if not holds(ARGV[2], state) then
  return {'refused', state}
end
local at = now()
local event = {max = ARGV[6], openai_status = known[4] or '', message = ARGV[5], source = ARGV[7]}
local after = state
if kind ~= ARGV[4] or tonumber(known[3] or 0) == 0 then after = ARGV[3] end
redis.call('HSET', KEYS[1], 'cancel_requested', '1', 'message', ARGV[5], 'state', after,
  'source', ARGV[7], 'updated_at', at)
local job = {id = ARGV[1], kind = kind, organization = known[5], execution = known[6],
  created_at = known[7]}
index(job, state, after, after == ARGV[3], '0', at, event)
return {after == ARGV[3] and 'cancelled' or 'requested', after}
