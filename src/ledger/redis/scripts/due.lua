-- The index: dropping what is due, forgetting what need not be remembered, and
-- writing the totals. Begins by making sure that all three keys are of their
-- types, so that no write after this can fail.
redis.call('ZCARD', DUE)
redis.call('HLEN', DONE)

local REMEMBER = tonumber(ARGV[1])
local MEMORY = 4000000000000000
-- What need not be remembered is forgotten in batches: the totals say when to
-- look, rounded up to this many milliseconds. The places are exact: equal ones
-- would be ordered by name, which costs the index more.
local BATCH = math.max(1, math.floor(REMEMBER / 64))
local expired = {}
local live_before = live

-- When to look for what may be forgotten then.
local function look_at(when)
    return math.ceil(when / BATCH) * BATCH
end

-- The place in the index of what is remembered until then.
local function place(when)
    next_forget = math.min(next_forget, look_at(when))
    return MEMORY + when
end

-- A live hold's value in parts; nothing if it cannot be read.
local function read_live(member, value)
    local credits, hold_for, ends, key, run, uses =
        string.match(value, '^(%d+) (%d+) (%d+) ([^ ]+) ([^ ]+) ([^ ]+)$')
    if credits then
        return {member = member, live = true, credits = tonumber(credits),
            hold_for = tonumber(hold_for), ends = tonumber(ends),
            key = key, run = run, uses = uses, figure = '-'}
    end
end

-- An ended hold's value in parts; nothing if it is forgotten.
local function read_ended(member, value)
    local forget, kind, credits, figure, key, run =
        string.match(value, '^(%d+) ([RSXT]) (%d+) ([^ ]+) ([^ ]+) ([^ ]+)$')
    if forget and tonumber(forget) > now then
        return {member = member, kind = kind, credits = tonumber(credits),
            forget = tonumber(forget), figure = figure, key = key, run = run}
    end
end

-- Takes away what points to a hold, unless it points to another by now.
local function unlink(field, member)
    local value = redis.call('HGET', DONE, field)
    if value and 'h:' .. string.match(value, '^[^ ]*') == member then
        redis.call('HDEL', DONE, field)
    end
end

