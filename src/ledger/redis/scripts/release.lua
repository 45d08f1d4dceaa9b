-- Ends a hold without a cost.
--
-- KEYS[1..3]  as in base.lua, and that of canary.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     'hold', 'run' or 'either'
-- ARGV[3]     the id of that
-- ARGV[4]     'over', or 'not_started' if one start did not begin its run
-- ARGV[5]     for 'not_started': the id of that start's request
--
-- Replies done, again or conflict, each with Redis's clock and the hold: its
-- id, `=run` or `-`, credits, figure, end or nothing, whether it ended by
-- this, the balance or nothing, and whether other holds of the run that it was
-- found by are live; or unknown.
local hold = find(ARGV[2], ARGV[3])

-- A start that was given up must not be made afterwards, by a command that
-- was under way for longer.
local function give_up(ask)
    local there = redis.call('HEXISTS', HOLDS, 'h:' .. ask) == 1
    local past = redis.call('HGET', DONE, 'h:' .. ask)
    if not there and not (past and read_ended('h:' .. ask, past)) then
        remember('h:' .. ask, now + REMEMBER, 'T 0 - - -')
        return true
    end
end

if ARGV[4] == 'over' then
    if not hold then
        return {'unknown', us}
    end
    if not hold.live then
        return unchanged(hold.kind == 'R' and 'again' or 'conflict', hold, hold.figure)
    end
    close(hold, 'R')
    put(hold)
    forget(32)
    save()
    return reply('done', hold)
end

local ask = ARGV[5]
-- The reply that said whose hold is shared may have been lost.
local shared = not hold and redis.call('HGET', DONE, 'a:' .. ask)
if shared then
    local until_, name = string.match(shared, '^(%d+) ([^ ]+)$')
    hold = until_ and tonumber(until_) > now and look(name)
end
if not hold then
    give_up(ask)
    if ARGV[2] == 'hold' then
        give_up(ARGV[3])
    end
    forget(32)
    save()
    return {'unknown', us}
end

local is_own = 'h:' .. ask == hold.member
local is_fresh = not is_own and give_up(ask)
if not hold.live then
    return unchanged(hold.kind == 'R' and 'again' or 'conflict', hold, hold.figure)
end
if hold.uses == '*' then
    return unchanged('done', hold)
end

local uses, found, left = {}, false, false
for use in string.gmatch(hold.uses, '[^,]+') do
    local is_meant = #uses > 0 and use == ask or #uses == 0 and is_own
    if #uses == 0 then
        found = found or is_meant and use == '1'
        uses[1] = is_meant and '0' or use
        left = uses[1] == '1'
    elseif is_meant then
        found = true
    else
        uses[#uses + 1] = use
        left = true
    end
end
if not found then
    return unchanged(is_fresh and 'done' or 'again', hold)
end
hold.uses = table.concat(uses, ',')
if not left then
    close(hold, 'R')
end
put(hold)
forget(32)
save()
return reply('done', hold)
