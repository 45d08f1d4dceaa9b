-- The balance and what is set aside. Changes nothing: what is due does not
-- count, and is left for somebody who can tell that it expired. It is added up
-- a part at a time.
--
-- KEYS[1..3]  as in base.lua
-- KEYS[4]     the balance
-- KEYS[5]     the canary, if there is one
-- ARGV[1]     as in base.lua
-- ARGV[2]     'key', or 'field' if the balance is a field of a hash
-- ARGV[3]     that field
-- ARGV[4]     how many that are due at the most, and those due with the last
-- ARGV[5]     only those that were due after this, in milliseconds; -1 at first
--
-- Replies `standing`, Redis's clock, the balance or nothing, the totals as
-- they stand or nothing, what is held and how many holds are live by them;
-- of that what is due in this part, and how many; after what time there may
-- be more, or -1.
if KEYS[5] and redis.call('EXISTS', KEYS[5]) == 0 then
    return {'canary', us}
end

local text
if ARGV[2] == 'field' then
    text = redis.call('HGET', KEYS[4], ARGV[3])
else
    text = redis.call('GET', KEYS[4])
end
local members, more = {}, nil
if now >= next_end then
    members, more = page(ARGV[5], now, tonumber(ARGV[4]))
end
local credits, count = 0, 0
for _, member in ipairs(members) do
    local value = redis.call('HGET', HOLDS, member)
    local hold = value and read_live(member, value)
    if hold and hold.ends <= now then
        credits = credits + hold.credits
        count = count + 1
    end
end
return {'standing', us, text, totals, held, live, credits, count, more or -1}
