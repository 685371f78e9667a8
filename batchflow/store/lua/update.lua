-- Change a job's record, if its state and stage allow the change. An observation that is older than
-- what is known changes nothing but checked_at.
-- KEYS     record, due, recent, counts, events, index, metrics, uncollected, and, if the fields
--          contain a batch_id or an upload's input_file_id, the key that maps that id to the job
-- ARGV     [1] job id  [2] states that may be changed, comma-separated  [3] new state, '' to keep it
--          [4] '1' if the new state is terminal  [5] stage that was observed, '' if none was
--          [6] seconds until the job is due, '' to keep its due time  [7] TTL of the last key, in
--          seconds  [8] length of the events stream  [9] source  [10] the batch that the fields are
--          about, 'none' if the job must not have one, '' if it does not matter
--          [11...] fields and values; an empty value removes the field
-- returns  [1] applied | stale | refused | missing  [2] the state now  [3] cancel_requested
local GROWING = {total = true, completed = true, failed = true, bytes_done = true}

local known = redis.call('HMGET', KEYS[1], 'state', 'kind', 'stage', 'cancel_requested',
  'openai_status', 'message', 'batch_id', 'organization', 'execution', 'created_at')
local state, kind, stage, cancel = known[1], known[2] or '', tonumber(known[3] or 0), known[4] or ''
local status, message = known[5] or '', known[6] or ''
if not state then return {'missing', '', ''} end
if not contains(ARGV[2], state) then
  return {'refused', state, cancel}
end

local at = now()
local observed = tonumber(ARGV[5])
if observed then redis.call('HSET', KEYS[1], 'checked_at', at) end
local stale = (observed and observed > 0 and observed < stage)
  or (ARGV[10] == 'none' and known[7])
  or (ARGV[10] ~= '' and ARGV[10] ~= 'none' and known[7] ~= ARGV[10])
local after = (stale or ARGV[3] == '') and state or ARGV[3]

local set, removed = {}, {}
if not stale then
  for i = 11, #ARGV, 2 do
    local name, value = ARGV[i], ARGV[i + 1]
    if GROWING[name] then
      if value == '' then value = '0' end
      local old = tonumber(redis.call('HGET', KEYS[1], name) or 0)
      value = tostring(math.max(old, tonumber(value)))
    end
    if name == 'openai_status' then status = value end
    -- During a cancellation, the message says who requested it.
    if name == 'message' and cancel ~= '' and ARGV[4] ~= '1' then value = message end
    if value == '' then
      removed[#removed + 1] = name
    else
      set[#set + 1] = name
      set[#set + 1] = value
    end
    if name == 'message' then message = value end
  end
  if KEYS[9] then redis.call('SET', KEYS[9], ARGV[1], 'EX', ARGV[7]) end
  if observed and observed > stage then
    set[#set + 1] = 'stage'
    set[#set + 1] = ARGV[5]
  end
end

local event
if after ~= state or status ~= (known[5] or '') or message ~= (known[6] or '') then
  event = {max = ARGV[8], openai_status = status, message = message, source = ARGV[9]}
  for _, pair in ipairs({'state', after, 'source', ARGV[9], 'updated_at', at}) do
    set[#set + 1] = pair
  end
end
if #set > 0 then redis.call('HSET', KEYS[1], unpack(set)) end
if #removed > 0 then redis.call('HDEL', KEYS[1], unpack(removed)) end
local job = {id = ARGV[1], kind = kind, organization = known[8], execution = known[9],
  created_at = known[10] or ''}
record_change(job, state, after, ARGV[4] == '1' and not stale, ARGV[6], at, event)
return {stale and 'stale' or 'applied', after, cancel}
