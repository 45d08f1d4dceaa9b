"""The things that are compared, each on one thread, and what they share.

All gateways forward to the same upstream and read balances from the same Redis.
"""

import http.client
import json
import os
import shutil
import signal
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from rig.processes import Program, RigError, free_ports

PATH = "/api/v1/agent/tasks"
ADMITTED, REFUSED = "admitted", "refused"
TEAMS = {ADMITTED: "acme", REFUSED: "broke"}
# Enough for every hold that a run of the load test can have at once.
BALANCES = {"acme": "1000000000", "broke": "0"}
STATUSES = {ADMITTED: 200, REFUSED: 403}

BARE_UPSTREAM, BARE_PINGORA = "bare-upstream", "bare-pingora"
NGINX_LUA, TOLLGATE = "nginx-lua", "tollgate"
TOLLGATE_HOLD, TOLLGATE_RUNS = "tollgate-hold", "tollgate-runs"
TOLLGATE_WAYS, TOLLGATE_BEFORE = "tollgate-ways", "tollgate-before"
ALL = (BARE_UPSTREAM, BARE_PINGORA, TOLLGATE, TOLLGATE_WAYS, TOLLGATE_BEFORE, TOLLGATE_HOLD, TOLLGATE_RUNS, NGINX_LUA)
# What is compared with another build, only when that is named.
USUAL = tuple(name for name in ALL if name != TOLLGATE_BEFORE)
REFUSING = (TOLLGATE, TOLLGATE_WAYS, TOLLGATE_BEFORE, TOLLGATE_HOLD, NGINX_LUA)

# Long, for every gateway alike: a machine that stalls for 50 ms is not an
# outage of Redis, and must not count as wrong answers.
DEADLINE_MS = 500
# After a burst: how long nothing may arrive, and how often to look for that.
QUIET_SECONDS, QUIET_TRIES = 0.05, 100

TOLLGATE_CONFIG = """\
server:
  listen: ["127.0.0.1:{port}"]
  admin: {{listen: "127.0.0.1:{admin_port}"}}
  threads: 1
upstream:
  addresses: ["127.0.0.1:{upstream_port}"]
balances:
  redis: {{url: "redis://127.0.0.1:{redis_port}", deadline: {deadline_ms}ms}}
log: {{access: off}}
identity:
{identities}  - header: {{name: x-team-id, from: ["127.0.0.0/8"]}}
routes:
  - start: POST {path}
"""
# Every start sets a credit aside for two seconds: a team with as many live holds
# as starts come in that time, and as many that expire as are made.
HOLD_MODE = """\
admission: {mode: hold, hold: 1, hold_for: 2s}
"""
# The same, and the run's id is read from each answer and bound to the hold.
HOLD_MODE_WITH_RUNS = """\
admission: {mode: hold, hold: 1, hold_for: 2s, run_id: /run_id}
"""

# Every other way in which a run can start, beside the route that is measured:
# the identities and routes that a request has to get past.
OTHER_WAYS = """\
  - start: POST /integrations/slack
    webhook: {kind: slack, secret: bench, team_key: "slack:<workspace>"}
    refuse_with: message
  - start: POST /integrations/linear
    webhook: {kind: linear, secret: bench, team_key: "linear:<workspace>"}
    refuse_with: message
  - start: POST /webhooks/w/{uid}/{token}
    trigger: webhook
    team_from: {path: uid, team_key: "webhook:<uid>", token: token}
  - start: POST /api/v1/agent/runs/{run}/followups
    team_from: {path: run, team_key: "run:<run>", else: identity}
admission:
  trigger_from: {header: x-oz-api-source, from: ["127.0.0.0/8"], map: {SCHEDULED_AGENT: schedule}}
"""
OTHER_IDENTITIES = """\
  - jwt: {secret: a-secret-of-the-load-test-32-bytes, issuer: bench, audience: bench, team_claim: team}
  - api_key: {}
"""

# What a refusal must say: nginx and tollgate must not differ in what they send.
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


@dataclass
class Gateway:
    """One thing that is measured."""

    name: str
    program: Program
    outcomes: tuple  # what it can be asked for: admitted, refused

    @property
    def url(self):
        return f"http://127.0.0.1:{self.program.port}{PATH}"


