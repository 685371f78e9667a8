-- Create a job's record, unless it exists. A later attempt takes over a live job: its task's deletion
-- is forgotten. It replaces a live job whose cancellation was requested.
-- A new store may be one that was emptied, and one on another server may have lost the latest
-- changes. So the record of a job with an identity counts a try in it: the job may have been recorded
-- before, and OpenAI may have its batch or file.
-- KEYS     record, due, recent, counts, events, index, metrics, uncollected, born,
--          credentials, server
-- ARGV     [1] job id  [2] state  [3] seconds until it is due  [4] length of the events stream
--          [5] source  [6] for how many seconds a store, or its server, is new, 0 if the job has
--          no identity
--          [7] the secret that the credential names, in JSON  [8] live states, comma-separated
--          [9] the attempt  [10...] further fields and values
-- returns  [1] 1 if it was created, 0 if it existed  [2] the record, flat
local at = now()
local known = redis.call('HMGET', KEYS[1], 'state', 'kind', 'attempt', 'cancel_requested',
  'openai_status', 'organization', 'execution', 'created_at')
local state = known[1]
if state then
  if contains(ARGV[8], state) and tonumber(ARGV[9]) > tonumber(known[3] or 0) then
    if known[4] then
      redis.call('HSET', KEYS[1], 'replaced', '1')
    else
      redis.call('HSET', KEYS[1], 'attempt', ARGV[9], 'source', ARGV[5], 'updated_at', at)
      redis.call('HDEL', KEYS[1], 'delete_at', 'collected_at')
      local job = {id = ARGV[1], kind = known[2], organization = known[6], execution = known[7],
        created_at = known[8]}
      record_change(job, state, state, false, '', at, {max = ARGV[4],
        openai_status = known[5] or '', source = ARGV[5],
        message = 'Attempt ' .. ARGV[9] .. ' of the task took over this job.'})
    end
  end
  return {0, redis.call('HGETALL', KEYS[1])}
end
local fields = {'state', ARGV[2], 'source', ARGV[5], 'created_at', at, 'updated_at', at}
local record = {message = ''}
for i = 10, #ARGV, 2 do
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = ARGV[i + 1]
  record[ARGV[i]] = ARGV[i + 1]
end
redis.call('SET', KEYS[9], at, 'NX')
if not record.tries then
  local since = tonumber(at) - tonumber(ARGV[6])
  local changed_at = redis.call('HGET', KEYS[11], 'changed_at') or '0'
  if tonumber(changed_at) > since or tonumber(redis.call('GET', KEYS[9])) > since then
    for _, value in ipairs({'tries', '1', 'tried_at', changed_at}) do fields[#fields + 1] = value end
  end
end
redis.call('HSET', KEYS[10], record.credential, ARGV[7])
redis.call('HSET', KEYS[1], unpack(fields))
record.id, record.created_at = ARGV[1], at
record_change(record, nil, ARGV[2], false, ARGV[3], at,
  {max = ARGV[4], openai_status = '', message = record.message, source = ARGV[5]})
return {1, redis.call('HGETALL', KEYS[1])}
