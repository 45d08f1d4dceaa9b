-- What each client of the load test sends, and one line of JSON about what came
-- back. Arguments, after wrk's own:
--
--   TEAM           the value of x-team-id, which decides whether the start is
--                  admitted; random:N draws one of the teams t0 … tN-1 each time
--   BODY           the body; bytes:N makes one of so many bytes
--   count | fast   count: every status is counted. wrk then takes every answer
--                  apart, which costs it as much as the whole answer costs the
--                  gateway; fast only tells below from above 400.

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(args)
    local made_up = tonumber(args[2]:match("^bytes:(%d+)$"))
    wrk.method = "POST"
    wrk.body = made_up and string.rep("x", made_up) or args[2]
    wrk.headers["content-type"] = "application/json"
    local teams = tonumber(args[1]:match("^random:(%d+)$"))
    if teams then
        -- Joined by hand: wrk.format for each request would make wrk the limit.
        wrk.headers["x-team-id"] = "@"
        local before, after = wrk.format():match("^(.*x%-team%-id: )@(.*)$")
        math.randomseed(os.time())
        request = function() return before .. "t" .. math.random(0, teams - 1) .. after end
    else
        wrk.headers["x-team-id"] = args[1]
        -- Built once: the same bytes for every request.
        local request_text = wrk.format()
        request = function() return request_text end
    end
    statuses = ""
    if args[3] == "count" then
        local counts = {}
        response = function(status)
            counts[status] = (counts[status] or 0) + 1
            -- A string, because only plain values can be read by `done`.
            local parts = {}
            for code, number in pairs(counts) do
                parts[#parts + 1] = string.format('"%d":%d', code, number)
            end
            statuses = table.concat(parts, ",")
        end
    end
end

function done(summary, latency, requests)
    local errors = summary.errors
    local percentiles = {}
    for _, one in ipairs({"50", "75", "90", "95", "99", "99.9"}) do
        percentiles[#percentiles + 1] = string.format('"%s":%.1f', one, latency:percentile(tonumber(one)))
    end
    print(string.format(
        'RESULT {"requests":%d,"microseconds":%d,"bytes":%d,"percentiles_us":{%s},'
        .. '"at_least_400":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,'
        .. '"statuses":{%s}}',
        summary.requests, summary.duration, summary.bytes, table.concat(percentiles, ","),
        errors.status, errors.connect, errors.read, errors.write, errors.timeout,
        -- With several threads each counts its own; only warm-ups count, on one.
        threads[1]:get("statuses")))
end
