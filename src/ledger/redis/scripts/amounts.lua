-- Amounts of credits: decimal text to micro-credits and back, as `Credits`
-- does it.
local BOUND = 9007199254740991

-- The amount, rounded down and held to the bounds, and whether it is exact;
-- nothing if the text is not an amount.
local function parse(text)
    if #text > 128 then
        return nil
    end
    local sign, whole, point, fraction = string.match(text, '^([+-]?)(%d+)(%.?)(%d*)$')
    if not whole or (point == '') ~= (fraction == '') then
        return nil
    end
    whole = string.match(whole, '^0*(%d*)$')
    local value = BOUND + 1
    if #whole <= 10 then
        local kept = string.sub(fraction .. '000000', 1, 6)
        value = ('0' .. whole) * 1000000 + kept
    end
    local exact = value <= BOUND
    -- Rounded down is away from zero below it.
    local dropped = string.find(fraction, '[1-9]', 7)
    if dropped then
        exact = false
    end
    if sign == '-' then
        value = dropped and -value - 1 or -value
    end
    return math.max(-BOUND, math.min(BOUND, value)), exact
end

