"""`llm generate` as a user runs it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmtools.engine.jobs import DEFAULT_MAX_TOKENS
from llmtools.engine.load import load_engine
from llmtools.engine.prompt import encode_prompt
from llmtools.tokenizer.chat import ChatExtras
from support import LLM, assert_user_error, run_llm
from tiny_llama import save_tiny_llama

ANSWER = [504, 3575, 282, 4649, 314, 7042, 30, 2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("generate") / "model")


def generate(model: Path, *args: str, stdin: str = "") -> dict[str, Any]:
    done = run_llm("generate", model, *args, "--json", stdin=stdin.encode())
    value: dict[str, Any] = json.loads(done.stdout)
    return value


def test_a_prompt_streams_text_and_json_holds_the_whole(model: Path) -> None:
    args = ("The quick", "--max-tokens", "12", "--ignore-eos")
    text = run_llm("generate", model, *args).stdout.decode()
    whole = generate(model, *args[1:], stdin="The quick\n")
    assert text == whole["text"] + ("" if whole["text"].endswith("\n") else "\n")
    assert set(whole) == {"text", "token_ids", "finish_reason", "usage", "timings"}
    assert set(whole["timings"]) == {"prefill_s", "decode_s", "decode_tokens_per_s"}
    assert len(whole["token_ids"]) == whole["usage"]["completion_tokens"] == 12
    assert whole["finish_reason"] == "length"


def test_jsonl_results_come_in_input_order_and_equal_single_runs(model: Path) -> None:
    records: list[dict[str, Any]] = [
        {"id": "long", "prompt": "The quick brown", "max_tokens": 30, "ignore_eos": True},
        {"prompt": "fox", "max_tokens": 3, "temperature": 0.9, "seed": 4},
        {"id": 3, "messages": [{"role": "user", "content": "Hello"}], "stop": ["o"]},
    ]
    lines = "".join(json.dumps(record) + "\n" for record in records)
    done = run_llm("generate", model, "--jsonl", "--max-tokens", "8", stdin=lines.encode())
    results = [json.loads(line) for line in done.stdout.splitlines()]
    assert [r["id"] for r in results] == ["long", "2", 3]
    chat = generate(model, "Hello", "--chat", "--stop", "o", "--max-tokens", "8")
    assert results[2]["token_ids"] == chat["token_ids"]
    loaded = load_engine(model, device="cpu")
    singles = []
    for r in records[:2]:
        ids = encode_prompt(loaded.tokenizer, r["prompt"])
        request = loaded.request("one", ids, r, DEFAULT_MAX_TOKENS)
        singles += loaded.engine.complete([request])
    assert [r["token_ids"] for r in results[:2]] == [s.token_ids for s in singles]


def test_bad_requests_are_refused(model: Path) -> None:
    def refused(code: int, *args: str | Path, mentions: str, stdin: bytes = b"") -> None:
        done = run_llm("generate", *args, stdin=stdin, check=False)
        assert_user_error(done, code, mentions)
        assert done.stdout == b""

    refused(2, model, "hi", "--top-p", "1.5", mentions="top_p is 1.5")
    refused(2, model, "hi", "--system", "x", mentions="--chat")
    refused(2, model, "hi", "--jsonl", mentions="--jsonl")
    refused(3, model, stdin=b"\xff\xfe", mentions="not UTF-8 at byte 0")
    bad = b'{"prompt": "a"}\n{"promt": "a"}\n'
    refused(3, model, "--jsonl", stdin=bad, mentions="<stdin>:2: unknown key 'promt'; did you")


def test_a_reader_that_leaves_ends_the_generation_silently(model: Path) -> None:
    command = [*LLM, "generate", str(model), "The", "--max-tokens", "120", "--ignore-eos"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


@pytest.mark.network
def test_smollm2_answers_with_the_reference_tokens(smollm2_gguf: Path) -> None:
    found = generate(smollm2_gguf, "What is the capital of France?", "--chat", "--device", "cpu")
    assert found["token_ids"] == ANSWER
    assert found["text"] == "The capital of France is Paris."
    assert found["finish_reason"] == "stop"


def test_jsonl_records_bring_tools_and_continue_answers(tmp_path: Path) -> None:
    path = save_tiny_llama(tmp_path / "model", max_position_embeddings=512)
    tools = [{"type": "function", "function": {"name": "fox", "parameters": {}}}]
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "The fox"}]

    def run(*records: dict[str, Any], check: bool = True) -> subprocess.CompletedProcess[bytes]:
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        return run_llm("generate", path, "--jsonl", "--max-tokens", "2", stdin=lines, check=check)

    hostile = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    (path / "chat_template.jinja").write_text(hostile)
    assert_user_error(run({"messages": said}, check=False), 3, "<stdin>:1", "rounds")
    template = (
        "{{ tools[0].function.name }}{% for m in messages %}<|im_start|>{{ m.role }}"
        "\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    (path / "chat_template.jinja").write_text(template)
    tokenizer = load_engine(path, device="cpu").tokenizer
    done = run(
        *({"messages": said, "tools": tools, "continue_final_message": on} for on in (False, True))
    )
    for line, goes_on in zip(done.stdout.splitlines(), (False, True), strict=True):
        ids = tokenizer.encode_chat(
            said,
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            extras=ChatExtras(tools=tools),
        )
        assert json.loads(line)["usage"]["prompt_tokens"] == len(ids)
