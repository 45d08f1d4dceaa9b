-- Settles a hold, or charges a part of what its run costs.
--
-- KEYS[1..3]  as in base.lua, and those of statement.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     'hold', 'run' or 'either'
-- ARGV[3]     the id of that
-- ARGV[4]     'settle' or 'charge'
-- ARGV[5]     the credits
-- ARGV[6]     the id of the charge; nothing if it is a settlement
-- and those of statement.lua
--
-- Replies as release.lua; or corrupt (with the balance), inexact, large, full
-- (with the stream).
local IS_CHARGE, figure, charge = ARGV[4] == 'charge', tonumber(ARGV[5]), 'c:' .. ARGV[6]

local hold = find(ARGV[2], ARGV[3])
if not hold then
    return {'unknown', us}
end
local id = string.sub(hold.member, 3)

if IS_CHARGE then
    local before = redis.call('HGET', DONE, charge)
    if before then
        local until_, amount, of = string.match(before, '^(%d+) (%d+) ([^ ]+)$')
        if until_ and (tonumber(until_) > now or known_until(of)) then
            local is_same = tonumber(amount) == figure and of == id
            return unchanged(is_same and 'again' or 'conflict', hold, amount)
        end
    end
    if hold.kind == 'S' then
        return unchanged('conflict', hold, hold.figure)
    end
elseif hold.figure ~= '-' then
    local is_same = tonumber(hold.figure) == figure
    return unchanged(is_same and 'again' or 'conflict', hold, hold.figure)
end

local after, problem
if IS_WRITER then
    after, problem = add(-figure)
    if not after then
        return problem
    end
    if is_full() then
        return {'full', us, STATEMENT}
    end
    -- A run is written with `=` before it, so that none is `-`.
    local run = hold.run ~= '-' and string.sub(hold.run, 2)
    enter(ARGV[4], -figure, after, ARGV[6], id, run)
end

if IS_CHARGE then
    remember(charge, now + REMEMBER, string.format('%.0f %s', figure, id))
    if hold.live then
        local left = math.max(0, hold.credits - figure)
        held = math.max(0, held - (hold.credits - left))
        hold.credits = left
    end
else
    hold.figure = string.format('%.0f', figure)
    if hold.live then
        close(hold, 'S')
    end
end
if not hold.live then
    -- What was given for it is remembered from now on.
    hold.forget = math.max(hold.forget, now + REMEMBER)
end
put(hold)
forget(32)
save()
return reply('done', hold, figure, after)
