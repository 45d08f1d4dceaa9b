-- The live holds, the next to expire first. Changes nothing.
--
-- KEYS[1..3]  as in base.lua, and that of canary.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     how many at the most, and those that end with the last of them
-- ARGV[3]     only those that end after this, in milliseconds
--
-- Replies `holds`, Redis's clock, after what end there may be more or -1, and
-- of each: its id, `=run` or `-`, its credits, milliseconds until it ends.
local after = string.format('%.0f', math.max(now, tonumber(ARGV[3])))
local members, more = page(after, '(' .. MEMORY, tonumber(ARGV[2]))
local holds = {'holds', us, more or -1}
for _, member in ipairs(members) do
    local value = redis.call('HGET', HOLDS, member)
    local hold = value and read_live(member, value)
    if hold and hold.ends > now then
        holds[#holds + 1] = string.sub(member, 3)
        holds[#holds + 1] = hold.run
        holds[#holds + 1] = hold.credits
        holds[#holds + 1] = hold.ends - now
    end
end
return holds
