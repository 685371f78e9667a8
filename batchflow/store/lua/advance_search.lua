-- Record that a search has seen a page, unless another worker has continued it meanwhile.
-- KEYS     search
-- ARGV     [1] started_at  [2] the last id that it had passed before, '' if none  [3] the last id that
--          it has passed now, '' if none  [4] '1' if it is done  [5] TTL in seconds
--          [6] number of jobs that wait no longer  [7...] their ids, then pairs of a job and what it
--          takes if there is nothing better
-- returns  how many jobs wait, -1 if another worker has continued it
local known = redis.call('HMGET', KEYS[1], 'started_at', 'after')
if known[1] ~= ARGV[1] or (known[2] or '') ~= ARGV[2] then return -1 end
if ARGV[3] ~= '' then redis.call('HSET', KEYS[1], 'after', ARGV[3]) end
if ARGV[4] == '1' then redis.call('HSET', KEYS[1], 'done', '1') end
local last = 6 + tonumber(ARGV[6])
for i = 7, last do redis.call('HDEL', KEYS[1], 'waits:' .. ARGV[i]) end
for i = last + 1, #ARGV, 2 do
  local field = 'waits:' .. ARGV[i]
  if (redis.call('HGET', KEYS[1], field) or '') == '' then
    redis.call('HSET', KEYS[1], field, ARGV[i + 1])
  end
end
redis.call('EXPIRE', KEYS[1], ARGV[5])
return redis.call('HLEN', KEYS[1]) - 2
  - redis.call('HEXISTS', KEYS[1], 'after') - redis.call('HEXISTS', KEYS[1], 'done')
