-- What every script about holds begins with: a team's totals, as they were
-- read just now.
--
-- KEYS[1]  tollgate:holds:{team}  hash: `totals`, and a live hold under `h:<id>`
-- KEYS[2]  tollgate:due:{team}    zset: when each member's time is up (below)
-- KEYS[3]  tollgate:done:{team}   hash: what is remembered (below)
-- ARGV[1]  milliseconds for which what ended is remembered
--
-- Amounts are whole micro-credits within 2^53 - 1, times are milliseconds.
-- `..` writes numbers of more than 14 digits in another way: amounts are
-- written with %.0f.
--
-- totals   1 <held> <live> <next end> <next forgotten>
--          The 1 is the version of all of this. The last two are never later
--          than the first time in the index, so that it need not be asked.
--          While no hold is live the next end is 0, and the three keys expire
--          when the last of what is remembered may be forgotten.
-- h:<id>   <credits> <hold for> <ends> <idempotency key|-> <=run|-> <uses>
--          Uses: `1` if the hold's own start may have begun its run, else `0`,
--          and `,<id>` for each replay that may have; or `*` for too many.
--
-- In `done`, each value but the last two begins with when to forget it:
-- h:<id>   <until> <R|S|X|T> <credits> <figure|-> <idempotency key|-> <=run|->
--          Released, settled, expired; or given up before it was made.
-- c:<id>   <until> <figure> <hold>       a charge
-- g:<id>   <until> <figure>              a grant
-- a:<id>   <until> <hold>                a replay, and the hold that it shares
-- k:<key>  <hold> <route> <body|->       an idempotency key, while its hold is known
-- r:<run>  <hold> <hold> …               a run's holds that are known, at most
--                                        RUN_HOLDS, the last to be bound first
--
-- In the index, `h:<id>` of a live hold is at its end; `h:`, `c:`, `g:` and
-- `a:` of what is remembered stand MEMORY higher.
--
-- Every reply begins with a word and Redis's clock in microseconds. It is an
-- array; or, where much is asked for it and it has no parts of its own, one text
-- with a blank between each two values, which is cheaper to read. No script
-- writes before it has checked everything.
local HOLDS, DUE, DONE = KEYS[1], KEYS[2], KEYS[3]
local NEVER = 9007199254740991

local held, live, next_end, next_forget = 0, 0, NEVER, NEVER
if totals then
    local a, b, c, d = string.match(totals, '^1 (%d+) (%d+) (%d+) (%d+)$')
    if not a then
        local version = string.match(totals, '^(%d+) ')
        if version and version ~= '1' then
            return {'layout', us, string.sub(version, 1, 32)}
        end
        return {'unreadable', us}
    end
    held, live, next_end, next_forget = tonumber(a), tonumber(b), tonumber(c), tonumber(d)
end

