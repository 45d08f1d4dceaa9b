"""Load tests that are programs of their own and leave their figures as JSON."""

import json
import subprocess
import sys

from rig.processes import RigError


def figures_of(rig, script, seconds, *arguments):
    """Runs a script beside run.py, which writes to --json FILE; returns what it wrote."""
    file = rig.folder / f"{script.stem}.json"
    popen = subprocess.Popen([sys.executable, str(script), "--json", str(file), *map(str, arguments)],
                             stdin=subprocess.DEVNULL)
    try:
        status = popen.wait(seconds)
    except subprocess.TimeoutExpired:
        raise RigError(f"{script.name} was not done after {seconds} s") from None
    finally:
        # It stops what it has started when it is told to stop.
        if popen.poll() is None:
            popen.terminate()
            popen.wait(30)
    if status != 0:
        raise RigError(f"{script.name} ended with {status}")
    return json.loads(file.read_text())
