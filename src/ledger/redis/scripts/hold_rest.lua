-- Sets credits aside: every case but the common one of hold.lua.

-- How much one call forgets. The time that it takes is taken from every other
-- request.
local FORGET = 32
-- How many starts that share a hold are told apart.
local USES = 16

local member = ARGV[3]
local id = string.sub(member, 3)

local mine = there and read_live(member, there)
if mine then
    -- The index may have lost it.
    redis.call('ZADD', DUE, mine.ends, member)
    next_end = math.min(next_end, mine.ends)
end
local past = redis.call('HGET', DONE, member)
if past and read_ended(member, past) or mine and mine.ends <= now then
    save()
    return {'gone', us}
end
if text and not balance and not mine then
    return {'corrupt', us, string.sub(text, 1, 129)}
end

local more = drop(tonumber(ARGV[7]))
forget(FORGET)

-- The reply that the hold is there.
local function made()
    local parts = {string.format('held %.0f %.0f %.0f', us, held, live)}
    for i = 1, #expired, 3 do
        parts[#parts + 1] = string.format('%s %.0f %s', expired[i], expired[i + 1], expired[i + 2])
    end
    return table.concat(parts, ' ')
end

-- Asked again after the reply was lost.
if mine then
    save()
    return made()
end

-- Shares a live hold with another start.
local function share(hold)
    local count, is_known = 0, hold.uses == '*'
    for use in string.gmatch(hold.uses, '[^,]+') do
        is_known = is_known or use == id
        count = count + 1
    end
    if not is_known then
        redis.call('HSET', HOLDS, hold.member, string.format('%.0f %.0f %.0f %s %s %s',
            hold.credits, hold.hold_for, hold.ends, hold.key, hold.run,
            count < USES and hold.uses .. ',' .. id or '*'))
        remember('a:' .. id, hold.ends + REMEMBER, string.sub(hold.member, 3))
    end
end

local route, body = ARGV[11], ARGV[12] or ''
if replay ~= '' then
    local first = redis.call('HGET', DONE, 'k:' .. replay)
    if first then
        local name, first_route, first_body = string.match(first, '^([^ ]+) ([^ ]+) ([^ ]+)$')
        local hold
        if name then
            local running = redis.call('HGET', HOLDS, 'h:' .. name)
            local ended = redis.call('HGET', DONE, 'h:' .. name)
            hold = running and read_live('h:' .. name, running)
                or ended and read_ended('h:' .. name, ended)
        end
        if hold and (hold.live and hold.ends > now or hold.kind == 'S') then
            local other_body = first_body ~= '-' and body ~= '' and first_body ~= body
            if first_route ~= route or other_body then
                save()
                return {'conflict', us, held, live, expired}
            end
            if hold.live then
                share(hold)
            end
            save()
            return {'replayed', us, held, live, expired, name, hold.kind or ''}
        end
    end
end

if not balance then
    save()
    return {'none', us, held, live, expired}
end
if not admits(math.max(-BOUND, balance - held)) then
    save()
    if more then
        return {'more', us, held, live, expired}
    end
    -- What is not in the index does not end. That one hold is not goes for an
    -- audit to find; without most of them it was deleted.
    local known = redis.call('ZCOUNT', DUE, '-inf', '(' .. MEMORY)
    if 2 * known < redis.call('HLEN', HOLDS) - 1 and ARGV[13] ~= 'indexed' then
        return {'lost', us, held, live, expired}
    end
    -- The totals know no more than a time before which none ends.
    local first = redis.call('ZRANGEBYSCORE', DUE, '-inf', '(' .. MEMORY, 'WITHSCORES', 'LIMIT', 0, 1)
    local why = admits(balance) and 'held' or 'short'
    return {'refused', us, held, live, expired, why, balance,
        first[2] and first[2] - now or -1}
end

local key = '-'
if replay ~= '' then
    key = replay
    redis.call('HSET', DONE, 'k:' .. key, id .. ' ' .. route .. ' ' .. (body ~= '' and body or '-'))
end
redis.call('ZADD', DUE, ends, member)
redis.call('HSET', HOLDS, member,
    ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. ends .. ' ' .. key .. ' - 1')
held = held + credits
live = live + 1
next_end = math.min(next_end, ends)
save()
return made()
