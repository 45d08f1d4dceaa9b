"""What the numbers were measured on: enough to repeat them, no host names."""

import os
import platform
import re
import resource
import subprocess
from pathlib import Path


def facts(repository):
    """Names and versions of everything that takes part."""
    return {
        "cpu": _cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "rustc": _first_line(["rustc", "--version"]),
        "pingora": _locked_version(repository, "pingora-proxy"),
        "nginx": _first_line(["nginx", "-v"]),
        "redis": _first_line(["redis-server", "--version"]).split(" sha=")[0],
        "envoy": _envoy_version(repository),
        "wrk": _first_line(["wrk", "-v"]).split(" [")[0],
        "oha": _first_line([str(repository / "target/tools/bin/oha"), "--version"]),
        "h2load": _first_line(["h2load", "--version"]),
        "callgrind": _first_line(["valgrind", "--version"]),
        "profile": os.environ.get("TOLLGATE_PROFILE", "release"),
        "commit": _first_line(["git", "-C", str(repository), "describe", "--always", "--dirty"]),
    }


def envoy(repository):
    """The program, or None and why there is none."""
    found = next((repository / "target/envoy").glob("lib/python3*/site-packages/envoy/_bin/envoy"), None)
    if found is None:
        why = repository / "target/envoy/missing"
        return None, why.read_text().strip() if why.exists() else "not installed; `make bench` installs it"
    return found, ""


class Busy:
    """How busy some CPUs are, with whatever, from now on."""

    def __init__(self, cpus):
        self._cpus = cpus
        self._before = self._now()

    def share(self):
        busy, total = (after - before for after, before in zip(self._now(), self._before))
        return busy / total if total else 0.0

    def _now(self):
        wanted = {f"cpu{number}" for number in self._cpus}
        lines = [line.split() for line in Path("/proc/stat").read_text().splitlines()]
        ticks = [[int(word) for word in words[1:9]] for words in lines if words[0] in wanted]
        # The fourth and fifth are idle, with and without something on its way to a disk.
        return sum(sum(each) - each[3] - each[4] for each in ticks), sum(map(sum, ticks))


class CpuShares:
    """Whose the CPUs were while the load test ran: ours, other programs', other machines'.

    Ask once everything that was started has been waited for: only then does the
    kernel count it as ours.
    """

    def __init__(self):
        self._before = _cpu_seconds(), _own_cpu_seconds()

    def shares(self):
        """(other programs, the hypervisor), as shares of all CPU time."""
        (busy, stolen, total), own = self._before
        busy_now, stolen_now, total_now = _cpu_seconds()
        everything = max(total_now - total, 1e-9)
        others = (busy_now - busy) - (_own_cpu_seconds() - own)
        return max(others, 0.0) / everything, (stolen_now - stolen) / everything


def _cpu_seconds():
    """Busy with programs, stolen, and all, of all CPUs since the machine started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    user, nice, system, _idle, _iowait, _irq, _softirq, stolen = ticks
    hertz = os.sysconf("SC_CLK_TCK")
    return (user + nice + system) / hertz, stolen / hertz, sum(ticks) / hertz


def _own_cpu_seconds():
    usages = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)


def _cpu_model():
    text = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return found.group(1) if found else platform.machine()


def _locked_version(repository, crate):
    text = (repository / "Cargo.lock").read_text()
    found = re.search(rf'name = "{crate}"\nversion = "([^"]+)"', text)
    return found.group(1) if found else "unknown"


def _envoy_version(repository):
    program, why = envoy(repository)
    return _version_word(program) if program else why


def _version_word(program):
    found = re.search(r"/(\d+\.\d+\.\d+)/", subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL).stdout)
    return found.group(1) if found else "unknown"


def _first_line(argv):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    lines = (done.stdout + done.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"
