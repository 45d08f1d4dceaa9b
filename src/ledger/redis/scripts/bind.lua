-- Binds a hold to its run.
--
-- KEYS[1..3]  as in base.lua, and that of canary.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     the hold's id
-- ARGV[3]     the run's id
--
-- Replies as release.lua.
local hold = look(ARGV[2])
if not hold then
    return {'unknown', us}
end
local run = '=' .. ARGV[3]
if hold.run ~= '-' then
    return unchanged(hold.run == run and 'again' or 'conflict', hold, hold.figure)
end
-- A run has at most so many: the oldest that has ended goes, else the oldest.
local RUN_HOLDS = 32
local others = holds_of(ARGV[3])
while #others >= RUN_HOLDS do
    local goes = #others
    for i = #others, 1, -1 do
        if not others[i].live then
            goes = i
            break
        end
    end
    table.remove(others, goes)
end
local names = {ARGV[2]}
for _, other in ipairs(others) do
    names[#names + 1] = string.sub(other.member, 3)
end
hold.run = run
redis.call('HSET', DONE, 'r:' .. ARGV[3], table.concat(names, ' '))
put(hold)
forget(32)
save()
return reply('done', hold, hold.figure)
