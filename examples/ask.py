"""Ask a chat question of a server that is starting: ask.py SERVER_LOG QUESTION SETTINGS_JSON.

SERVER_LOG is the stderr of `llm serve`, which names its address once it listens. Prints the
response of /v1/chat/completions.
"""

from __future__ import annotations

import json
import re
import sys
import time
import urllib.request
from pathlib import Path

TIMEOUT_S = 60.0


def wait_for_address(log: Path) -> str:
    """The server's address, once its log names it."""
    end = time.monotonic() + TIMEOUT_S
    while time.monotonic() < end:
        found = re.search(r"http://[\w.]+:\d+", log.read_text()) if log.exists() else None
        if found:
            return found[0]
        time.sleep(0.1)
    sys.exit(f"{log}: no server within {TIMEOUT_S:.0f} s")


def main() -> None:
    log, question, settings = sys.argv[1:4]
    url = wait_for_address(Path(log))
    with urllib.request.urlopen(f"{url}/v1/models", timeout=TIMEOUT_S) as response:
        model = json.load(response)["data"][0]["id"]
    body = {
        "model": model,
        "messages": [{"role": "user", "content": question}],
        **json.loads(settings),
    }
    request = urllib.request.Request(
        f"{url}/v1/chat/completions",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        print(response.read().decode())


if __name__ == "__main__":
    main()
