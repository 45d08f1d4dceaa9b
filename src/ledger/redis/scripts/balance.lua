-- Adds to a balance, or sets it. Needs no holds.
--
-- KEYS       those of statement.lua
-- ARGV[1]    'grant' or 'set'
-- ARGV[2]    the credits
-- and those of statement.lua
--
-- Replies `done`, Redis's clock and the balance; or corrupt (with the
-- balance), inexact, large, full (with the stream).
local credits = tonumber(ARGV[2])

if ARGV[1] == 'grant' then
    local after, problem = add(credits)
    if not after then
        return problem
    end
    if is_full() then
        return {'full', us, STATEMENT}
    end
    enter('grant', credits, after)
    return {'done', us, after}
end

-- Setting it is how an operator repairs a balance that is none, and restores
-- those that were lost: what cannot be read counts as nothing, and the canary is
-- not looked at.
local text
if IN_FIELD then
    text = redis.call('HGET', BALANCE, FIELD)
else
    text = redis.pcall('GET', BALANCE)
end
local before = type(text) == 'string' and parse(text) or 0
if is_full() then
    return {'full', us, STATEMENT}
end
enter('set', math.max(-BOUND, math.min(BOUND, credits - before)), credits)
return {'done', us, credits}
