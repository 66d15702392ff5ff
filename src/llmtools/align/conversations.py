"""Conversations from the layouts that people publish them in.

messages    {"messages": [{"role": "user", "content": "..."}, ...]}
ShareGPT    {"conversations": [{"from": "human", "value": "..."}, ...], "system"?: "..."}
Alpaca      {"instruction": "...", "input"?: "...", "output": "...", "system"?: "..."}
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from llmtools.errors import InputError
from llmtools.formats.document import Record, read_records
from llmtools.formats.stream import InputStream

Message = dict[str, Any]

# Speakers of ShareGPT files and the roles of chat templates.
SPEAKERS = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
LAYOUTS = '"messages", "conversations" (ShareGPT), or "instruction" and "output" (Alpaca)'


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversation:
    """Messages with `role` and `content`, and FILE:LINE."""

    messages: list[Message]
    where: str


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
        yield Conversation(messages=messages, where=record.where)


def _messages(record: Record) -> list[Message]:
    fields = record.fields
    if fields.get("tools"):
        raise InputError(f"{record.where}: records with 'tools' are not supported")
    if "messages" in fields:
        return [
            {**turn, "role": _text(record, turn, "role"), "content": _text(record, turn, "content")}
            for turn in _turns(record, "messages")
        ]
    if "conversations" in fields:
        turns = _turns(record, "conversations")
        said = [
            {"role": _speaker(record, turn), "content": _text(record, turn, "value")}
            for turn in turns
        ]
        return _system(record) + said
    if "instruction" in fields and "output" in fields:
        return _system(record) + _alpaca(record)
    found = ", ".join(map(repr, fields)) or "none"
    raise InputError(f"{record.where}: no conversation (fields: {found}); known are {LAYOUTS}")


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
