"""What is compared, by name, and what a start is asked and answered."""

PATH = "/api/v1/agent/tasks"
PATH_PASSED = "/api/v1/agent/runs/0123456789012345678901"
ADMITTED, REFUSED = "admitted", "refused"
OUTCOMES = (ADMITTED, REFUSED)
# A request that starts nothing: only its instructions are counted.
PASSED = "passed"
# What passes does so without credits.
TEAMS = {ADMITTED: "acme", REFUSED: "broke", PASSED: "broke"}
STATUSES = {ADMITTED: 200, REFUSED: 403, PASSED: 200}
# Enough for every hold that a run of the load test can have at once.
RICH = "1000000000"
BALANCES = {"acme": RICH, "broke": "0"}
# The body of a start: 65 bytes.
PROMPT = '{"prompt":"Summarise the failing tests and propose a fix please"}'

BARE_UPSTREAM, BARE_PINGORA, BARE_REFUSAL = "bare-upstream", "bare-pingora", "bare-refusal"
NGINX_LUA, ENVOY, TOLLGATE = "nginx-lua", "envoy", "tollgate"
TOLLGATE_HOLD, TOLLGATE_RUNS = "tollgate-hold", "tollgate-runs"
TOLLGATE_WAYS, TOLLGATE_BEFORE = "tollgate-ways", "tollgate-before"
TOLLGATE_LOG, TOLLGATE_THREADS = "tollgate-log", "tollgate-2-threads"
ROUTES_FEW, ROUTES_MANY = "tollgate-10-routes", "tollgate-500-routes"
# In the order in which they are shown.
ALL = (BARE_UPSTREAM, BARE_PINGORA, BARE_REFUSAL, TOLLGATE, TOLLGATE_WAYS, TOLLGATE_BEFORE, TOLLGATE_HOLD,
       TOLLGATE_RUNS, TOLLGATE_LOG, TOLLGATE_THREADS, ROUTES_FEW, ROUTES_MANY, NGINX_LUA, ENVOY)
# What can be asked for either outcome; the others can do one.
ONE_OUTCOME = {BARE_UPSTREAM: (ADMITTED,), BARE_PINGORA: (ADMITTED,), BARE_REFUSAL: (REFUSED,),
               TOLLGATE_RUNS: (ADMITTED,)}


def outcomes_of(gateway):
    """What a gateway can be asked for."""
    return ONE_OUTCOME.get(gateway, OUTCOMES)


# What a refusal must say: the gateways must not differ in what they send.
REFUSAL_HEADERS = {
    "content-type": "application/problem+json",
    "cache-control": "no-store",
    "x-should-retry": "false",
    "proxy-status": 'tollgate; error=http_request_denied; details="insufficient_credits"',
}
_TITLE = (
    "Your team has run out of add-on credits. "
    "Purchase more credits in your team's billing settings to continue."
)
REFUSAL_BODY = {
    "type": "/reference/api-and-sdk/troubleshooting/errors/insufficient-credits/",
    "title": _TITLE,
    "status": 403,
    "instance": PATH,
    "error": _TITLE,
    "retryable": False,
}
