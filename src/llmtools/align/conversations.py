"""Conversations from the layouts that people publish them in.

messages    {"messages": [{"role": "user", "content": "..."}, ...], "tools"?: [...]}
ShareGPT    {"conversations": [{"from": "human", "value": "..."}, ...], "system"?: "...", "tools"?}
Alpaca      {"instruction": "...", "input"?: "...", "output": "...", "system"?: "..."}

Content is text, or a list of parts: text, reasoning, tool_call. Tools may be JSON inside a string.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from llmtools.errors import InputError
from llmtools.formats.record import Record
from llmtools.formats.records import read_records
from llmtools.formats.stream import InputStream
from llmtools.tokenizer.tools import parse_call_text, parse_calls, parse_tools

T = TypeVar("T")

Message = dict[str, Any]

# Speakers of ShareGPT files and the roles of chat templates.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
    "tool": "tool",
}
# The speaker whose text is the call of a tool, as JSON.
CALLER = "function_call"
# What a part of content says, and the key that its text has here or there.
PART_TEXTS = {"text": ("text", "value"), "reasoning": ("value", "text", "reasoning")}
LAYOUTS = '"messages", "conversations" (ShareGPT), or "instruction" and "output" (Alpaca)'


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages with `role` and `content`, the tools they may call, and FILE:LINE."""

    messages: list[Message]
    where: str
    tools: list[dict[str, Any]] | None = None


def read_conversations(
    inputs: Iterable[str], on_read: Callable[[InputStream], None] | None = None
) -> Iterator[Conversation]:
    """The conversations of some files, in order.

    raises: InputError with file, line and field for a record of no known layout, an empty
    conversation, an unknown speaker, or a text that is not a string.
    """
    for record in read_records(inputs, on_read):
        messages = _messages(record)
        if not messages:
            raise InputError(f"{record.where}: a conversation without messages")
        tools = _checked(record, parse_tools, record.fields.get("tools"))
        yield Conversation(messages=messages, where=record.where, tools=tools)


def _checked(record: Record, parse: Callable[[Any], T], value: Any) -> T:
    """What `parse` makes of a value; its refusals name the record."""
    try:
        return parse(value)
    except InputError as fault:
        raise InputError(f"{record.where}: {fault}") from fault


def _messages(record: Record) -> list[Message]:
    fields = record.fields
    if "messages" in fields:
        return [_message(record, turn) for turn in _turns(record, "messages")]
    if "conversations" in fields:
        said = [_spoken(record, turn) for turn in _turns(record, "conversations")]
        return _system(record) + said
    if "instruction" in fields and "output" in fields:
        return _system(record) + _alpaca(record)
    found = ", ".join(map(repr, fields)) or "none"
    raise InputError(f"{record.where}: no conversation (fields: {found}); known are {LAYOUTS}")


def _message(record: Record, turn: Message) -> Message:
    """A message whose content is one text, and whose calls are objects."""
    message = {**turn, "role": _text(record, turn, "role")}
    if isinstance(turn.get("content"), list):
        message = _joined(record, message)
    if message.get("tool_calls"):
        message["tool_calls"] = _checked(record, parse_calls, message["tool_calls"])
        message["content"] = message.get("content") or ""
    return {**message, "content": _text(record, message, "content")}


def _joined(record: Record, message: Message) -> Message:
    """A message of parts as one text, its reasoning and its calls."""
    texts: dict[str, list[str]] = {"text": [], "reasoning": []}
    calls = list(message.get("tool_calls") or [])
    for part in message["content"]:
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "tool_call":
            calls += _checked(record, parse_call_text, _text(record, part, "value"))
        elif kind in PART_TEXTS:
            key = next((k for k in PART_TEXTS[kind] if k in part), PART_TEXTS[kind][0])
            texts[kind].append(_text(record, part, key))
        else:
            known = ", ".join([*PART_TEXTS, "tool_call"])
            raise InputError(f"{record.where}: content of type {kind!r} is not supported ({known})")
    joined = {**message, "content": "".join(texts["text"])}
    if texts["reasoning"]:
        joined["reasoning_content"] = "".join(texts["reasoning"])
    return {**joined, "tool_calls": calls} if calls else joined


def _spoken(record: Record, turn: Message) -> Message:
    role, text = _speaker(record, turn), _text(record, turn, "value")
    if turn["from"] == CALLER:
        calls = _checked(record, parse_call_text, text)
        return {"role": role, "content": "", "tool_calls": calls}
    return {"role": role, "content": text}


def _turns(record: Record, key: str) -> list[Message]:
    turns = record.fields[key]
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        raise InputError(f"{record.where}: field {key!r} is not an array of objects")
    return turns


def _text(record: Record, values: Message, key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        shown = "missing" if value is None else f"{type(value).__name__}, not a string"
        raise InputError(f"{record.where}: field {key!r} is {shown}")
    return value


def _speaker(record: Record, turn: Message) -> str:
    name = _text(record, turn, "from")
    if name not in SPEAKERS:
        raise InputError(f"{record.where}: speaker {name!r} is not known ({', '.join(SPEAKERS)})")
    return SPEAKERS[name]


def _system(record: Record) -> list[Message]:
    """A system message kept beside the turns."""
    if not record.fields.get("system"):
        return []
    return [{"role": "system", "content": _text(record, record.fields, "system")}]


def _alpaca(record: Record) -> list[Message]:
    """Instruction and input are one question, joined by a line break as in LLaMA-Factory."""
    fields = record.fields
    if fields.get("history"):
        raise InputError(f"{record.where}: Alpaca records with 'history' are not supported")
    question = _text(record, fields, "instruction")
    if fields.get("input"):
        question += "\n" + _text(record, fields, "input")
    return [
        {"role": "user", "content": question},
        {"role": "assistant", "content": _text(record, fields, "output")},
    ]
