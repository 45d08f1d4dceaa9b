"""The client that sends an exact number of requests, against a server that answers in pieces."""

import socket
import threading
import unittest

from rig.exact import Client, request
from rig.names import ADMITTED, PASSED, PROMPT, REFUSED
from rig.processes import RigError

PATIENCE_SECONDS = 10


class Server:
    """Answers each request on each connection, and counts them."""

    def __init__(self, outcome, pieces):
        self._request, self._pieces = request(outcome), pieces
        self.requests, self._lock = 0, threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self):
        self._threads[0].start()
        return self

    def __exit__(self, *_):
        # Wakes up who accepts.
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(PATIENCE_SECONDS)

    def _accept(self):
        try:
            while True:
                connection, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
                self._threads[-1].start()
        except OSError:
            pass  # the listener is closed

    def _serve(self, connection):
        with connection:
            connection.settimeout(PATIENCE_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while self._read(connection):
                with self._lock:
                    self.requests += 1
                for piece in self._pieces:
                    connection.sendall(piece)

    def _read(self, connection):
        got = b""
        while len(got) < len(self._request):
            arrived = connection.recv(len(self._request) - len(got))
            if not arrived:
                return False
            got += arrived
        return got == self._request


class Exact(unittest.TestCase):
    def test_as_many_are_sent_as_were_asked_for_and_all_are_answered(self):
        pieces = (b"HTTP/1.1 200 OK\r\nContent-Le", b"ngth: 4\r\n\r\nab", b"cd")
        with Server(ADMITTED, pieces) as server, Client(server.port, ADMITTED, 3) as client:
            for requests, altogether in ((10, 10), (2, 12), (0, 12)):
                client.send(requests)
                self.assertEqual(server.requests, altogether)

    def test_another_answer_than_the_expected_one_ends_it(self):
        pieces = (b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",)
        with Server(REFUSED, pieces) as server, Client(server.port, REFUSED, 1) as client:
            with self.assertRaisesRegex(RigError, "expected 403, got HTTP/1.1 503"):
                client.send(1)

    def test_an_answer_without_a_length_ends_it(self):
        with Server(PASSED, (b"HTTP/1.1 200 OK\r\n\r\n",)) as server, Client(server.port, PASSED, 1) as client:
            with self.assertRaisesRegex(RigError, "without a length"):
                client.send(1)

    def test_what_starts_nothing_has_no_body(self):
        self.assertTrue(request(ADMITTED).endswith(f"content-length: {len(PROMPT)}\r\n\r\n{PROMPT}".encode()))
        self.assertTrue(request(PASSED).startswith(b"GET ") and request(PASSED).endswith(b"\r\n\r\n"))
