-- Put a live job aside whose record a worker cannot read, and say whether its time is over.
-- KEYS     record, due, unreadable
-- ARGV     [1] job id  [2] terminal states, comma-separated  [3] seconds until the job is due again
--          [4] its lifetime in seconds from its creation, if the record has no expires_at
-- returns  [1] new | known | overdue (past its lifetime) | gone (ended, or not a record: no longer
--          due)  [2] the state now
local known = fields_of_record('state', 'created_at', 'expires_at')
local state = known[1] or ''
if state == '' or contains(ARGV[2], state) then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('SREM', KEYS[3], ARGV[1])
  return {'gone', state}
end
local at = tonumber(now())
redis.call('ZADD', KEYS[2], at + tonumber(ARGV[3]), ARGV[1])
local added = redis.call('SADD', KEYS[3], ARGV[1])
local ends = tonumber(known[3] or '') or (tonumber(known[2] or '') or 0) + tonumber(ARGV[4])
if at > ends then return {'overdue', state} end
return {added == 1 and 'new' or 'known', state}
