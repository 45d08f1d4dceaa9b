"""Drives the published SDK, unmodified, and prints what it made of the answer.

Usage: sdk_client.py BASE_URL API_KEY ACTION [TEAM]
"""

import json
import sys

import oz_agent_sdk

ACTIONS = {
    "run": lambda client: client.agent.run(prompt="fix the build"),
    "followup": lambda client: client.agent.runs.submit_followup("run-1", message="go on"),
    "retrieve": lambda client: client.agent.runs.retrieve("run-1"),
    "cancel": lambda client: client.agent.runs.cancel("run-1"),
}


def main(base_url: str, api_key: str, action: str, team: str | None = None) -> None:
    headers = {"X-Warp-Team-Uid": team} if team else {}
    client = oz_agent_sdk.OzAPI(api_key=api_key, base_url=base_url, default_headers=headers)
    try:
        value = ACTIONS[action](client)
        result = {"outcome": "ok", "run_id": getattr(value, "run_id", None)}
    except oz_agent_sdk.APIStatusError as error:
        result = {"outcome": type(error).__name__, "status": error.status_code, "body": error.body}
    except oz_agent_sdk.APIError as error:
        result = {"outcome": type(error).__name__}
    print(json.dumps(result))


main(*sys.argv[1:])
