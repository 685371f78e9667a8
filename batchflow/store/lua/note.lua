-- Add a line to a job's history, and an event to the stream, whatever its state. A line that the
-- history has is not repeated.
-- KEYS     record, due, recent, counts, events, index, metrics, uncollected
-- ARGV     [1] job id  [2] length of the events stream  [3] source  [4] message
-- returns  1, or 0 if the line is there already, or there is no such record
local known = redis.call('HMGET', KEYS[1], 'state', 'kind', 'openai_status', 'history')
local state = known[1]
if not state or string.find(known[4] or '', ARGV[4], 1, true) then return 0 end
record_change({id = ARGV[1], kind = known[2]}, state, state, false, '', now(),
  {max = ARGV[2], openai_status = known[3] or '', message = ARGV[4], source = ARGV[3]})
return 1
