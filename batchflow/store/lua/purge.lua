-- Delete a job that ended longer ago than the retention time. A live job stays.
-- KEYS     record, due, recent, counts, events, index, metrics, uncollected
-- ARGV     [1] job id  [2] live states, comma-separated  [3] retention time in seconds
-- returns  1 if the job is gone, 0 if it stays
local known = fields_of_record('state', 'kind', 'updated_at', 'organization', 'execution')
if known[1] then
  if contains(ARGV[2], known[1]) then return 0 end
  if (tonumber(known[3] or '') or 0) > tonumber(now()) - tonumber(ARGV[3]) then return 0 end
  local kind = known[2] or ''
  redis.call('HINCRBY', KEYS[4], kind .. ':' .. known[1], -1)
  change_index('ZREM', ARGV[1], known[4], known[5], kind, known[1], known[3] or '')
end
redis.call('DEL', KEYS[1])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[1])
redis.call('ZREM', KEYS[8], ARGV[1])
return 1
