-- Take back a try whose request had no effect, unless another one has begun since.
-- KEYS     record
-- ARGV     [1] tried_at of the try  [2] tries, [3] tried_at and [4] settled_at before it, '' for none
-- returns  1, or 0 if nothing was changed
if redis.call('HGET', KEYS[1], 'tried_at') ~= ARGV[1] then return 0 end
for i, name in ipairs({'tries', 'tried_at', 'settled_at'}) do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[1], name)
  else
    redis.call('HSET', KEYS[1], name, ARGV[i + 1])
  end
end
return 1
