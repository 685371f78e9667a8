-- Put before every other script when it is loaded: what they have in common.
-- The commands about one job take its keys in this order:
--   KEYS[1] job record, [2] due, [3] recent, [4] counts, [5] events

local function now()
  local t = redis.call('TIME')
  return t[1] .. '.' .. string.format('%06d', t[2])
end

-- Move the job's entries in all indexes along with its state, and tell the events stream.
-- `before` is nil for a new job; `due_in` is seconds from now, or '' to leave it as it is.
local function index(job_id, kind, before, after, terminal, due_in, at, event)
  if before ~= after then
    if before then redis.call('HINCRBY', KEYS[4], kind .. ':' .. before, -1) end
    redis.call('HINCRBY', KEYS[4], kind .. ':' .. after, 1)
  end
  if terminal then
    redis.call('ZREM', KEYS[2], job_id)
  elseif due_in ~= '' then
    redis.call('ZADD', KEYS[2], tonumber(at) + tonumber(due_in), job_id)
  end
  if event then
    redis.call('ZADD', KEYS[3], at, job_id)
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', event.max, '*', 'job_id', job_id, 'kind', kind,
      'before', before or '', 'state', after, 'openai_status', event.openai_status,
      'message', event.message, 'source', event.source, 'at', at)
  end
end
