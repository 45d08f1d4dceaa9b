"""Writes the deliveries of tests/deliveries as seeds: one folder for each target.

    python3 seeds.py FOLDER
"""

import hashlib
import hmac
import json
import pathlib
import sys

DELIVERIES = pathlib.Path(__file__).resolve().parent.parent / "tests" / "deliveries"
sys.path.insert(0, str(DELIVERIES))

from compare_bolt import body_of  # noqa: E402

SECRET = b"8f742231b10e8888abcd99yyyzzz85a5"
NOW = "1700000000"


def sign(message: bytes) -> str:
    """The signature of a message, in hex."""
    return hmac.new(SECRET, message, hashlib.sha256).hexdigest()


def main(folder: pathlib.Path) -> None:
    for kind in ("slack", "linear"):
        bodies, signatures = folder / f"{kind}_body", folder / f"{kind}_signature"
        bodies.mkdir(parents=True, exist_ok=True)
        signatures.mkdir(parents=True, exist_ok=True)
        for path in sorted((DELIVERIES / kind).glob("*.json")):
            delivery = json.loads(path.read_text(encoding="utf-8"))
            body = body_of(delivery).encode()
            if kind == "slack":
                lines = "v0=" + sign(f"v0:{NOW}:".encode() + body), NOW
            else:
                lines = sign(body), delivery["delivery_id"]
            head = "".join(line + "\n" for line in lines).encode()
            (bodies / path.stem).write_bytes(body)
            (signatures / path.stem).write_bytes(head + body)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
