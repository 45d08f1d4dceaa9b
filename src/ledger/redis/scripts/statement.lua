-- Debits and grants: reading the balance, and writing it with its line.
--
-- The last KEYS are the balance, the statement if the ledger writes it, and the
-- canary if it is looked at. The last six ARGV:
--   'key', or 'field' if the balance is a field of a hash; that field
--   'tollgate' if the ledger writes the balance and its lines, else 'billing'
--   the most lines of the statement
--   'trim' or 'refuse': what happens then
--   'canary' if that is the last key, else nothing
local IN_FIELD, FIELD = ARGV[#ARGV - 5] == 'field', ARGV[#ARGV - 4]
local IS_WRITER = ARGV[#ARGV - 3] == 'tollgate'
local LINES, WHEN_FULL = tonumber(ARGV[#ARGV - 2]), ARGV[#ARGV - 1]
local HAS_CANARY = ARGV[#ARGV] == 'canary'
local LAST = HAS_CANARY and #KEYS - 1 or #KEYS
local BALANCE = KEYS[IS_WRITER and LAST - 1 or LAST]
local STATEMENT = IS_WRITER and KEYS[LAST]

-- What is added to a balance that was lost is lost with it.
if HAS_CANARY and redis.call('EXISTS', KEYS[#KEYS]) == 0 then
    return {'canary', us}
end

-- Micro-credits as decimal text, the shortest.
local function decimal(micro)
    local size = math.abs(micro)
    -- Exact, other than the fraction of a quotient.
    local fraction = math.fmod(size, 1000000)
    local text = string.format('%.0f', (size - fraction) / 1000000)
    if fraction > 0 then
        text = text .. '.' .. string.gsub(string.format('%06.0f', fraction), '0+$', '')
    end
    return micro < 0 and '-' .. text or text
end

-- The balance, and whether it is exact; or nothing, and the reply that says
-- why not.
local function read()
    local text
    if IN_FIELD then
        text = redis.call('HGET', BALANCE, FIELD)
    else
        text = redis.call('GET', BALANCE)
    end
    if not text then
        return 0, true
    end
    local balance, exact = parse(text)
    if not balance then
        return nil, {'corrupt', us, string.sub(text, 1, 129)}
    end
    return balance, exact
end

-- The balance after an addition; or nothing, and the reply that says why not.
local function add(credits)
    local before, exact = read()
    if not before then
        return nil, exact
    end
    if not exact then
        return nil, {'inexact', us}
    end
    local after = before + credits
    if math.abs(after) > BOUND then
        return nil, {'large', us}
    end
    return after
end

-- Whether a line cannot be added.
local function is_full()
    -- The length is asked in any case: that is how a wrong type shows before
    -- anything is written.
    return STATEMENT and redis.call('XLEN', STATEMENT) >= LINES and WHEN_FULL == 'refuse'
end

-- Writes the balance, and its line.
local function enter(kind, credits, after, reference, hold, run)
    if STATEMENT then
        local line = {STATEMENT, 'MAXLEN', LINES, '*',
            'kind', kind, 'credits', decimal(credits), 'balance', decimal(after)}
        local function note(name, value)
            if value and value ~= '' then
                line[#line + 1] = name
                line[#line + 1] = value
            end
        end
        note('reference', reference)
        note('hold', hold)
        note('run', run)
        redis.call('XADD', unpack(line))
    end
    if IN_FIELD then
        redis.call('HSET', BALANCE, FIELD, decimal(after))
    else
        redis.call('SET', BALANCE, decimal(after), 'KEEPTTL')
    end
end

