-- Reads a team's totals, and the hold itself if it is there already.
local totals, there = unpack(redis.call('HMGET', KEYS[1], 'totals', ARGV[3]))

