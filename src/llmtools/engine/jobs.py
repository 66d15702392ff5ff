"""Records of `llm generate --jsonl` to requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmtools.engine.load import SAMPLING_KEYS, LoadedModel
from llmtools.engine.prompt import ChatPrompt, encode_prompt, read_chat
from llmtools.engine.request import Completion, Request
from llmtools.errors import InputError, LLMToolsError, did_you_mean
from llmtools.formats.record import Record

# New tokens where nothing says how many.
DEFAULT_MAX_TOKENS = 256
# What a record with messages may have besides.
CHAT_KEYS = ("tools", "documents", "chat_template_kwargs", "continue_final_message")
KEYS = (
    "id", "prompt", "messages", *CHAT_KEYS, "max_tokens", *SAMPLING_KEYS, "stop", "ignore_eos"
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A request and the id that its record has."""

    id: Any
    request: Request


def read_jobs(
    records: Iterable[Record], model: LoadedModel, settings: Mapping[str, Any]
) -> list[Job]:
    """All jobs of some records, checked before any of them runs.

    settings: what a record does not say. raises: InputError with file and line for an unknown key,
    a value out of range, or a prompt that does not fit.
    """
    jobs = []
    for number, record in enumerate(records):
        try:
            request = _job_request(record.fields, number, model, settings)
        except LLMToolsError as fault:
            raise InputError(f"{record.where}: {fault}") from fault
        jobs.append(Job(id=record.fields.get("id", str(record.line)), request=request))
    return jobs


def _job_request(
    fields: Mapping[str, Any], number: int, model: LoadedModel, settings: Mapping[str, Any]
) -> Request:
    unknown = [f"unknown key {key!r}{did_you_mean(key, KEYS)}" for key in fields if key not in KEYS]
    if unknown:
        raise InputError(f"{'; '.join(unknown)} (keys: {', '.join(KEYS)})")
    prompt, messages = fields.get("prompt"), fields.get("messages")
    if (prompt is None) == (messages is None):
        raise InputError("a record has either 'prompt' or 'messages'")
    if prompt is not None and not isinstance(prompt, str):
        raise InputError("'prompt' is not a text")
    stop = fields.get("stop")
    if stop is not None and not isinstance(stop, str | list):
        raise InputError(f"stop is {stop!r}, not a text or a list of texts")
    if not isinstance(fields.get("ignore_eos", False), bool):
        raise InputError("ignore_eos is not true or false")
    given = {key: value for key, value in fields.items() if value is not None}
    lonely = [key for key in CHAT_KEYS if key in given and prompt is not None]
    if lonely:
        raise InputError(f"{', '.join(lonely)} without 'messages'")
    ids = encode_prompt(model.tokenizer, _chat(given) if prompt is None else prompt)
    return model.request(str(number), ids, {**settings, **given}, DEFAULT_MAX_TOKENS)


def _chat(fields: Mapping[str, Any]) -> ChatPrompt:
    return read_chat(
        fields["messages"],
        tools=fields.get("tools"),
        documents=fields.get("documents"),
        variables=fields.get("chat_template_kwargs"),
        continue_final_message=fields.get("continue_final_message", False),
    )


def run_jobs(model: LoadedModel, jobs: Iterable[Job]) -> Iterator[tuple[Job, Completion]]:
    """Run all jobs together; each is yielded with its completion as soon as its turn has come."""
    listed = list(jobs)
    done: dict[str, Completion] = {}
    turn = 0
    for output in model.engine.run(job.request for job in listed):
        if output.completion is None:
            continue
        done[output.request_id] = output.completion
        while turn < len(listed) and listed[turn].request.id in done:
            yield listed[turn], done.pop(listed[turn].request.id)
            turn += 1
