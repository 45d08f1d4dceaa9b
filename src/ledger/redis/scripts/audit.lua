-- Adds a team's holds up again, in one step: about five milliseconds for
-- each thousand holds, in which Redis does nothing else.
--
-- KEYS[1..3]  as in base.lua, and that of canary.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     'report', or 'repair' to put right what is wrong
--
-- Replies `audited`, Redis's clock, what is held and how many holds are live
-- by the totals, by the holds, and the number of strays.
local counted, count = held, live
local sum, number, strays = 0, 0, 0
local ends_of = {}

local values = redis.call('HGETALL', HOLDS)
local unreadable = {}
for i = 1, #values, 2 do
    local member = values[i]
    if member ~= 'totals' then
        local hold = read_live(member, values[i + 1])
        if hold and string.sub(member, 1, 2) == 'h:' then
            ends_of[member] = hold.ends
            sum = sum + hold.credits
            number = number + 1
        else
            unreadable[#unreadable + 1] = member
        end
    end
end
values = nil

-- What the index has of it: what it has too much, at the wrong time, and what
-- it lacks.
local stray, wrong = {}, {}
local index = redis.call('ZRANGEBYSCORE', DUE, '-inf', '(' .. MEMORY, 'WITHSCORES')
for i = 1, #index, 2 do
    local ends = ends_of[index[i]]
    if not ends then
        stray[#stray + 1] = index[i]
    else
        if ends ~= tonumber(index[i + 1]) then
            wrong[index[i]] = ends
            strays = strays + 1
        end
        ends_of[index[i]] = nil
    end
end
for member, ends in pairs(ends_of) do
    wrong[member] = ends
    strays = strays + 1
end
strays = strays + #stray + #unreadable

if ARGV[2] == 'repair' and (strays > 0 or sum ~= counted or number ~= count) then
    for _, member in ipairs(unreadable) do
        redis.call('HDEL', HOLDS, member)
    end
    for _, member in ipairs(stray) do
        redis.call('ZREM', DUE, member)
    end
    for member, ends in pairs(wrong) do
        redis.call('ZADD', DUE, ends, member)
    end
    held, live = sum, number
    local first = redis.call('ZRANGEBYSCORE', DUE, '-inf', '(' .. MEMORY, 'WITHSCORES', 'LIMIT', 0, 1)
    next_end = tonumber(first[2] or NEVER)
    first = redis.call('ZRANGEBYSCORE', DUE, MEMORY, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    next_forget = first[2] and look_at(first[2] - MEMORY) or NEVER
    save()
end
return {'audited', us, counted, count, sum, number, strays}
