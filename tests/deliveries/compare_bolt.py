"""Asks Slack's own Bolt whose the deliveries beside this file are, and who did it.

Needs `slack-bolt`. Says what differs from the expectations, and fails if
anything does. `body_of` builds a delivery's body; other tests may import it.
"""

import json
import pathlib
import sys
import urllib.parse

HERE = pathlib.Path(__file__).resolve().parent


def body_of(delivery: dict) -> str:
    """The body of a delivery, as a text."""
    if "body" in delivery:
        return delivery["body"]
    if "json" in delivery:
        return json.dumps(delivery["json"], separators=(",", ":"))
    fields = [
        (name, value if isinstance(value, str) else json.dumps(value))
        for name, value in delivery["form"]
    ]
    return urllib.parse.urlencode(fields)


def content_type_of(delivery: dict) -> str:
    """What Slack sends as its content type."""
    return "application/json" if "json" in delivery else "application/x-www-form-urlencoded"


def slack_deliveries():
    """Name and content of every delivery of Slack."""
    for path in sorted((HERE / "slack").glob("*.json")):
        yield path.stem, json.loads(path.read_text(encoding="utf-8"))


def main() -> int:
    from slack_bolt.request import BoltRequest

    compared, differing = 0, 0
    for name, delivery in slack_deliveries():
        context = BoltRequest(
            body=body_of(delivery),
            headers={"content-type": content_type_of(delivery)},
        ).context
        expect = delivery["expect"]
        workspace = context.team_id or context.enterprise_id
        user = delivery.get("bolt", {}).get("user", (expect["principal"] or "").removeprefix("slack:"))
        pairs = [("workspace", workspace, expect["workspace"]), ("user", context.user_id, user or None)]
        recipient = expect["recipient"] or {}
        if "slack_reply" in recipient:
            pairs.append(("response_url", context.response_url, recipient["slack_reply"]))
        if "slack_thread" in recipient:
            pairs.append(("channel", context.channel_id, recipient["slack_thread"]["channel"]))
        for what, theirs, ours in pairs:
            compared += 1
            if theirs != ours:
                differing += 1
                print(f"{name}: {what}: Bolt says {theirs}, we say {ours}", file=sys.stderr)
    print(f"compared {compared} conclusions with Bolt's, {differing} differ")
    return 1 if differing or not compared else 0


if __name__ == "__main__":
    sys.exit(main())
