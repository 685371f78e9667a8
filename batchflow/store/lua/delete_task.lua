-- Record that Flyte deleted the task of a job. The job is due for cancellation after a delay, unless a
-- later attempt takes it over. Flyte does not ask for its end any more. Repeating it changes nothing.
-- KEYS     record, due, recent, counts, events, index, metrics, uncollected
-- ARGV     [1] job id  [2] live states, comma-separated  [3] the attempt whose task was deleted
--          [4] delay in seconds  [5] message  [6] length of the events stream  [7] source
-- returns  scheduled | ended | superseded (a later attempt has the job) | '' if there is no such
--          record
local known = redis.call('HMGET', KEYS[1], 'state', 'kind', 'attempt', 'cancel_requested',
  'delete_at', 'openai_status', 'organization', 'execution', 'created_at')
local state = known[1]
if not state then return '' end
if tonumber(known[3] or 0) > tonumber(ARGV[3]) then return 'superseded' end
local at = now()
redis.call('HSETNX', KEYS[1], 'collected_at', at)
redis.call('ZREM', KEYS[8], ARGV[1])
if not contains(ARGV[2], state) then return 'ended' end
if known[4] or known[5] then return 'scheduled' end
local delete_at = string.format('%.6f', tonumber(at) + tonumber(ARGV[4]))
redis.call('HSET', KEYS[1], 'delete_at', delete_at, 'source', ARGV[7], 'updated_at', at)
redis.call('ZADD', KEYS[2], 'LT', delete_at, ARGV[1])
local job = {id = ARGV[1], kind = known[2], organization = known[7], execution = known[8],
  created_at = known[9]}
record_change(job, state, state, false, '', at,
  {max = ARGV[6], openai_status = known[6] or '', message = ARGV[5], source = ARGV[7]})
return 'scheduled'