class Bench:
    """Upstream, Redis and the gateways, running."""

    def __init__(self, programs, repository, names, gateway_cpus, other_cpus, before=None):
        self._programs, self._repository = programs, repository
        self._gateway_cpus = gateway_cpus
        # One temporary folder for all nginx files; bodies are too small to get there.
        (programs.folder / "tmp").mkdir()
        upstream_port, redis_port = free_ports(2)
        self.upstream = self._nginx("upstream", upstream_port, other_cpus, {})
        self.redis = programs.start(
            "redis-server",
            ["redis-server", "--port", redis_port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            redis_port, other_cpus,
        )
        for team, credits in BALANCES.items():
            redis_command(redis_port, "SET", f"credits:{{{team}}}", credits)
        starters = {
            BARE_UPSTREAM: lambda: Gateway(BARE_UPSTREAM, self.upstream, (ADMITTED,)),
            BARE_PINGORA: self._bare_pingora,
            NGINX_LUA: self._nginx_lua,
            TOLLGATE: lambda: self._tollgate(TOLLGATE),
            TOLLGATE_WAYS: lambda: self._tollgate(TOLLGATE_WAYS, OTHER_WAYS, OTHER_IDENTITIES),
            TOLLGATE_BEFORE: lambda: self._tollgate(TOLLGATE_BEFORE, built=before),
            TOLLGATE_HOLD: lambda: self._tollgate(TOLLGATE_HOLD, HOLD_MODE),
            TOLLGATE_RUNS: lambda: self._tollgate(TOLLGATE_RUNS, HOLD_MODE_WITH_RUNS),
        }
        self.gateways = [starters[name]() for name in ALL if name in names]

    def upstream_requests(self):
        """How many requests have reached the upstream so far, this one included."""
        text = _get(self.upstream.port, "/status")
        return int(text.splitlines()[2].split()[2])

    def wait_until_quiet(self):
        """Until what the last burst left behind is done.

        When wrk stops, up to one start per connection is still on its way. It
        belongs to nobody's figures, and must not look like a refused start
        that reached the upstream.
        """
        before = self.upstream_requests()
        for _ in range(QUIET_TRIES):
            time.sleep(QUIET_SECONDS)
            now = self.upstream_requests()
            if now == before + 1:  # nothing but this very question
                return
            before = now
        raise RigError("the upstream still gets requests long after the load has stopped")

    def _bare_pingora(self):
        (port,) = free_ports(1)
        program = self._programs.start(
            BARE_PINGORA,
            [self._built("examples/bare_proxy"), f"127.0.0.1:{port}", f"127.0.0.1:{self.upstream.port}", 1],
            # SIGINT ends a Pingora server at once; SIGTERM would let it drain.
            port, self._gateway_cpus, signal.SIGINT,
        )
        return Gateway(BARE_PINGORA, program, (ADMITTED,))

    def _tollgate(self, name, more="", identities="", built=None):
        port, admin_port = free_ports(2)
        config = self._programs.folder / f"{name}.yaml"
        config.write_text(TOLLGATE_CONFIG.format(
            port=port, admin_port=admin_port, upstream_port=self.upstream.port,
            redis_port=self.redis.port, deadline_ms=DEADLINE_MS, path=PATH,
            identities=identities,
        ) + more)
        program = self._programs.start(
            name, [built or self._built("tollgate"), "run", "--config", config],
            port, self._gateway_cpus, signal.SIGINT,
        )
        return Gateway(name, program, (ADMITTED, REFUSED) if name in REFUSING else (ADMITTED,))

    def _nginx_lua(self):
        (port,) = free_ports(1)
        modules = next(Path("/").glob("usr/lib*/nginx/modules/ngx_http_lua_module.so"), None)
        if modules is None:
            raise RigError("nginx has no Lua module here; run `make bench`, which installs it")
        program = self._nginx("lua", port, self._gateway_cpus, {
            "MODULES": modules.parent, "UPSTREAM": f"127.0.0.1:{self.upstream.port}",
            "REDIS_PORT": self.redis.port, "DEADLINE_MS": DEADLINE_MS,
        })
        return Gateway(NGINX_LUA, program, (ADMITTED, REFUSED))

    def _nginx(self, name, port, cpus, values):
        text = (Path(__file__).parent.parent / f"nginx-{name}.conf").read_text()
        for key, value in {"LISTEN": f"127.0.0.1:{port}", **values}.items():
            text = text.replace(f"@{key}@", str(value))
        config = self._programs.folder / f"nginx-{name}.conf"
        config.write_text(text)
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        argv = [nginx, "-p", self._programs.folder, "-c", config, "-e", "stderr"]
        return self._programs.start(f"nginx-{name}", argv, port, cpus)

    def _built(self, name):
        target = Path(os.environ.get("CARGO_TARGET_DIR", self._repository / "target"))
        program = target / "release" / name
        if not program.exists():
            raise RigError(f"{program.name} is not built; run `make bench`, which builds it")
        return program


def check_answer(gateway, outcome):
    """One request, and everything about its answer; returns how many bytes that was."""
    status, headers, body, length = _post(gateway.program.port, TEAMS[outcome])
    complaint = f"{gateway.name} gives a wrong answer to a start that is to be {outcome}: "
    if status != STATUSES[outcome]:
        raise RigError(complaint + f"status {status}, {body[:200]!r}")
    if outcome == REFUSED:
        sent = {name: headers.get(name) for name in REFUSAL_HEADERS}
        if sent != REFUSAL_HEADERS:
            raise RigError(complaint + f"headers {sent}, expected {REFUSAL_HEADERS}")
        if json.loads(body) != REFUSAL_BODY:
            raise RigError(complaint + f"body {body!r}")
    return length


def _post(port, team):
    """Status, headers, body and length on the wire of the answer to one start."""
    prompt = b'{"prompt":"x"}'
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nx-team-id: {team}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(prompt)}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=10) as connection:
        connection.sendall(head.encode() + prompt)
        stream = connection.makefile("rb")
        lines = []
        while (line := stream.readline()).strip():
            lines.append(line)
        if not lines:
            raise RigError(f"port {port} closed the connection without an answer")
        fields = (line.decode("latin-1").split(":", 1) for line in lines[1:])
        headers = {name.lower(): value.strip() for name, value in fields}
        body = stream.read(int(headers.get("content-length", 0)))
    length = sum(map(len, lines)) + len(b"\r\n") + len(body)
    return int(lines[0].split()[1]), headers, body, length


def redis_command(port, *words):
    """One command to Redis, its answer's first line."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        encoded = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        connection.sendall(f"*{len(words)}\r\n{encoded}".encode())
        answer = connection.makefile("rb").readline().decode().strip()
    if answer.startswith("-"):
        raise RigError(f"redis does not want {words[0]}: {answer[1:]}")
    return answer


def _get(port, path):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()
