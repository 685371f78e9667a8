-- Put before every other script when it is loaded: what they have in common.
-- The commands about one job take its keys in this order:
--   KEYS[1] job record, [2] due, [3] recent, [4] counts, [5] events, [6] index, [7] metrics

local MOST_HISTORY_BYTES = 4000
local MOST_MESSAGE_BYTES = 300

local function now()
  local t = redis.call('TIME')
  return t[1] .. '.' .. string.format('%06d', t[2])
end

-- Whether a list with commas holds a name.
local function holds(list, name)
  return string.find(',' .. list .. ',', ',' .. name .. ',', 1, true) ~= nil
end

-- What a job is listed under: everything, its organization, its execution.
local function facets(organization, execution)
  local found = {'all'}
  if organization then found[#found + 1] = 'org=' .. organization end
  local name = execution and string.match(execution, '^[^/]*/[^/]*/([^/]*)')
  if name then found[#found + 1] = 'execution=' .. name end
  return found
end

-- Put a job into the index or take it out; `time` is its place: when it ended, or was made.
local function list(command, job_id, organization, execution, kind, state, time)
  for _, facet in ipairs(facets(organization, execution)) do
    local member = table.concat({facet, kind, state, time, job_id}, ' ')
    if command == 'ZADD' then
      redis.call('ZADD', KEYS[6], 0, member)
    else
      redis.call('ZREM', KEYS[6], member)
    end
  end
end

-- Add a line to the record's history; the oldest but the first gives way when there are many.
local function remember(event, state, at)
  local message = string.gsub(string.sub(event.message, 1, MOST_MESSAGE_BYTES), '%c', ' ')
  if #event.message > MOST_MESSAGE_BYTES then
    -- Not in the middle of a character.
    message = string.gsub(message, '[\192-\255][\128-\191]*$', '') .. '…'
  end
  -- Other servers than OpenAI's may report anything; its own status has no control character.
  local status = string.gsub(event.openai_status, '%c', ' ')
  local line = table.concat(
    {string.format('%d', at), state, status, event.source, message}, '\t')
  local history = redis.call('HGET', KEYS[1], 'history')
  history = history and history .. '\n' .. line or line
  while #history > MOST_HISTORY_BYTES do
    local first = string.find(history, '\n', 1, true)
    local second = first and string.find(history, '\n', first + 1, true)
    if not second then break end
    history = string.sub(history, 1, first) .. string.sub(history, second + 1)
  end
  redis.call('HSET', KEYS[1], 'history', history)
end

-- Move the job's entries in all indexes along with its state, and tell the events stream.
-- `job` has its id, kind, organization, execution and created_at; `before` is nil for a new one;
-- `due_in` is seconds from now, or '' to leave it as it is.
local function index(job, before, after, terminal, due_in, at, event)
  if before ~= after then
    if before then
      redis.call('HINCRBY', KEYS[4], job.kind .. ':' .. before, -1)
      list('ZREM', job.id, job.organization, job.execution, job.kind, before, job.created_at)
    end
    redis.call('HINCRBY', KEYS[4], job.kind .. ':' .. after, 1)
    list('ZADD', job.id, job.organization, job.execution, job.kind, after,
      terminal and at or job.created_at)
    redis.call('HINCRBY', KEYS[7],
      table.concat({'transitions', job.kind, before or '', after}, '|'), 1)
  end
  if terminal then
    redis.call('ZREM', KEYS[2], job.id)
  elseif due_in ~= '' then
    redis.call('ZADD', KEYS[2], tonumber(at) + tonumber(due_in), job.id)
  end
  if event then
    remember(event, after, at)
    redis.call('ZADD', KEYS[3], at, job.id)
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', event.max, '*', 'job_id', job.id,
      'kind', job.kind, 'before', before or '', 'state', after,
      'openai_status', event.openai_status, 'message', event.message, 'source', event.source)
  end
end

