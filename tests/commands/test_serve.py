"""`llm serve` as a process: its address, its answers, its end."""

from __future__ import annotations

import json
import signal
import socket
import threading
import time
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from served import post, serving
from support import assert_user_error, run_llm
from tiny_llama import save_tiny_llama

SETTINGS: dict[str, Any] = {"temperature": 0.8, "top_p": 0.95, "seed": 5, "max_tokens": 30}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("served") / "tiny")


def test_answers_equal_generate_and_sigterm_lets_them_finish(model: Path) -> None:
    flags = ["--temperature", "0.8", "--top-p", "0.95", "--seed", "5", "--max-tokens", "30"]
    done = run_llm("generate", model, "The quick", "--chat", *flags, "--json", "--device", "cpu")
    generated = json.loads(done.stdout)
    with serving(model) as (process, url):
        with urllib.request.urlopen(f"{url}/health", timeout=60) as response:
            assert json.loads(response.read()) == {"status": "ok", "model": "tiny"}
        body = {"messages": [{"role": "user", "content": "The quick"}], **SETTINGS}
        answer = post(f"{url}/v1/chat/completions", body)
        assert answer["choices"][0]["message"]["content"] == generated["text"]
        assert answer["usage"] == generated["usage"]

        answers = []
        long = {"prompt": ["The"] * 32, "max_tokens": 100, "ignore_eos": True}
        thread = threading.Thread(
            target=lambda: answers.append(post(f"{url}/v1/completions", long))
        )
        thread.start()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        thread.join()
        assert process.wait(60) == 0
        assert answers[0]["usage"]["completion_tokens"] == 3200
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.read() == process.stderr.read() == b""


def test_ctrl_c_ends_an_idle_server(model: Path) -> None:
    with serving(model, "--name", "other") as (process, url):
        with urllib.request.urlopen(f"{url}/v1/models", timeout=60) as response:
            assert json.loads(response.read())["data"][0]["id"] == "other"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_what_cannot_work_is_refused_before_the_model_is_read(model: Path, tmp_path: Path) -> None:
    def refused(code: int, *args: str | Path, mentions: str) -> None:
        assert_user_error(run_llm("serve", *args, check=False), code, mentions)

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused(4, model, "--port", str(port), mentions=f"port {port}")
    refused(3, tmp_path, mentions="config.json")
    keys = tmp_path / "keys"
    keys.write_text("# none\n\n")
    refused(3, model, "--port", "0", "--api-key-file", keys, mentions="no API keys")
    keys.write_text("abc\n")
    refused(3, model, "--port", "0", "--api-key-file", keys, mentions="fewer than 8")
