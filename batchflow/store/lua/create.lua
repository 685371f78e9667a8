-- Record a new job, unless it is there.
-- KEYS     job, due, recent, counts, events
-- ARGV     [1] job id  [2] state  [3] seconds until it is due  [4] length of the events stream
--          [5] source  [6...] further fields and values
-- returns  [1] 1 if it was made, 0 if it was there  [2] the record, flat
if redis.call('EXISTS', KEYS[1]) == 1 then
  return {0, redis.call('HGETALL', KEYS[1])}
end
local at = now()
local fields = {'state', ARGV[2], 'source', ARGV[5], 'created_at', at, 'updated_at', at}
local record = {message = '', kind = ''}
for i = 6, #ARGV, 2 do
  fields[#fields + 1] = ARGV[i]
  fields[#fields + 1] = ARGV[i + 1]
  record[ARGV[i]] = ARGV[i + 1]
end
redis.call('HSET', KEYS[1], unpack(fields))
index(ARGV[1], record.kind, nil, ARGV[2], false, ARGV[3], at,
  {max = ARGV[4], openai_status = '', message = record.message, source = ARGV[5]})
return {1, redis.call('HGETALL', KEYS[1])}
