"""The OpenAI API over real HTTP, with the `openai` package and with raw bytes."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest

from llmtools.engine.jobs import DEFAULT_MAX_TOKENS
from llmtools.engine.load import LoadedModel, load_engine
from llmtools.engine.prompt import ChatPrompt, encode_prompt
from llmtools.server.app import MAX_BODY_BYTES, Service
from llmtools.server.serve import address_of, make_server, make_service, open_socket
from llmtools.tokenizer.chat import ChatExtras
from tiny_llama import save_tiny_llama

NAME = "tiny"
CHAT = [{"role": "user", "content": "Hello, fox"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
BAD_CALL = {"function": {"name": "f", "arguments": "{"}}
# Writes all that a request can bring.
TOOL_TEMPLATE = (
    "{{ tools[0].function.name }}{{ documents }}{{ mood }}{% for m in messages %}"
    "<|im_start|>{{ m.role }}"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function.arguments }}{% endif %}"
    "{{ m.content }}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>{% endif %}"
)
SAMPLED: dict[str, Any] = {"temperature": 0.9, "top_p": 0.9, "seed": 11, "max_tokens": 24}


class Running:
    """A server in a thread of this process."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.engine = service.model.engine
        self._listener = open_socket("127.0.0.1", 0)
        self.url = address_of(self._listener)
        self._server = make_server(service)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._listener]}
        )

    def __enter__(self) -> Running:
        self.service.worker.start()
        self._listener.listen()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()
        self.service.worker.stop()

    def client(self, key: str = "any") -> openai.OpenAI:
        return openai.OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0)

    def post(self, path: str, body: Any, **headers: str) -> tuple[int, Any]:
        """Status and JSON answer of a request with any body."""
        address = self.url.removeprefix("http://")
        connection = http.client.HTTPConnection(address, timeout=30)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        answer = json.loads(response.read())
        connection.close()
        return response.status, answer

    def get(self, path: str) -> str:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            text: str = response.read().decode()
            return text

    def metric(self, name: str) -> float:
        lines = self.get("/metrics").splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))


@pytest.fixture(scope="module")
def model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_llama(tmp_path_factory.mktemp("serve") / "model")


@contextmanager
def running(model_path: Path, **options: Any) -> Iterator[Running]:
    keys = options.pop("api_keys", ())
    service = make_service(load_engine(model_path, device="cpu", **options), NAME, keys)
    with Running(service) as server:
        yield server


@pytest.fixture(scope="module")
def server(model_path: Path) -> Iterator[Running]:
    with running(model_path) as server:
        yield server


@pytest.fixture(scope="module")
def alone(model_path: Path) -> LoadedModel:
    """The same model without a server."""
    return load_engine(model_path, device="cpu")


def slow_steps(server: Running, seconds: float) -> None:
    """Make each engine step take at least this long."""
    step = server.engine.step

    def slow() -> Any:
        time.sleep(seconds)
        return step()

    server.engine.step = slow  # type: ignore[method-assign]


