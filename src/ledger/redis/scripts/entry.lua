-- One hold: finding it, and writing it back.

-- What is known of the hold with this id.
local function look(id)
    local member = 'h:' .. id
    local value = redis.call('HGET', HOLDS, member)
    local hold = value and read_live(member, value)
    if hold then
        if hold.ends <= now then
            -- Written by `put`, with whatever else becomes of it.
            hold.live = false
            hold.kind = 'X'
            hold.forget = now + REMEMBER
            hold.was_live = true
        end
        return hold
    end
    value = redis.call('HGET', DONE, member)
    hold = value and read_ended(member, value)
    if hold and hold.kind ~= 'T' then
        return hold
    end
end

-- The holds of a run that are known, the last to be bound first.
local function holds_of(run)
    local holds = {}
    for name in string.gmatch(redis.call('HGET', DONE, 'r:' .. run) or '', '[^ ]+') do
        local hold = look(name)
        if hold and hold.run == '=' .. run then
            holds[#holds + 1] = hold
        end
    end
    return holds
end

-- The hold that is meant: `hold`, `run` or `either`, and its id. Of a run's,
-- the newest that is live, else the newest; and whether `others` are live.
local function find(kind, id)
    local found = kind ~= 'run' and look(id) or nil
    if found or kind == 'hold' then
        return found
    end
    for _, hold in ipairs(holds_of(id)) do
        if not found or hold.live and not found.live then
            found = hold
        elseif hold.live then
            found.others = true
        end
    end
    return found
end

-- Ends a live hold.
local function close(hold, kind)
    hold.live = false
    hold.was_live = true
    hold.kind = kind
    hold.forget = now + REMEMBER
end

-- Writes a hold as it is now.
local function put(hold)
    if hold.was_live then
        finish({hold})
    elseif hold.live then
        redis.call('HSET', HOLDS, hold.member, string.format('%.0f %.0f %.0f %s %s %s',
            hold.credits, hold.hold_for, hold.ends, hold.key, hold.run, hold.uses))
        redis.call('ZADD', DUE, hold.ends, hold.member)
        next_end = math.min(next_end, hold.ends)
    else
        redis.call('HSET', DONE, hold.member, string.format('%.0f %s %.0f %s %s %s',
            hold.forget, hold.kind, hold.credits, hold.figure, hold.key, hold.run))
        redis.call('ZADD', DUE, place(hold.forget), hold.member)
    end
end

-- The reply, as one text: a word and what the hold is like.
local function reply(word, hold, figure, balance)
    return string.format('%s %.0f %s %s %.0f %.0f %s %d %s %d', word, us, string.sub(hold.member, 3), hold.run,
        hold.credits, tonumber(figure) or 0, hold.kind or '', hold.was_live and 1 or 0,
        balance and string.format('%.0f', balance) or '', hold.others and 1 or 0)
end

-- The same, of a hold that is not changed but may be found to have expired.
local function unchanged(word, hold, figure)
    if hold.was_live then
        put(hold)
    end
    forget(32)
    save()
    return reply(word, hold, figure)
end

