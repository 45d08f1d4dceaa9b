-- The members of the index with a time after `after` and not after `last`, so
-- many and whichever have the same time as the last of them; and the time
-- after which there may be more, or nothing. A page begins at a time, not at
-- a place: between two pages members come and go.
local function page(after, last, limit)
    local members = redis.call('ZRANGEBYSCORE', DUE, '(' .. after, last, 'LIMIT', 0, limit)
    if #members < limit then
        return members
    end
    local at = redis.call('ZSCORE', DUE, members[#members])
    return redis.call('ZRANGEBYSCORE', DUE, '(' .. after, at), tonumber(at)
end

