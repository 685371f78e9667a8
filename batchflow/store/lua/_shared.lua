-- Loaded before every other script.
-- The commands that change a job take its keys in this order:
--   KEYS[1] record, [2] due, [3] recent, [4] counts, [5] events, [6] index, [7] metrics,
--   [8] uncollected

local MAX_HISTORY_BYTES = 4000
local MAX_MESSAGE_BYTES = 300

local function now()
  local t = redis.call('TIME')
  return t[1] .. '.' .. string.format('%06d', t[2])
end

-- When the store was last noticed to be on another server than before, in epoch seconds; 0 if never.
-- A server that was restarted, restored or promoted may have lost the latest changes. A server that
-- does not say its run id is taken for the same one. `number` is the position of the server key.
local function server_changed_at(number)
  local known = redis.call('HMGET', KEYS[number], 'run_id', 'changed_at')
  local answered, info = pcall(redis.call, 'INFO', 'server')
  local run_id = answered and type(info) == 'string' and string.match(info, 'run_id:(%x+)')
  if run_id and run_id ~= known[1] then
    redis.call('HSET', KEYS[number], 'run_id', run_id)
    if known[1] then
      known[2] = now()
      redis.call('HSET', KEYS[number], 'changed_at', known[2])
    end
  end
  return tonumber(known[2] or 0)
end

-- The time this many seconds after `at`, as records have it.
local function later(at, seconds)
  return string.format('%.6f', tonumber(at) + tonumber(seconds))
end

-- Fields of a record that may be anything: none of them if it does not exist, or is not a HASH.
local function fields_of_record(...)
  if redis.call('TYPE', KEYS[1]).ok ~= 'hash' then return {} end
  return redis.call('HMGET', KEYS[1], ...)
end

-- Whether a comma-separated list contains a name.
local function contains(list, name)
  return string.find(',' .. list .. ',', ',' .. name .. ',', 1, true) ~= nil
end

-- The scopes of the index that a job is in: all jobs, its organization, its execution.
local function scopes(organization, execution)
  local found = {'all'}
  if organization then found[#found + 1] = 'org=' .. organization end
  local name = execution and string.match(execution, '^[^/]*/[^/]*/([^/]*)')
  if name then found[#found + 1] = 'execution=' .. name end
  return found
end

-- Add a job to the index (ZADD) or remove it (ZREM); `time` is when it ended, or was created.
local function change_index(command, job_id, organization, execution, kind, state, time)
  for _, scope in ipairs(scopes(organization, execution)) do
    local member = table.concat({scope, kind, state, time, job_id}, ' ')
    if command == 'ZADD' then
      redis.call('ZADD', KEYS[6], 0, member)
    else
      redis.call('ZREM', KEYS[6], member)
    end
  end
end

-- Add a line to the record's history. If it gets too long, the oldest line but the first is removed.
local function add_to_history(event, state, at)
  local message = string.gsub(string.sub(event.message, 1, MAX_MESSAGE_BYTES), '%c', ' ')
  if #event.message > MAX_MESSAGE_BYTES then
    -- Do not cut a character in two.
    message = string.gsub(message, '[\192-\255][\128-\191]*$', '') .. '…'
  end
  -- Servers other than OpenAI's may report a status with control characters.
  local status = string.gsub(event.openai_status, '%c', ' ')
  local line = table.concat(
    {string.format('%d', at), state, status, event.source, message}, '\t')
  local history = redis.call('HGET', KEYS[1], 'history')
  history = history and history .. '\n' .. line or line
  while #history > MAX_HISTORY_BYTES do
    local first = string.find(history, '\n', 1, true)
    local second = first and string.find(history, '\n', first + 1, true)
    if not second then break end
    history = string.sub(history, 1, first) .. string.sub(history, second + 1)
  end
  redis.call('HSET', KEYS[1], 'history', history)
end

-- Update the index, the counts and the due time after a change of a job, and record the event.
-- `job` has id, kind, organization, execution and created_at. `before` is nil for a new job.
-- `due_in` is in seconds from now, '' to keep the due time; it does not put off a deletion.
local function record_change(job, before, after, terminal, due_in, at, event)
  if before ~= after then
    if before then
      redis.call('HINCRBY', KEYS[4], job.kind .. ':' .. before, -1)
      change_index('ZREM', job.id, job.organization, job.execution, job.kind, before,
        job.created_at)
    end
    redis.call('HINCRBY', KEYS[4], job.kind .. ':' .. after, 1)
    change_index('ZADD', job.id, job.organization, job.execution, job.kind, after,
      terminal and at or job.created_at)
    redis.call('HINCRBY', KEYS[7],
      table.concat({'transitions', job.kind, before or '', after}, '|'), 1)
  end
  if terminal then
    redis.call('ZREM', KEYS[2], job.id)
    if before ~= after and job.execution and redis.call('HEXISTS', KEYS[1], 'collected_at') == 0 then
      redis.call('ZADD', KEYS[8], at, job.id)
    end
  elseif due_in ~= '' then
    local delete_at = tonumber(redis.call('HGET', KEYS[1], 'delete_at') or math.huge)
    redis.call('ZADD', KEYS[2], math.min(tonumber(at) + tonumber(due_in), delete_at), job.id)
  end
  if event then
    add_to_history(event, after, at)
    redis.call('ZADD', KEYS[3], at, job.id)
    redis.call('XADD', KEYS[5], 'MAXLEN', '~', event.max, '*', 'job_id', job.id,
      'kind', job.kind, 'before', before or '', 'state', after,
      'openai_status', event.openai_status, 'message', event.message, 'source', event.source)
  end
end

