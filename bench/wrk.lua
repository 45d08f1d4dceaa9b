-- What each client of the load test sends, and one line of JSON about what came
-- back. Arguments, after wrk's own:
--
--   TEAM           the value of x-team-id: decides whether the start is admitted
--   count | fast   count: every status is counted. wrk then takes every answer
--                  apart, which costs it as much as the whole answer costs the
--                  gateway; fast only tells below from above 400.

local threads = {}

function setup(thread)
    table.insert(threads, thread)
end

function init(args)
    wrk.method = "POST"
    wrk.body = '{"prompt":"Summarise the failing tests and propose a fix, please"}'
    wrk.headers["content-type"] = "application/json"
    wrk.headers["x-team-id"] = args[1]
    -- Built once: the same bytes for every request.
    local request_text = wrk.format()
    request = function() return request_text end
    statuses = ""
    if args[2] == "count" then
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
    print(string.format(
        'RESULT {"requests":%d,"microseconds":%d,"bytes":%d,'
        .. '"p50_us":%.1f,"p90_us":%.1f,"p99_us":%.1f,"max_us":%.1f,'
        .. '"at_least_400":%d,"connect":%d,"read":%d,"write":%d,"timeout":%d,'
        .. '"statuses":{%s}}',
        summary.requests, summary.duration, summary.bytes,
        latency:percentile(50), latency:percentile(90), latency:percentile(99), latency.max,
        errors.status, errors.connect, errors.read, errors.write, errors.timeout,
        -- One thread drives the load (rig/load.py).
        threads[1]:get("statuses")))
end
