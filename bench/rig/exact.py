"""A client that sends an exact number of requests and waits for every answer.

wrk stops when its time is up, with requests on their way, and connects anew for
every burst. Where instructions are counted, each of them has to belong to a
request that was counted: here connections are made once and kept, and when
`send` returns nothing is on its way.
"""

import re
import selectors
import socket
import time

from rig.names import PASSED, PATH, PATH_PASSED, PROMPT, STATUSES, TEAMS
from rig.processes import RigError

READ_BYTES = 65536
# Between two bytes of the answers, under callgrind on a busy machine.
PATIENCE_SECONDS = 60

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


def request(outcome):
    """The bytes of a request that comes out so."""
    head = f"x-team-id: {TEAMS[outcome]}\r\nhost: tollgate.example\r\n"
    if outcome == PASSED:
        return f"GET {PATH_PASSED} HTTP/1.1\r\n{head}\r\n".encode()
    length = f"content-type: application/json\r\ncontent-length: {len(PROMPT)}\r\n"
    return f"POST {PATH} HTTP/1.1\r\n{head}{length}\r\n{PROMPT}".encode()


class Client:
    """Some connections to one gateway, each with one request on its way at most."""

    def __init__(self, port, outcome, connections):
        self._request, self._status = request(outcome), STATUSES[outcome]
        self._sockets = [socket.create_connection(("127.0.0.1", port), timeout=10) for _ in range(connections)]
        self._selector = selectors.DefaultSelector()
        for one in self._sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(one, selectors.EVENT_READ)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._selector.close()
        for one in self._sockets:
            one.close()

    def send(self, requests):
        """Sends so many requests, in a closed loop, and reads the answers to all of them."""
        unsent, unanswered = requests, requests
        partial = dict.fromkeys(self._sockets, b"")
        for one in self._sockets[:requests]:
            one.sendall(self._request)
            unsent -= 1
        last = time.monotonic()
        while unanswered:
            ready = self._selector.select(timeout=1)
            if ready:
                last = time.monotonic()
            elif time.monotonic() - last > PATIENCE_SECONDS:
                raise RigError(f"{unanswered} answers did not come within {PATIENCE_SECONDS} s")
            for key, _ in ready:
                one = key.fileobj
                arrived = one.recv(READ_BYTES)
                if not arrived:
                    raise RigError("the gateway closed a connection")
                partial[one] += arrived
                if not self._is_whole(partial[one]):
                    continue
                partial[one] = b""
                unanswered -= 1
                if unsent:
                    one.sendall(self._request)
                    unsent -= 1

    def _is_whole(self, answer):
        """Whether all of an answer is there; it has to be the expected one."""
        end = answer.find(b"\r\n\r\n")
        if end < 0:
            return False
        status = int(answer[9:12])
        if status != self._status:
            raise RigError(f"expected {self._status}, got {answer[:end].decode('latin-1')}")
        length = _LENGTH.search(answer, 0, end + 2)
        if length is None:
            raise RigError(f"an answer without a length: {answer[:end].decode('latin-1')}")
        return len(answer) >= end + 4 + int(length.group(1))
