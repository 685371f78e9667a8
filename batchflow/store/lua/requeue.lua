-- Let a job wait in its quota queue, in the order in which the jobs were created. A job that has
-- waited too long, and one whose cancellation was requested, ends instead.
-- KEYS     record, due, recent, counts, events, index, metrics, uncollected, quota queue,
--          quota queues
-- ARGV     [1] job id  [2] live states, comma-separated  [3] length of the events stream  [4] source
--          [5] the batch that was over the limit, 'none' if the job must not have one
--          [6] name of the quota queue  [7] seconds until the job tries again  [8] message, to which
--          its position is added  [9] state of a cancelled job  [10] state of a job that waited too
--          long  [11] its message  [12] the longest wait in seconds, '' for no limit
--          [13] OpenAI's status of the batch, '' to keep it  [14] model, '' to keep it
--          [15] '1' if a batch was over the limit: it is forgotten; '0' if the job has none and only
--          waits behind others  [16] what it waits for
-- returns  [1] applied | stale | refused | missing | first (no job to wait behind; only its place in
--          the queue is recorded)
--          [2] the state now  [3] cancel_requested
local known = redis.call('HMGET', KEYS[1], 'state', 'kind', 'cancel_requested', 'openai_status',
  'message', 'batch_id', 'organization', 'execution', 'created_at', 'waiting_since')
local state, kind, cancel, batch = known[1], known[2], known[3] or '', known[6]
if not state then return {'missing', '', ''} end
if not contains(ARGV[2], state) then return {'refused', state, cancel} end
if (ARGV[5] == 'none' and batch) or (ARGV[5] ~= 'none' and batch ~= ARGV[5]) then
  return {'stale', state, cancel}
end

local at = now()
local since = known[10] or at
local status = ARGV[13] ~= '' and ARGV[13] or known[4] or ''
local message, after = known[5] or '', state
if cancel ~= '' then
  after = ARGV[9]
  if message == '' then message = 'Cancelled.' end
elseif ARGV[12] ~= '' and tonumber(at) - tonumber(since) > tonumber(ARGV[12]) then
  after, message = ARGV[10], ARGV[11]
else
  redis.call('ZADD', KEYS[9], 'NX', known[9], ARGV[1])
  redis.call('SADD', KEYS[10], ARGV[6])
  local ahead = redis.call('ZRANK', KEYS[9], ARGV[1])
  if ahead == 0 and ARGV[15] == '0' then return {'first', state, cancel} end
  local position = ahead == 0 and 'it is next'
    or ahead == 1 and '1 job is ahead of it' or ahead .. ' jobs are ahead of it'
  message = ARGV[8] .. '; ' .. position
  redis.call('HSET', KEYS[1], 'waiting_since', since, 'waiting_for', ARGV[16])
  if ARGV[15] == '1' then redis.call('HDEL', KEYS[1], 'batch_id', 'tries') end
end
if ARGV[14] ~= '' then redis.call('HSET', KEYS[1], 'model', ARGV[14]) end
if status ~= '' then redis.call('HSET', KEYS[1], 'openai_status', status) end

if after ~= state then redis.call('HDEL', KEYS[1], 'waiting_for') end
local event
if after ~= state or status ~= (known[4] or '') or message ~= (known[5] or '') then
  event = {max = ARGV[3], openai_status = status, message = message, source = ARGV[4]}
  redis.call('HSET', KEYS[1], 'state', after, 'message', message, 'source', ARGV[4],
    'updated_at', at)
end
local job = {id = ARGV[1], kind = kind, organization = known[7], execution = known[8],
  created_at = known[9]}
record_change(job, state, after, not contains(ARGV[2], after), ARGV[7], at, event)
return {'applied', after, cancel}
