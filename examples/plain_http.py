"""Submits a job with nothing but Python's standard library, follows it, and fetches its result.

    python examples/plain_http.py [SERVER_URL]

What it sends, any HTTP library of any language can: a zip whose `main.py` leaves its value in
`result.json`. CUMULUS_API_KEY is the key, where the server wants one.
"""

import base64
import io
import json
import os
import sys
import urllib.error
import urllib.request
import zipfile
from typing import Any

MAIN = """
import json

for number in range(1, 4):
    print(f"{number} of 3", flush=True)
with open("result.json", "w") as file:
    json.dump({"sum": 6}, file)
"""


def request(url: str, body: Any = None) -> urllib.request.Request:
    """The request with its key; `body` goes as JSON."""
    made = urllib.request.Request(url)
    api_key = os.environ.get("CUMULUS_API_KEY")
    if api_key:
        made.add_header("Authorization", f"Bearer {api_key}")
    if body is not None:
        made.data = json.dumps(body).encode()
        made.add_header("Content-Type", "application/json")
    return made


def main(server: str) -> None:
    """Submits, follows, fetches."""
    package = io.BytesIO()
    with zipfile.ZipFile(package, "w") as archive:
        archive.writestr("main.py", MAIN)
    job = {
        "code": base64.b64encode(package.getvalue()).decode(),
        "gpu_memory": 0.1,
        "duration": 60,
        "name": "plain HTTP",
    }
    with urllib.request.urlopen(request(f"{server}/api/jobs", job), timeout=30) as answer:
        job_id = json.load(answer)["job_id"]
    print(f"submitted {job_id}")
    url = f"{server}/api/jobs/{job_id}"
    kind = ""
    with urllib.request.urlopen(request(f"{url}/logs?follow=1"), timeout=60) as events:
        for line in events:
            name, _, text = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                kind = text
            elif name == "data" and kind == "log":
                print(json.loads(text).get("text", "(no text)"), end="", flush=True)
    with urllib.request.urlopen(request(f"{url}/results"), timeout=30) as answer:
        print(f"result: {json.load(answer)}")


if __name__ == "__main__":
    default = os.environ.get("CUMULUS_SERVER_URL", "http://127.0.0.1:50051")
    try:
        main((sys.argv[1] if len(sys.argv) > 1 else default).rstrip("/"))
    except urllib.error.HTTPError as error:
        with error:
            sys.exit(json.load(error)["message"])
