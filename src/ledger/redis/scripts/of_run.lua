-- The live holds of a run, the last to be bound first. Changes nothing.
--
-- KEYS[1..3]  as in base.lua, and that of canary.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     the run's id
--
-- Replies `holds`, Redis's clock, and the id of each.
local live_ones = {'holds', us}
for _, hold in ipairs(holds_of(ARGV[2])) do
    if hold.live then
        live_ones[#live_ones + 1] = string.sub(hold.member, 3)
    end
end
return live_ones
