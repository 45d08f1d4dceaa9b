-- Reads a team's totals.
local totals = redis.call('HGET', KEYS[1], 'totals')

