-- Cancel a job. A transfer, and a job that OpenAI cannot know of, ends at once. For a job that may
-- have a batch, the request is recorded and the job is due now.
-- KEYS     record, due, recent, counts, events, index, metrics, uncollected
-- ARGV     [1] job id  [2] live states, comma-separated  [3] the terminal state
--          [4] the kind that has batches  [5] message  [6] length of the events stream  [7] source
--          [8] '1' to cancel it only if Flyte deleted its task and the delay has passed
-- returns  [1] cancelled | requested | ended | '' if there is no such record, or it is too early
--          [2] the state now
local known = redis.call('HMGET', KEYS[1], 'state', 'kind', 'tries', 'openai_status',
  'organization', 'execution', 'created_at', 'delete_at')
local state, kind = known[1], known[2]
if not state then return {'', ''} end
if not contains(ARGV[2], state) then
  return {'ended', state}
end
local at = now()
if ARGV[8] == '1' and tonumber(known[8] or math.huge) > tonumber(at) then return {'', state} end
local event = {max = ARGV[6], openai_status = known[4] or '', message = ARGV[5], source = ARGV[7]}
local after = state
if kind ~= ARGV[4] or tonumber(known[3] or 0) == 0 then after = ARGV[3] end
redis.call('HSET', KEYS[1], 'cancel_requested', '1', 'message', ARGV[5], 'state', after,
  'source', ARGV[7], 'updated_at', at)
redis.call('HDEL', KEYS[1], 'delete_at', 'waiting_for')
local job = {id = ARGV[1], kind = kind, organization = known[5], execution = known[6],
  created_at = known[7]}
record_change(job, state, after, after == ARGV[3], '0', at, event)
return {after == ARGV[3] and 'cancelled' or 'requested', after}
