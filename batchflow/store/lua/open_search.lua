-- Let a job wait for the search of a list at OpenAI. If the caller has the search's lease, it gets a
-- search to continue: one that is not done, as long as it can answer for the job or others wait for
-- it; one that is done, and was begun late enough, but must go further back; or else a new one.
-- KEYS     search
-- ARGV     [1] job id  [2] when a search must begin to show what the job has created, epoch seconds
--          [3] how far back it must go, epoch seconds  [4] '1' if the caller has the lease
--          [5] TTL in seconds
-- returns  [1] started_at  [2] not_before  [3] after  [4] done  [5] what the job takes if there is
--          nothing better  [6] how many other jobs wait; [1] is nil if there is no search
local field = 'waits:' .. ARGV[1]
local known = redis.call('HMGET', KEYS[1], 'started_at', 'not_before', 'after', 'done', field)
local others = 0
if known[1] then
  others = redis.call('HLEN', KEYS[1]) - 2
  for i = 3, 5 do
    if known[i] then others = others - 1 end
  end
end
if ARGV[4] == '1' then
  local too_early = known[1] and tonumber(known[1]) < tonumber(ARGV[2])
  if not known[1] or (too_early and (known[4] or others == 0)) then
    redis.call('DEL', KEYS[1])
    redis.call('HSET', KEYS[1], 'started_at', now(), 'not_before', ARGV[3])
  elseif tonumber(known[2]) > tonumber(ARGV[3]) then
    redis.call('HSET', KEYS[1], 'not_before', ARGV[3])
    redis.call('HDEL', KEYS[1], 'done')
  end
elseif not known[1] then
  return {false}
end
redis.call('HSETNX', KEYS[1], field, '')
redis.call('EXPIRE', KEYS[1], ARGV[5])
local found = redis.call('HMGET', KEYS[1], 'started_at', 'not_before', 'after', 'done', field)
found[6] = others
return found
