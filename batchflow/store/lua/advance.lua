-- Take a job out of a quota queue and find the first one that still waits there. Jobs that have
-- ended, and those whose batch OpenAI has admitted, are removed on the way.
-- The key of the first job's record has to be declared. So the command returns the job's id, and
-- the caller repeats the command with it.
-- KEYS     quota queue, quota queues, due, record of the first job
-- ARGV     [1] id of the job that leaves, '' for none  [2] '1' to continue even if it did not wait
--          [3] id of the job that KEYS[4] belongs to, '' if it is not known yet
--          [4] live states, comma-separated  [5] OpenAI's statuses of admitted batches,
--          comma-separated  [6] name of the quota queue  [7] '1' to make the first job due now
-- returns  [1] 1 if done, 0 if the command has to be repeated  [2] id of the first job, '' if none waits
local left = ARGV[1] ~= '' and redis.call('ZREM', KEYS[1], ARGV[1]) or 0
if ARGV[3] == '' and left == 0 and ARGV[2] ~= '1' then return {1, ''} end
local first = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
if first and first == ARGV[3] then
  local known = redis.call('HMGET', KEYS[4], 'state', 'batch_id', 'openai_status')
  local admitted = known[2] and contains(ARGV[5], known[3] or '')
  if known[1] and contains(ARGV[4], known[1]) and not admitted then
    if ARGV[7] == '1' then redis.call('ZADD', KEYS[3], now(), first) end
    return {1, first}
  end
  redis.call('ZREM', KEYS[1], first)
  first = redis.call('ZRANGE', KEYS[1], 0, 0)[1]
end
if first then return {0, first} end
redis.call('SREM', KEYS[2], ARGV[6])
return {1, ''}
