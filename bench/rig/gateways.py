"""Starting the things that are compared, and what they share.

All gateways forward to the same upstream and read balances from the same Redis.
"""

import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from rig import configs, names
from rig.answers import get, redis_command
from rig.names import ALL, BALANCES, PATH, RICH
from rig.processes import Program, RigError, free_ports, run_bounded

HTTP1, H2C, TLS = "http1", "h2c", "tls"
# After a burst: how long nothing may arrive, and how often to look for that.
QUIET_SECONDS, QUIET_TRIES = 0.05, 100
LOAD_TEAMS_SECONDS = 120


@dataclass
class Gateway:
    """One thing that is measured."""

    name: str
    program: Program  # what listens
    outcomes: tuple  # what it can be asked for: admitted, refused
    helpers: tuple = ()  # programs without which it would not be one: their cost is its cost
    tls: bool = False

    @property
    def url(self):
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.program.port}{PATH}"

    def cpu_seconds(self):
        return sum(program.cpu_seconds() for program in (self.program, *self.helpers))

    def resident_bytes(self):
        return sum(program.resident_bytes() for program in (self.program, *self.helpers))


class Bench:
    """Upstream, Redis and the gateways, running."""

    def __init__(self, rig, programs, wanted, speaks=HTTP1, under=None, deadline_ms=configs.DEADLINE_MS):
        """`under`: what a gateway of ours runs under, (name, argv) -> argv."""
        self._rig, self._programs, self._speaks, self._deadline_ms = rig, programs, speaks, deadline_ms
        self._under = under or (lambda name, argv: argv)
        # One temporary folder for all nginx files; bodies are too small to get there.
        (programs.folder / "tmp").mkdir(exist_ok=True)
        upstream_port, redis_port = free_ports(2)
        self.upstream = self._nginx("upstream", "nginx-upstream.conf", upstream_port, rig.other_cpus, {})
        self.redis = programs.start(
            "redis-server",
            ["redis-server", "--port", redis_port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
            redis_port, rig.other_cpus,
        )
        for team, credits in BALANCES.items():
            redis_command(redis_port, "SET", f"credits:{{{team}}}", credits)
        self.gateways = []
        for name in ALL:
            if name in wanted:
                self._start(name)

    def __getitem__(self, name):
        return next(gateway for gateway in self.gateways if gateway.name == name)

    def upstream_requests(self):
        """How many requests have reached the upstream so far, this one included."""
        return int(get(self.upstream.port, "/status").splitlines()[2].split()[2])

    def wait_until_quiet(self):
        """Until what the last burst left behind is done.

        When a generator stops, up to one start per connection is still on its
        way. It belongs to nobody's figures, and must not look like a refused
        start that reached the upstream.
        """
        before = self.upstream_requests()
        for _ in range(QUIET_TRIES):
            time.sleep(QUIET_SECONDS)
            now = self.upstream_requests()
            if now == before + 1:  # nothing but this very question
                return
            before = now
        raise RigError("the upstream still gets requests long after the load has stopped")

    def load_teams(self, count):
        """Balances of the teams t0 … t(count-1)."""
        file = self._programs.folder / "teams.resp"
        with file.open("w") as text:
            for number in range(count):
                key = f"credits:{{t{number}}}"
                text.write(f"*3\r\n$3\r\nSET\r\n${len(key)}\r\n{key}\r\n${len(RICH)}\r\n{RICH}\r\n")
        with file.open("rb") as source:
            run_bounded(["redis-cli", "-p", self.redis.port, "--pipe"], self._rig.other_cpus,
                        LOAD_TEAMS_SECONDS, source)
        file.unlink()

    def _start(self, name):
        starters = {
            names.BARE_UPSTREAM: lambda: Gateway(name, self.upstream, names.outcomes_of(name)),
            names.BARE_PINGORA: lambda: self._bare(name, f"127.0.0.1:{self.upstream.port}"),
            names.BARE_REFUSAL: lambda: self._bare(name, "refuse"),
            names.NGINX_LUA: lambda: self._nginx_lua(name),
            names.ENVOY: lambda: self._envoy(name),
            names.TOLLGATE: lambda: self._tollgate(name),
            names.TOLLGATE_WAYS: lambda: self._tollgate(
                name, more=configs.OTHER_WAYS, identities=configs.OTHER_IDENTITIES),
            names.TOLLGATE_BEFORE: lambda: self._tollgate(name, built=self._rig.before),
            names.TOLLGATE_HOLD: lambda: self._tollgate(name, more=configs.HOLD_MODE),
            names.TOLLGATE_RUNS: lambda: self._tollgate(name, more=configs.HOLD_MODE_WITH_RUNS),
            names.TOLLGATE_LOG: lambda: self._tollgate(name, access_log="all"),
            names.TOLLGATE_THREADS: lambda: self._tollgate(name, cpus=self._rig.two_cpus, threads=2),
            names.ROUTES_FEW: lambda: self._tollgate(name, routes=10),
            names.ROUTES_MANY: lambda: self._tollgate(name, routes=500),
        }
        self.gateways.append(starters[name]())

    def _bare(self, name, target):
        (port,) = free_ports(1)
        speaks = {HTTP1: [], H2C: ["h2c"], TLS: self._rig.certificate}[self._speaks]
        program = self._programs.start(
            name, self._under(name, [self._rig.built("examples/bare_proxy"), f"127.0.0.1:{port}", target, 1, *speaks]),
            # SIGINT ends a Pingora server at once; SIGTERM would let it drain.
            port, self._rig.gateway_cpus, signal.SIGINT,
        )
        return self._gateway(name, program)

    def _tollgate(self, name, built=None, cpus=None, **more):
        port, plain_port, admin_port = free_ports(3)
        cert, key = self._rig.certificate
        listener = {
            HTTP1: None,
            H2C: f'  listen: ["127.0.0.1:{port}"]\n  h2c: true',
            TLS: f'  listen: ["127.0.0.1:{plain_port}"]\n'
                 f'  tls: {{listen: ["127.0.0.1:{port}"], cert: {cert}, key: {key}}}',
        }[self._speaks]
        config = self._programs.folder / f"{name}.yaml"
        config.write_text(configs.tollgate(
            port, admin_port, self.upstream.port, self.redis.port, self._deadline_ms, listener=listener, **more))
        program = self._programs.start(
            name, self._under(name, [built or self._rig.built("tollgate"), "run", "--config", config]),
            port, cpus or self._rig.gateway_cpus, signal.SIGINT,
        )
        return self._gateway(name, program)

    def _gateway(self, name, program, *helpers):
        return Gateway(name, program, names.outcomes_of(name), helpers, self._speaks == TLS)

    def _nginx_lua(self, name):
        (port,) = free_ports(1)
        listen = {HTTP1: "", H2C: " http2", TLS: " ssl http2"}[self._speaks]
        then = 'proxy_pass http://tasks;\nproxy_http_version 1.1;\nproxy_set_header Connection "";'
        return self._gateway(name, self._lua(name, port, then, listen))

    def _lua(self, name, port, then, listen=""):
        """nginx that asks Redis and, where there are credits, does `then`."""
        modules = next(Path("/").glob("usr/lib*/nginx/modules/ngx_http_lua_module.so"), None)
        if modules is None:
            raise RigError("nginx has no Lua module here; run `make bench`, which installs it")
        cert, key = self._rig.certificate
        return self._nginx(name, "nginx-lua.conf", port, self._rig.gateway_cpus, {
            "MODULES": modules.parent, "UPSTREAM": f"127.0.0.1:{self.upstream.port}", "CERT": cert, "KEY": key,
            "REDIS_PORT": self.redis.port, "DEADLINE_MS": self._deadline_ms, "THEN": then, "SPEAKS": listen,
        })

    def _envoy(self, name):
        """Envoy on the gateway's CPUs, and on the same the authorizer that it asks."""
        program, why = self._rig.envoy
        if program is None:
            raise RigError(f"no Envoy: {why}")
        port, admin_port, authorizer_port = free_ports(3)
        authorizer = self._lua("envoy-authorizer", authorizer_port, "content_by_lua_block { ngx.exit(200) }")
        config = self._programs.folder / f"{name}.yaml"
        tls = self._rig.certificate if self._speaks == TLS else None
        config.write_text(configs.envoy(
            port, admin_port, self.upstream.port, authorizer_port, self._deadline_ms, tls))
        started = self._programs.start(
            name, [program, "-c", config, "--concurrency", 1, "--disable-hot-restart", "--log-level", "error"],
            port, self._rig.gateway_cpus)
        return self._gateway(name, started, authorizer)

    def _nginx(self, name, template, port, cpus, values):
        text = (Path(__file__).parent.parent / template).read_text()
        for key, value in {"LISTEN": f"127.0.0.1:{port}", "NAME": name, **values}.items():
            text = text.replace(f"@{key}@", str(value))
        config = self._programs.folder / f"{name}.conf"
        config.write_text(text)
        nginx = shutil.which("nginx", path=os.environ["PATH"] + ":/usr/sbin")
        argv = [nginx, "-p", self._programs.folder, "-c", config, "-e", "stderr"]
        return self._programs.start(name, argv, port, cpus)