-- Takes a hold that is forgotten from those of its run.
local function unbind(field, member)
    local bound = redis.call('HGET', DONE, field)
    local left = {}
    for name in string.gmatch(bound or '', '[^ ]+') do
        if 'h:' .. name ~= member then
            left[#left + 1] = name
        end
    end
    if #left > 0 then
        redis.call('HSET', DONE, field, table.concat(left, ' '))
    elseif bound then
        redis.call('HDEL', DONE, field)
    end
end

-- Moves holds that were live, and now have a `kind` and `forget`, to what is
-- remembered.
local function finish(holds)
    local values, places, members = {}, {}, {}
    for _, hold in ipairs(holds) do
        values[#values + 1] = hold.member
        values[#values + 1] = string.format('%.0f %s %.0f %s %s %s',
            hold.forget, hold.kind, hold.credits, hold.figure, hold.key, hold.run)
        places[#places + 1] = place(hold.forget)
        places[#places + 1] = hold.member
        members[#members + 1] = hold.member
        held = math.max(0, held - hold.credits)
        live = math.max(0, live - 1)
    end
    if #members > 0 then
        redis.call('HSET', DONE, unpack(values))
        redis.call('ZADD', DUE, unpack(places))
        redis.call('HDEL', HOLDS, unpack(members))
    end
    for _, hold in ipairs(holds) do
        -- A settled hold is still shared by replays.
        if hold.kind ~= 'S' and hold.key ~= '-' then
            unlink('k:' .. hold.key, hold.member)
        end
    end
end

-- Drops holds whose time is up, at most so many. True: there are more.
local function drop(limit)
    if now < next_end then
        return false
    end
    local members = redis.call('ZRANGEBYSCORE', DUE, '-inf', now, 'LIMIT', 0, limit)
    local values = #members > 0 and redis.call('HMGET', HOLDS, unpack(members)) or {}
    local over = {}
    for i, member in ipairs(members) do
        local hold = values[i] and read_live(member, values[i])
        if not hold then
            redis.call('ZREM', DUE, member)
        elseif hold.ends > now then
            redis.call('ZADD', DUE, hold.ends, member)
        else
            hold.kind = 'X'
            hold.forget = now + REMEMBER
            over[#over + 1] = hold
            expired[#expired + 1] = string.sub(member, 3)
            expired[#expired + 1] = hold.credits
            expired[#expired + 1] = hold.run
        end
    end
    finish(over)
    local first = redis.call('ZRANGEBYSCORE', DUE, '-inf', '(' .. MEMORY, 'WITHSCORES', 'LIMIT', 0, 1)
    next_end = tonumber(first[2] or NEVER)
    return next_end <= now
end

-- Until when the hold of a charge is known at the least; nothing if it is not
-- known. The ids of charges are known for as long as their hold is: a charge
-- that is sent again finds either both or neither.
local function known_until(id)
    local member = 'h:' .. id
    if redis.call('HEXISTS', HOLDS, member) == 1 then
        return now + REMEMBER
    end
    local past = redis.call('HGET', DONE, member)
    local hold = past and read_ended(member, past)
    -- One that was given up under that id later is another.
    return hold and hold.kind ~= 'T' and hold.forget
end

-- Forgets what need not be remembered, at most so much. True: there is more.
local function forget(limit)
    if now < next_forget then
        return false
    end
    local members = redis.call('ZRANGEBYSCORE', DUE, MEMORY, MEMORY + now, 'LIMIT', 0, limit)
    local values = #members > 0 and redis.call('HMGET', DONE, unpack(members)) or {}
    local gone = {}
    for i, member in ipairs(members) do
        local value = values[i]
        local when = value and tonumber(string.match(value, '^(%d+)'))
        local charged = value and string.match(value, '^%d+ %d+ ([^ ]+)$')
        local known = charged and known_until(charged)
        if known then
            redis.call('ZADD', DUE, place(math.max(known, when)), member)
        elseif when and when > now then
            redis.call('ZADD', DUE, place(when), member)
        else
            gone[#gone + 1] = member
            local key, run
            if value then
                key, run = string.match(value, '^%d+ [RSX] %d+ [^ ]+ ([^ ]+) ([^ ]+)$')
            end
            if key and key ~= '-' then
                unlink('k:' .. key, member)
            end
            if run and run ~= '-' then
                unbind('r:' .. string.sub(run, 2), member)
            end
        end
    end
    if #gone > 0 then
        redis.call('HDEL', DONE, unpack(gone))
        redis.call('ZREM', DUE, unpack(gone))
    end
    local first = redis.call('ZRANGEBYSCORE', DUE, MEMORY, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)
    local when = first[2] and first[2] - MEMORY or NEVER
    next_forget = when <= now and when or when < NEVER and look_at(when) or NEVER
    return when <= now
end

-- Remembers something beside holds.
local function remember(member, until_, rest)
    redis.call('HSET', DONE, member, string.format('%.0f %s', until_, rest))
    redis.call('ZADD', DUE, place(until_), member)
end

-- Writes the totals, if they have changed. A team of which nothing is known
-- any longer leaves no key behind, though nobody comes by again: without live
-- holds the keys expire, until the next hold keeps them.
local function save()
    local expires
    if live == 0 then
        local first = redis.call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
        if not first[2] then
            redis.call('HDEL', HOLDS, 'totals')
            return
        end
        -- The next hold must not pass by here.
        next_end = 0
        -- If the totals are wrong, what is live is kept for an audit.
        if tonumber(first[2]) >= MEMORY then
            local last = redis.call('ZRANGE', DUE, -1, -1, 'WITHSCORES')
            expires = string.format('%.0f', last[2] - MEMORY)
        end
    end
    local new = string.format('1 %.0f %.0f %.0f %.0f', held, live, next_end, next_forget)
    if new ~= totals then
        redis.call('HSET', HOLDS, 'totals', new)
    end
    if not expires and live_before > 0 then
        return
    end
    for _, key in ipairs({HOLDS, DUE, DONE}) do
        if expires then
            redis.call('PEXPIREAT', key, expires)
        else
            redis.call('PERSIST', key)
        end
    end
end

