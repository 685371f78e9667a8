-- Wait in a line, in the order in which the jobs were made.
-- KEYS     line, lines
-- ARGV     [1] job id  [2] when it was made  [3] the line's name
-- returns  1 if it did not wait before
redis.call('SADD', KEYS[2], ARGV[3])
return redis.call('ZADD', KEYS[1], 'NX', ARGV[2], ARGV[1])
