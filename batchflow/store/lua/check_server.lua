-- Notice that the store is on another server than before, see server_changed_at.
-- KEYS     server
-- returns  when that was last noticed, epoch seconds; '' if never
server_changed_at(1)
return redis.call('HGET', KEYS[1], 'changed_at') or ''