def wait_until(holds: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it did not come to hold"
        time.sleep(0.01)


def expected(alone: LoadedModel, prompt: Any, settings: dict[str, Any]) -> Any:
    ids = encode_prompt(alone.tokenizer, prompt)
    request = alone.request("alone", ids, settings, DEFAULT_MAX_TOKENS)
    return alone.engine.complete([request])[0]


def test_models_are_listed(server: Running) -> None:
    client = server.client()
    assert [model.id for model in client.models.list()] == [NAME]
    assert client.models.retrieve(NAME).owned_by == "llmtools"
    with pytest.raises(openai.NotFoundError, match="no model 'other'"):
        client.models.retrieve("other")


def test_a_completion_equals_the_engine_by_itself(server: Running, alone: LoadedModel) -> None:
    done = expected(alone, "The quick", SAMPLED)
    answer = server.client().completions.create(model=NAME, prompt="The quick", **SAMPLED)
    assert answer.choices[0].text == done.text
    assert answer.choices[0].finish_reason == done.finish_reason
    assert answer.usage is not None and answer.usage.model_dump(exclude_none=True) == done.usage


def test_a_chat_equals_the_engine_by_itself(server: Running, alone: LoadedModel) -> None:
    done = expected(alone, CHAT, SAMPLED)
    answer = server.client().chat.completions.create(model=NAME, messages=CHAT, **SAMPLED)  # type: ignore[arg-type]
    assert answer.choices[0].message.content == done.text
    assert answer.choices[0].message.role == "assistant"
    extra = {"top_k": 3, "min_p": 0.1}
    settings = {**SAMPLED, **extra}
    answer = server.client().chat.completions.create(
        model=NAME, messages=CHAT, extra_body=extra, **SAMPLED
    )  # type: ignore[call-overload]
    assert answer.choices[0].message.content == expected(alone, CHAT, settings).text


def test_content_may_come_in_parts_and_limits_under_their_new_name(
    server: Running, alone: LoadedModel
) -> None:
    parts = [{"type": "text", "text": "Hello,"}, {"type": "text", "text": " fox"}]
    body = {"messages": [{"role": "user", "content": parts}], "max_completion_tokens": 7, "n": 1}
    status, answer = server.post("/v1/chat/completions", body)
    assert status == 200 and answer["usage"]["completion_tokens"] <= 7
    assert (
        answer["choices"][0]["message"]["content"] == expected(alone, CHAT, {"max_tokens": 7}).text
    )


def test_streams_add_up_to_the_whole(server: Running) -> None:
    client = server.client()
    chat: dict[str, Any] = {"model": NAME, "messages": CHAT, **SAMPLED}
    whole = client.chat.completions.create(**chat)
    chunks = list(
        client.chat.completions.create(**chat, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[-1].choices == [] and chunks[-1].usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])
    deltas = [chunk.choices[0].delta for chunk in chunks[:-1]]
    assert deltas[0].role == "assistant"
    assert "".join(d.content or "" for d in deltas) == whole.choices[0].message.content
    reasons = [chunk.choices[0].finish_reason for chunk in chunks[:-1]]
    assert reasons[-1] == whole.choices[0].finish_reason and not any(reasons[:-1])

    plain: dict[str, Any] = {"model": NAME, "prompt": ["The", "A fox"], **SAMPLED}
    both = client.completions.create(**plain).choices
    texts = ["", ""]
    for chunk in client.completions.create(**plain, stream=True):
        texts[chunk.choices[0].index] += chunk.choices[0].text
    assert texts == [choice.text for choice in both]


def test_events_are_framed_as_the_protocol_says(server: Running) -> None:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
    body = {"prompt": "The", "max_tokens": 3, "stream": True, "ignore_eos": True}
    connection.request("POST", "/v1/completions", json.dumps(body))
    response = connection.getresponse()
    assert response.headers["content-type"].startswith("text/event-stream")
    events = response.read().decode().split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: ")) for event in events[:-2])
    connection.close()


def test_stop_strings_and_token_prompts(server: Running, alone: LoadedModel) -> None:
    free = expected(alone, "The", {"max_tokens": 40, "ignore_eos": True})
    stop = free.text[8:10]
    answer = server.client().completions.create(
        model=NAME,
        prompt=alone.tokenizer.encode("The"),
        max_tokens=40,
        stop=[stop],
        extra_body={"ignore_eos": True},
    )
    assert answer.choices[0].text == free.text[: free.text.index(stop)]
    assert answer.choices[0].finish_reason == "stop"


@pytest.mark.parametrize(
    ("path", "body", "status", "message", "param"),
    [
        ("completions", {"prompt": "a", "temprature": 1}, 400, "did you mean 'temp", "temprature"),
        ("completions", {"prompt": "a", "n": 2}, 400, "n is not supported", "n"),
        ("completions", {"prompt": "a", "logprobs": 3}, 400, "logprobs is not", "logprobs"),
        ("completions", {"prompt": "a", "top_p": 7}, 400, "top_p is 7", None),
        ("completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens", "max_tokens"),
        ("completions", {"prompt": "a", "max_tokens": "9"}, 400, "max_tokens", "max_tokens"),
        ("completions", {"prompt": []}, 400, "no tokens", None),
        ("completions", {"prompt": ["a"] * 65}, 400, "65 prompts", "prompt"),
        ("completions", {"prompt": [1, 5000]}, 400, "the model knows 0 to 319", None),
        ("completions", {}, 400, "prompt: Field required", "prompt"),
        ("completions", b"{", 400, "Invalid JSON", None),
        ("completions", b'{"prompt": "\\ud800"}', 400, "Invalid JSON", None),
        ("completions", b"[" * 100_000, 400, "Invalid JSON", None),
        ("completions", {"prompt": "a", "model": "x"}, 404, "no model 'x'", "model"),
        ("chat/completions", {"messages": []}, 400, "messages", "messages"),
        ("chat/completions", {"messages": CHAT, "tools": [{}]}, 400, "tools.0.function", "tools"),
        ("chat/completions", {"messages": CHAT, "tools": TOOLS}, 400, "has no tools", None),
        (
            "chat/completions",
            {"messages": CHAT, "tool_choice": "required"}, 400, "tool_choice is not", "tool_choice",
        ),
        (
            "chat/completions",
            {"messages": [{"role": "assistant"}]}, 400, "content is missing", "messages",
        ),
        (
            "chat/completions",
            {"messages": [*CHAT, {"role": "assistant", "tool_calls": [BAD_CALL]}]},
            400, "not JSON", "messages",
        ),
        (
            "chat/completions",
            {"messages": CHAT, "chat_template_kwargs": {"messages": 1}}, 400, "always given", None,
        ),
        (
            "chat/completions",
            {"messages": [{"role": "user", "content": "a", "contnt": ""}]},
            400, "unknown field 'messages.0.contnt'", "messages",
        ),
        (
            "chat/completions",
            {"messages": CHAT, "max_tokens": 1, "max_completion_tokens": 2}, 400, "not both", None,
        ),
        (
            "chat/completions",
            {"messages": CHAT, "stream_options": {}}, 400, "stream=true", "stream_options",
        ),
        ("nowhere", {}, 404, "Not Found: POST /v1/nowhere", None),
    ],
)  # fmt: skip
def test_bad_requests_are_named_in_the_apis_own_form(
    server: Running, path: str, body: Any, status: int, message: str, param: str | None
) -> None:
    found, answer = server.post(f"/v1/{path}", body)
    error = answer["error"]
    assert (found, error["param"]) == (status, param), answer
    assert message in error["message"] and error["type"] == "invalid_request_error"


def test_a_prompt_that_does_not_fit_is_refused_with_counts(server: Running) -> None:
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError, match="the context holds 128") as caught:
            server.client().completions.create(
                model=NAME, prompt="The", max_tokens=500, stream=stream
            )
        assert caught.value.code == "context_length_exceeded"


