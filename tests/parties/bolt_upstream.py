"""Slack's own Bolt as the upstream of a test, unmodified, and Slack's own signer.

It listens on a free port and tells, one JSON object a line, what it was sent
(`arrived`), what its listeners handled (`handled`) and what it answered
(`answered`). It asks nothing of any network: every workspace is installed.

On standard input it takes one JSON object a line and answers it with the same
`id`: `sign` signs a body as Slack does, `workspace` says which workspace Bolt
takes a body to be of, `view` checks a modal, `nothing` only answers.
"""

import hashlib
import json
import logging
import re
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from slack_bolt import App, BoltRequest
from slack_bolt.authorization import AuthorizeResult
from slack_bolt.request.internals import extract_enterprise_id, extract_team_id, parse_body
from slack_sdk.models.views import View
from slack_sdk.signature import SignatureVerifier

saying = threading.Lock()


def say(**facts):
    with saying:
        print(json.dumps(facts), flush=True)


def authorize(enterprise_id, team_id, user_id):
    return AuthorizeResult(
        enterprise_id=enterprise_id,
        team_id=team_id,
        bot_id="B0SELF",
        bot_user_id="U0SELF",
        bot_token="xoxb-of-nobody",
    )


def listening_app(secret):
    app = App(signing_secret=secret, authorize=authorize, process_before_response=True)
    anything = re.compile(".*")

    def handled(kind):
        def listener(ack, context, payload):
            say(handled=kind, team=context.team_id, enterprise=context.enterprise_id)
            ack()

        return listener

    app.command(anything)(handled("command"))
    for event in ("app_mention", "message", "app_uninstalled", "tokens_revoked", "app_home_opened"):
        app.event(event)(handled(event))
    app.action(anything)(handled("action"))
    app.shortcut(anything)(handled("shortcut"))
    app.view_submission(anything)(handled("view_submission"))
    app.view_closed(anything)(handled("view_closed"))
    app.options(anything)(handled("options"))
    return app


class Receiver(BaseHTTPRequestHandler):
    """One connection of the gateway's."""

    protocol_version = "HTTP/1.1"
    app = None

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        digest = hashlib.sha256(body).hexdigest()
        say(arrived=self.path, headers=self.headers.items(), length=len(body), sha256=digest)
        request = BoltRequest(body=body.decode(), headers=dict(self.headers.items()))
        response = self.app.dispatch(request)
        say(answered=response.status, sha256=digest)
        answer = response.body.encode()
        self.send_response(response.status)
        for name, values in response.headers.items():
            for value in values:
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_):
        pass


class Server(ThreadingHTTPServer):
    """Takes as many connections at once as a test opens."""

    daemon_threads = True
    request_queue_size = 128


def sign(secret, body, timestamp):
    signer = SignatureVerifier(signing_secret=secret)
    return signer.generate_signature(timestamp=timestamp, body=body)


def workspace(body, content_type):
    payload = parse_body(body, content_type)
    return {"team": extract_team_id(payload), "enterprise": extract_enterprise_id(payload)}


def view(view):
    """What Slack's own model of a view makes of it; it knows the limits."""
    model = View(**view)
    model.validate_json()
    return model.to_dict()


QUESTIONS = {"sign": sign, "workspace": workspace, "view": view, "nothing": lambda: None}


def main(secret):
    logging.disable(logging.CRITICAL)
    Receiver.app = listening_app(secret)
    server = Server(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    say(listening=server.server_port)
    for line in sys.stdin:
        question = json.loads(line)
        number, do = question.pop("id"), question.pop("do")
        try:
            say(id=number, answer=QUESTIONS[do](**question))
        except Exception as error:
            say(id=number, error=repr(error))


main(*sys.argv[1:])
