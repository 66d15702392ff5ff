"""`llm serve` as a process of its own, for tests that talk to it."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from support import LLM


@contextmanager
def serving(model: Path, *args: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """The process and its address, once it is ready."""
    command = [*LLM, "serve", str(model), "--port", "0", "--device", "cpu", *args]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            assert process.stderr is not None
            line = process.stderr.readline().decode()
            found = re.search(r"http://[\w.]+:\d+", line)
            assert found, line
            yield process, found[0]
        finally:
            process.kill()


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=60) as response:
        value: dict[str, Any] = json.loads(response.read())
        return value