def test_a_body_without_end_is_cut_off(server: Running) -> None:
    body = b'{"prompt": "' + b"a" * MAX_BODY_BYTES + b'"}'
    try:
        status, answer = server.post("/v1/completions", body)
    except ConnectionError:
        return  # The server answered and closed while the body was still being sent.
    assert status == 413 and "larger than" in answer["error"]["message"]


def test_api_keys_guard_the_api_alone(model_path: Path) -> None:
    with running(model_path, api_keys=["secret-key-1", "secret-key-2"]) as server:
        for key in ("wrong", "secret-key-"):
            with pytest.raises(openai.AuthenticationError, match="API key"):
                server.client(key).models.list()
        assert server.post("/v1/completions", {"prompt": "a"})[0] == 401
        assert [m.id for m in server.client("secret-key-2").models.list()] == [NAME]
        assert json.loads(server.get("/health")) == {"status": "ok", "model": NAME}


def test_concurrent_requests_share_forward_calls(model_path: Path) -> None:
    with running(model_path) as server:
        slow_steps(server, 0.01)
        lengths = [40, 36, 30, 25, 20, 16, 12, 8]

        async def ask_all() -> list[Any]:
            async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any") as client:
                calls = [
                    client.completions.create(
                        model=NAME, prompt=f"Prompt number {n}", max_tokens=n,
                        extra_body={"ignore_eos": True},
                    )
                    for n in lengths
                ]  # fmt: skip
                return await asyncio.gather(*calls)

        answers = asyncio.run(ask_all())
        assert [a.usage.completion_tokens for a in answers] == lengths
        assert server.engine.num_forward_calls <= 1.3 * max(lengths)
        assert server.metric("llm_forward_calls_total") == server.engine.num_forward_calls


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(model_path: Path, stream: bool) -> None:
    with running(model_path, max_batch=1) as server:
        slow_steps(server, 0.02)
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        body = {"prompt": "The", "max_tokens": 120, "ignore_eos": True, "stream": stream}
        connection.request("POST", "/v1/completions", json.dumps(body))
        if stream:
            connection.getresponse().read(64)
        wait_until(lambda: server.engine.num_positions >= 4)
        assert server.metric("llm_requests_running") == 1
        assert connection.sock is not None
        connection.sock.close()
        connection.close()
        wait_until(lambda: server.engine.num_running == 0)
        assert server.engine.num_positions < 100 and server.engine.num_reserved == 0
        # Its place is free for the next one.
        status, _ = server.post("/v1/completions", {"prompt": "A", "max_tokens": 2})
        assert status == 200
        if not stream:
            wait_until(lambda: 'status="499"' in server.get("/metrics"))


