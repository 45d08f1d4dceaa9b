-- Drops what is due and forgets what need not be remembered, so much at a time.
--
-- KEYS[1..3]  as in base.lua, and that of canary.lua
-- ARGV[1]     as in base.lua
-- ARGV[2]     how much at the most
--
-- Replies `swept`, Redis's clock, what is held, how many holds are live, the
-- holds that expired (id, credits, `=run` or `-`, …), whether more are due.
local more = drop(tonumber(ARGV[2]))
forget(tonumber(ARGV[2]))
save()
return {'swept', us, held, live, expired, more and 1 or 0}
