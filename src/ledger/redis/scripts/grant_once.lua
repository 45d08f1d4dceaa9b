-- Adds to a balance, once per id.
--
-- KEYS[1..3]  as in base.lua, and those of statement.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     the credits
-- ARGV[3]     the grant's id
-- ARGV[4]     milliseconds for which the id is remembered
-- and those of statement.lua
--
-- Replies done, again (with the balance) or conflict (with what was granted),
-- after Redis's clock; or corrupt (with the balance), inexact, large, full
-- (with the stream).
local credits, grant = tonumber(ARGV[2]), 'g:' .. ARGV[3]

local before = redis.call('HGET', DONE, grant)
if before then
    local until_, amount = string.match(before, '^(%d+) (%-?%d+)$')
    if until_ and tonumber(until_) > now then
        if tonumber(amount) ~= credits then
            return {'conflict', us, tonumber(amount)}
        end
        local balance, problem = read()
        return balance and {'again', us, balance} or problem
    end
end
local after, problem = add(credits)
if not after then
    return problem
end
if is_full() then
    return {'full', us, STATEMENT}
end
enter('grant', credits, after, ARGV[3])
remember(grant, now + ARGV[4], string.format('%.0f', credits))
forget(32)
save()
return {'done', us, after}