def test_a_client_that_leaves_while_waiting_is_never_run(model_path: Path) -> None:
    with running(model_path, max_batch=1) as server:
        slow_steps(server, 0.01)
        first = threading.Thread(
            target=server.post,
            args=("/v1/completions", {"prompt": "a", "max_tokens": 60, "ignore_eos": True}),
        )
        first.start()
        wait_until(lambda: server.engine.num_running == 1)
        connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=30)
        connection.request("POST", "/v1/completions", json.dumps({"prompt": "waits"}))
        wait_until(lambda: server.metric("llm_queue_size") == 1)
        assert connection.sock is not None
        connection.sock.close()
        wait_until(lambda: server.engine.num_waiting == 0)
        first.join()
        assert server.engine.num_positions == 60


def test_a_client_that_leaves_in_the_middle_of_its_body_is_no_fault(server: Running) -> None:
    def count() -> float:
        return server.metric('llm_requests_total{path="/v1/completions",status="499"}')

    before = count()
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(
            b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"
        )
        time.sleep(0.2)
    wait_until(lambda: count() == before + 1)


def test_metrics_have_the_promised_names(server: Running) -> None:
    server.post("/v1/completions", {"prompt": "The", "max_tokens": 4, "ignore_eos": True})
    text = server.get("/metrics")
    for name in (
        "llm_requests_total",
        "llm_request_latency_seconds_bucket",
        "llm_time_to_first_token_seconds_bucket",
        "llm_inter_token_latency_seconds_bucket",
        "llm_tokens_generated_total",
        "llm_gpu_memory_bytes",
        "llm_queue_size",
    ):
        assert f"\n{name}" in text
    assert 'llm_requests_total{path="/v1/completions",status="200"}' in text
    before = server.metric("llm_tokens_generated_total")
    server.post("/v1/completions", {"prompt": "The", "max_tokens": 4, "ignore_eos": True})
    assert server.metric("llm_tokens_generated_total") == before + 4


def test_an_engine_that_fails_is_reported_and_health_says_so(model_path: Path) -> None:
    with running(model_path) as server:
        server.engine.decoder.model.norm.weight.data.fill_(float("nan"))
        status, answer = server.post("/v1/completions", {"prompt": "The"})
        assert status == 500 and "not finite" in answer["error"]["message"]
        assert answer["error"]["type"] == "server_error"
        assert server.post("/v1/completions", {"prompt": "The"})[0] == 503
        with pytest.raises(urllib.error.HTTPError, match="503"):
            server.get("/health")


def test_a_full_queue_refuses(model_path: Path) -> None:
    with running(model_path, max_batch=1) as server:
        server.service.worker._limit = 0
        status, answer = server.post("/v1/completions", {"prompt": "The"})
        assert status == 503 and "too many requests" in answer["error"]["message"]


def test_tools_and_calls_reach_the_template(tmp_path: Path) -> None:
    path = save_tiny_llama(tmp_path / "model", max_position_embeddings=512)
    (path / "chat_template.jinja").write_text(TOOL_TEMPLATE)
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": [1]}'}}
    messages: list[dict[str, Any]] = [
        *CHAT,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "done"},
    ]
    with running(path) as server:
        answer = server.client().chat.completions.create(
            model=NAME,
            messages=messages,  # type: ignore[arg-type]
            tools=TOOLS,  # type: ignore[arg-type]
            tool_choice="auto",
            max_tokens=1,
            extra_body={
                "documents": [{"title": "t", "text": "x"}],
                "chat_template_kwargs": {"mood": "!"},
            },
        )
        tokenizer = server.service.model.tokenizer
    extras = ChatExtras(
        tools=TOOLS, documents=[{"title": "t", "text": "x"}], variables={"mood": "!"}
    )
    calls = [{**call, "function": {"name": "f", "arguments": {"a": [1]}}}]
    said = [*CHAT, {"role": "assistant", "content": "", "tool_calls": calls}, messages[2]]
    prompt = ChatPrompt(messages=said, extras=extras)
    assert answer.usage is not None
    assert answer.usage.prompt_tokens == len(encode_prompt(tokenizer, prompt))
    text = tokenizer.apply_chat_template(said, extras=extras)
    assert (
        text.startswith("f[") and '{"a": [1]}'.replace('"', "'") in text and "'title': 't'" in text
    )
