-- An emptied Redis knows of no hold, and of no charge either: that is no
-- answer.
--
-- KEYS[4]  the canary, if there is one
if KEYS[4] and redis.call('EXISTS', KEYS[4]) == 0 then
    return {'canary', us}
end

