-- Sets credits aside: the common case, in which the team has other holds,
-- nothing is due, nothing is replayed, and there is enough. Anything else goes
-- on in hold_rest.lua. The keys are of their types when something is written:
-- both hashes were read, and the index is the first to be written to.
--
-- KEYS[1..3]  as in base.lua
-- KEYS[4]     the balance
-- KEYS[5]     the canary, if there is one
-- ARGV[1]     as in base.lua
-- ARGV[2]     Redis's clock in microseconds after which it is too late
-- ARGV[3]     h:<id>
-- ARGV[4]     the credits, more than zero
-- ARGV[5]     after how many milliseconds the hold ends
-- ARGV[6]     what must be left is more than this many credits
-- ARGV[7]     how many holds that are due are dropped at the most
-- Nothing of the rest is given that has only empty ones behind it:
-- ARGV[8]     'field' if the balance is a field of a hash; anything else, or
--             nothing, counts as a key
-- ARGV[9]     that field
-- ARGV[10]    the idempotency key, or nothing; then
-- ARGV[11]    the route, and
-- ARGV[12]    the body, or nothing
-- ARGV[13]    'indexed' if the index was made anew for this, else nothing
--
-- Replies, each with Redis's clock, what is held, how many holds are live and
-- the holds that expired (id, credits, `=run` or `-`, …):
--   held        as one text
--   replayed    the hold, and `S` if it is settled, else nothing
--   refused     `held` or `short`, the balance, the next end in ms or -1
--   none        there is no balance
--   conflict    the idempotency key belongs to another request
--   more        it would be refused, but more holds are due: ask again
--   lost        it would be refused, but the index is lost: make it anew
-- or without those:
--   late, gone, canary, corrupt (with the balance), layout (with the version)
if us > tonumber(ARGV[2]) then
    return {'late', us}
end
if KEYS[5] and redis.call('EXISTS', KEYS[5]) == 0 then
    return {'canary', us}
end

local text
if ARGV[8] == 'field' then
    text = redis.call('HGET', KEYS[4], ARGV[9])
else
    text = redis.call('GET', KEYS[4])
end
local balance
if text then
    balance = parse(text)
end
local credits = tonumber(ARGV[4])
local replay = ARGV[10] or ''
local ends = now + ARGV[5]

local function admits(spendable)
    return spendable > tonumber(ARGV[6]) and spendable >= credits
end

if balance and totals and not there and now < next_end and now < next_forget and replay == ''
        and admits(math.max(-BOUND, balance - held))
        -- Nor was it there before.
        and redis.call('HEXISTS', DONE, ARGV[3]) == 0 then
    held = held + credits
    live = live + 1
    redis.call('ZADD', DUE, ends, ARGV[3])
    redis.call('HSET', HOLDS,
        'totals', string.format('1 %.0f %.0f %.0f %.0f', held, live, math.min(next_end, ends), next_forget),
        ARGV[3], ARGV[4] .. ' ' .. ARGV[5] .. ' ' .. ends .. ' - - 1')
    return string.format('held %.0f %.0f %.0f', us, held, live)
end

