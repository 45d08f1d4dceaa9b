"""Memory of 10,000 connections, and what is given back after them.

Each gateway is fresh. It gets some load first, so that what it always needs is
there before the count begins; then 10,000 connections with one start each, idle;
then a burst, one more start on each of them, a thousand at once; then all are closed. From there on its
memory is looked at again and again while nothing happens.
"""

import resource
import time

from rig import names
from rig.answers import connect, read_answer, start_text
from rig.configs import DEADLINE_MEMORY_MS
from rig.generators import Load
from rig.names import ADMITTED, STATUSES
from rig.processes import RigError

STAGE = "memory"
MEASURED = (names.BARE_PINGORA, names.TOLLGATE, names.NGINX_LUA, names.ENVOY)
CONNECTIONS = 10_000
# Of the burst: how many starts are on their way at once. Each may need a
# connection to the upstream, too, and none may wait for Redis for too long.
AT_ONCE = 1_000
# What a gateway needs for both.
DESCRIPTORS = 12_000
# After closing, until a gateway has noticed.
SETTLE_SECONDS = 1.0
SOON_SECONDS = 60
LOOK_SECONDS = 5
# Opening and asking, one after the other, and the burst.
EACH_SECONDS = 10
# Later, gateways close connections that have been idle for a minute.
BOUND_SECONDS = 45


def seconds(options):
    return len(measured(options)) * EACH_SECONDS + last_look_seconds(options)


def measured(options):
    return MEASURED[:2] if options.quick else MEASURED


def last_look_seconds(options):
    return SOON_SECONDS / 4 if options.quick else max(SOON_SECONDS, options.after_minutes * 60)


def run(rig):
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if allowed < DESCRIPTORS:
        rig.results.not_measured[STAGE] = f"only {allowed} open files are allowed here, {DESCRIPTORS} are needed"
        return
    with rig.bench(rig.wanted(*measured(rig.options)), STAGE, deadline_ms=DEADLINE_MEMORY_MS) as (bench, driver, programs):
        found = rig.results.memory
        for gateway in bench.gateways:
            found[gateway.name] = fill_and_close(gateway, driver, bench)
        last = last_look_seconds(rig.options)
        while any(time.monotonic() - one["closed_at"] < last for one in found.values()):
            for gateway in bench.gateways:
                one = found[gateway.name]
                one["after"].append([time.monotonic() - one["closed_at"], gateway.resident_bytes()])
            programs.ensure_alive()
            time.sleep(LOOK_SECONDS)
        for gateway in bench.gateways:
            one = found[gateway.name]
            # Only now is it old enough for the last look.
            one["after"].append([time.monotonic() - one.pop("closed_at"), gateway.resident_bytes()])


def fill_and_close(gateway, driver, bench):
    """Resident bytes of a gateway before, with idle connections, in a burst on them, and when they are closed."""
    driver.warm_up(gateway, ADMITTED, Load(64, 1))
    bench.wait_until_quiet()
    before = gateway.resident_bytes()
    started, open_now = time.monotonic(), []
    try:
        for _ in range(CONNECTIONS):
            open_now.append(connect(gateway))
            ask(gateway, open_now[-1])
            hear(gateway, open_now[-1])
            in_time(gateway, started)
        time.sleep(SETTLE_SECONDS)
        idle = gateway.resident_bytes()
        for first in range(0, CONNECTIONS, AT_ONCE):
            wave = open_now[first:first + AT_ONCE]
            for connection in wave:
                ask(gateway, connection)
            for connection in wave:
                hear(gateway, connection)
            in_time(gateway, started)
        burst = gateway.resident_bytes()
    finally:
        for connection in open_now:
            connection.close()
    closed_at = time.monotonic()
    time.sleep(SETTLE_SECONDS)
    return {
        "connections": CONNECTIONS, "before": before, "idle": idle, "burst": burst,
        "per_connection": (idle - before) / CONNECTIONS,
        "after": [[SETTLE_SECONDS, gateway.resident_bytes()]], "closed_at": closed_at,
    }


def ask(gateway, connection):
    connection.sendall(start_text(gateway, ADMITTED))


def hear(gateway, connection):
    status, _, body, _ = read_answer(connection, gateway.name)
    if status != STATUSES[ADMITTED]:
        raise RigError(f"{gateway.name} answers {status} to one of {CONNECTIONS} connections: {body[:300]!r}")


def in_time(gateway, started):
    if time.monotonic() - started > BOUND_SECONDS:
        raise RigError(f"{gateway.name} did not serve {CONNECTIONS} connections in {BOUND_SECONDS} s; is the machine busy?")
