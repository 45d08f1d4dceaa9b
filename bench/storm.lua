-- A storm: starts of teams without credits, from each connection again after a
-- pause, whatever was answered. Arguments, after wrk's own:
--
--   TEAMS   how many teams take turns
--   PAUSE   milliseconds between two starts of a connection, on average

local threads = {}

function setup(thread)
    thread:set("seed", #threads + 1)
    table.insert(threads, thread)
end

function init(args)
    math.randomseed(seed)
    local pause = tonumber(args[2])
    wrk.method = "POST"
    wrk.body = '{"prompt":"Summarise the failing tests and propose a fix, please"}'
    wrk.headers["content-type"] = "application/json"
    local requests = {}
    for team = 1, tonumber(args[1]) do
        wrk.headers["x-team-id"] = "broke-" .. team
        requests[team] = wrk.format()
    end
    request = function() return requests[math.random(#requests)] end
    delay = function() return math.random(0, 2 * pause) end
end

function done(summary)
    local errors = summary.errors
    print(string.format(
        'RESULT {"requests":%d,"microseconds":%d,"at_least_400":%d,'
        .. '"connect":%d,"read":%d,"write":%d,"timeout":%d}',
        summary.requests, summary.duration, errors.status,
        errors.connect, errors.read, errors.write, errors.timeout))
end
