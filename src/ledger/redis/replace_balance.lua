#!lua
-- Replaces a balance, but only if it is still what the caller has read.
--
-- The caller reads the balance, works out the new one exactly (Lua's numbers
-- are doubles and would round it) and comes here to write it. Of several
-- callers that read the same balance one succeeds; the others read again.
--
-- KEYS[1]  the balance: a string, or a hash if ARGV[1] is 'field'
-- ARGV[1]  'key' or 'field'
-- ARGV[2]  the field's name; not looked at for 'key'
-- ARGV[3]  'present' or 'absent': whether the caller found a balance
-- ARGV[4]  the balance that the caller found, byte for byte; not looked at for 'absent'
-- ARGV[5]  the balance to write
--
-- Example: KEYS {'credits:{acme}'}  ARGV {'key', '', 'present', '20', '25.5'}
--
-- Replies 1 if it was replaced; 0 if it has changed since and nothing was written.
-- A time to live stays as it was.
assert(#KEYS == 1, 'one key')
assert(#ARGV == 5, 'five arguments')

local in_hash = ARGV[1] == 'field'

local found
if in_hash then
    found = redis.call('HGET', KEYS[1], ARGV[2])
else
    found = redis.call('GET', KEYS[1])
end

-- A missing balance reads as false.
local expected = ARGV[3] == 'present' and ARGV[4]
if found ~= expected then
    return 0
end

if in_hash then
    redis.call('HSET', KEYS[1], ARGV[2], ARGV[5])
else
    redis.call('SET', KEYS[1], ARGV[5], 'KEEPTTL')
end
return 1
