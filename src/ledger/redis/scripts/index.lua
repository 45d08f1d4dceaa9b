-- Puts live holds into the index again, a part of them at a time.
--
-- KEYS[1..3]  as in base.lua, and that of canary.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     where to go on, `0` at first
-- ARGV[3]     how many at a time, more or less
--
-- Replies `indexed`, Redis's clock, and where to go on; `0` at the end.
local found = redis.call('HSCAN', HOLDS, ARGV[2], 'COUNT', ARGV[3])
for i = 1, #found[2], 2 do
    local member = found[2][i]
    local hold = string.sub(member, 1, 2) == 'h:' and read_live(member, found[2][i + 1])
    if hold then
        redis.call('ZADD', DUE, hold.ends, member)
        next_end = math.min(next_end, hold.ends)
    end
end
save()
return {'indexed', us, found[1]}
