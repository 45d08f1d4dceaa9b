-- Lets a live hold begin its time anew.
--
-- KEYS[1..3]  as in base.lua, and that of canary.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     'hold', 'run' or 'either'
-- ARGV[3]     the id of that
--
-- Replies as release.lua.
local hold = find(ARGV[2], ARGV[3])
if not hold then
    return {'unknown', us}
end
if not hold.live then
    return unchanged('conflict', hold, hold.figure)
end
hold.ends = now + hold.hold_for
put(hold)
forget(32)
save()
return reply('done', hold)
