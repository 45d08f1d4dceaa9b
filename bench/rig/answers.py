"""Looking at single answers: before anything is measured, each must be right."""

import http.client
import json
import socket
import ssl

from rig.names import PATH, REFUSAL_BODY, REFUSAL_HEADERS, REFUSED, STATUSES, TEAMS
from rig.processes import RigError


def check_answer(gateway, outcome):
    """One request, and everything about its answer; returns how many bytes that was."""
    status, headers, body, length = post(connect(gateway), gateway, outcome)
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


def connect(gateway):
    """A connection to a gateway, as its clients make it."""
    connection = socket.create_connection(("127.0.0.1", gateway.program.port), timeout=10)
    if not gateway.tls:
        return connection
    # The certificate is the load test's own, made for this run.
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context.wrap_socket(connection)


def start_text(gateway, outcome):
    """The bytes of one start over HTTP/1.1."""
    prompt = b'{"prompt":"x"}'
    head = (
        f"POST {PATH} HTTP/1.1\r\nhost: 127.0.0.1:{gateway.program.port}\r\nx-team-id: {TEAMS[outcome]}\r\n"
        f"content-type: application/json\r\ncontent-length: {len(prompt)}\r\n\r\n"
    )
    return head.encode() + prompt


def post(connection, gateway, outcome):
    """Status, headers, body and length on the wire of the answer to one start; closes."""
    with connection:
        connection.sendall(start_text(gateway, outcome))
        return read_answer(connection, gateway.name)


def read_answer(connection, who):
    """One answer, which has to say how long it is."""
    with connection.makefile("rb") as stream:
        lines = []
        while (line := stream.readline()).strip():
            lines.append(line)
        if not lines:
            raise RigError(f"{who} closed the connection without an answer")
        fields = (line.decode("latin-1").split(":", 1) for line in lines[1:])
        headers = {name.lower(): value.strip() for name, value in fields}
        if "content-length" not in headers:
            raise RigError(f"{who} answers without saying how long the answer is")
        body = stream.read(int(headers["content-length"]))
    length = sum(map(len, lines)) + len(b"\r\n") + len(body)
    return int(lines[0].split()[1]), headers, body, length


def get(port, path):
    """The body of one plain GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read().decode()
    finally:
        connection.close()


def redis_command(port, *words):
    """One command to Redis, its answer's first line."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        encoded = "".join(f"${len(word)}\r\n{word}\r\n" for word in words)
        connection.sendall(f"*{len(words)}\r\n{encoded}".encode())
        answer = connection.makefile("rb").readline().decode().strip()
    if answer.startswith("-"):
        raise RigError(f"redis does not want {words[0]}: {answer[1:]}")
    return answer
