"""Programs the load test starts: where they run, what CPU they used, their end.

Promises that nothing outlives the load test: everything started here is stopped
when the `Programs` block is left, however that happens, and gets its stop signal
from the kernel should Python itself be killed.
"""

import ctypes
import os
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
START_SECONDS = 10
STOP_SECONDS = 5
PR_SET_PDEATHSIG = 1
# The scheduler's own count is in nanoseconds; where the kernel keeps none, ticks
# of 10 ms have to do.
SCHEDULER_COUNTS = Path("/proc/self/schedstat").exists()
LIBC = ctypes.CDLL(None, use_errno=True)


class RigError(Exception):
    """The load test cannot go on; the message says why."""


def free_ports(count):
    """Ports of the loopback interface that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Program:
    """One running program and the processes it has started itself."""

    def __init__(self, name, popen, port, log, stop_signal):
        self.name, self.popen, self.port = name, popen, port
        self.log, self.stop_signal = log, stop_signal

    def cpu_seconds(self):
        """User and system time so far, of all its processes."""
        return sum(_cpu_seconds(pid) for pid in self._pids())

    def resident_bytes(self):
        """The memory of all its processes that is in RAM. What they share counts in each."""
        return sum(_resident_bytes(pid) for pid in self._pids())

    def _pids(self):
        pid = self.popen.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]

    def wait_until_listening(self):
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.popen.poll() is not None:
                raise RigError(f"{self.name} ended at once:\n{self._last_words()}")
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                time.sleep(0.05)
        raise RigError(f"{self.name} does not listen after {START_SECONDS} s:\n{self._last_words()}")

    def ensure_alive(self):
        if self.popen.poll() is not None:
            raise RigError(f"{self.name} ended during the load test:\n{self._last_words()}")

    def stop(self):
        if self.popen.poll() is None:
            self.popen.send_signal(self.stop_signal)
            try:
                self.popen.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.popen.kill()
                self.popen.wait()

    def _last_words(self):
        return "\n".join("    " + line for line in self.log.read_text(errors="replace").splitlines()[-15:])


class Programs:
    """All programs of one load test; leaving the block stops them."""

    def __init__(self, folder):
        self.folder = folder
        self._running = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        while self._running:
            self._running.pop().stop()

    def start(self, name, argv, port, cpus, stop_signal=signal.SIGTERM):
        """Starts a program on the given CPUs and waits until it listens."""
        log = self.folder / f"{name}.log"
        with log.open("wb") as output:
            popen = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                cwd=self.folder,
                # Ctrl-C is for this script alone, which then stops the others in order.
                start_new_session=True,
                preexec_fn=lambda: _settle(cpus, stop_signal),
            )
        program = Program(name, popen, port, log, stop_signal)
        self._running.append(program)
        program.wait_until_listening()
        return program

    def ensure_alive(self):
        for program in self._running:
            program.ensure_alive()


def run_bounded(argv, cpus, seconds, source=subprocess.DEVNULL):
    """Runs a program to its end and returns what it printed."""
    popen = subprocess.Popen(
        [str(word) for word in argv], text=True,
        stdin=source, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        preexec_fn=lambda: _settle(cpus, signal.SIGTERM),
    )
    try:
        output, complaint = popen.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise RigError(f"{argv[0]} was not done after {seconds} s") from None
    finally:
        popen.kill()
        popen.wait()
    if popen.returncode != 0:
        raise RigError(f"{argv[0]} failed with {popen.returncode}: {complaint.strip() or output.strip()}")
    return output


def _settle(cpus, stop_signal):
    """In the child, before it becomes the program: its CPUs, and its end with ours."""
    os.sched_setaffinity(0, cpus)
    LIBC.prctl(PR_SET_PDEATHSIG, int(stop_signal))


def _cpu_seconds(pid):
    if SCHEDULER_COUNTS:
        return sum(_scheduled_seconds(task) for task in Path(f"/proc/{pid}/task").iterdir())
    # The second field is the program's name and may hold blanks: count after it.
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    user, system = fields[11:13]
    return (int(user) + int(system)) / TICKS_PER_SECOND


def _scheduled_seconds(task):
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except OSError:
        return 0.0  # a thread that has just ended


def _resident_bytes(pid):
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found.group(1)) * 1024 if found else 0
