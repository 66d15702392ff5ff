"""Answers in the text of a template that rewrites earlier turns, found by landmarks.

Characters that occur nowhere else are put into what the messages say. Where the text is the same
but for them, they show which part of it comes from which message. An answer begins after the header
that asks for one, and ends with the token that ends a turn.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llmtools.errors import InputError
from llmtools.tokenizer.chat import Message
from llmtools.tokenizer.shield import free_characters

Render: TypeAlias = Callable[[Sequence[Message], bool], str]
# Where a landmark goes into a text: so many characters inside its first and its last visible one.
# At the edges it keeps no white space from being trimmed; further in, it hides no opening word.
DEPTHS = (0, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Where a message's own text begins and ends; None where no landmark of it is in the text."""

    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Where an answer stands in a text, and whether a token ends it there."""

    start: int
    end: int
    is_ended: bool


def landmark_spans(
    messages: Sequence[Message],
    text: str,
    render: Render,
    special_tokens: Sequence[str],
    ends: Sequence[str],
) -> list[Answer]:
    """Where the answers stand in the text of a conversation, in order.

    raises: InputError naming the message that the template leaves out or moves.
    """
    found = _locate(messages, text, render)
    answers: list[Answer] = []
    for number, (message, place) in enumerate(zip(messages, found, strict=True)):
        if message.get("role") != "assistant":
            continue
        if place.first is None and _says_something(message):
            raise InputError(
                f"message {number}: the chat template rewrites earlier turns and leaves this answer"
                " out, so it cannot be learned; train on its last answer alone, or use a chat"
                " template that keeps them"
            )
        # A template may move a message (the system's into the last question), so only those that
        # stand on the right side of this one bound it.
        before = [f.last for f in found[:number] if f.last is not None]
        after = [f.first for f in found[number + 1 :] if f.first is not None]
        if place.first is not None and place.last is not None:
            before = [at for at in before if at <= place.first]
            after = [at for at in after if at >= place.last]
        floor = max([*before, answers[-1].end if answers else 0])
        ceiling = min([*after, len(text)])
        headers = _headers(messages[:number], render, special_tokens)
        limit = ceiling if place.first is None else place.first
        start = _start(text, floor, limit, headers, special_tokens)
        if start is None and place.first is not None and _begins(message, text, place.first):
            start = place.first
            while start > floor and text[start - 1].isspace():
                start -= 1
        last = place.last if place.last is not None else start
        if start is None or last is None or not floor <= start <= last <= ceiling:
            raise InputError(
                f"message {number}: the chat template rewrites earlier turns, so the tokens of this"
                " answer cannot be told apart; use a chat template that keeps them"
            )
        stops = [(at, stop) for stop in ends if (at := text.find(stop, last, ceiling)) >= 0]
        end = min(stops)[0] + len(min(stops)[1]) if stops else last
        answers.append(Answer(start=start, end=end, is_ended=bool(stops)))
    return answers


def _locate(messages: Sequence[Message], text: str, render: Render) -> list[Found]:
    """Where each message's own text is: all messages in one rendering, else one by one."""
    free = free_characters([messages])
    for depth in DEPTHS:
        chars = [next(free) for _ in messages]
        marked = [_marked(m, c, depth) for m, c in zip(messages, chars, strict=True)]
        found = _read(marked, chars, text, render, depth)
        if found is not None and all(
            one.first is not None or not _says_something(message)
            for one, message in zip(found, messages, strict=True)
        ):
            return found
    char = next(free)
    return [_locate_one(messages, number, char, text, render) for number in range(len(messages))]


def _locate_one(
    messages: Sequence[Message], number: int, char: str, text: str, render: Render
) -> Found:
    for depth in DEPTHS:
        for fields in (("content", "tool_calls"), ("tool_calls",), ("content",), ("names",)):
            marked = list(messages)
            marked[number] = _marked(messages[number], char, depth, fields)
            found = _read(marked, [char], text, render, depth)
            if found is not None and found[0].first is not None:
                return found[0]
    return Found()


def _read(
    marked: Sequence[Message], chars: Sequence[str], text: str, render: Render, depth: int
) -> list[Found] | None:
    """Where the landmarks are in `text`; None where they changed more than they added."""
    try:
        rendered = render(marked, False)
    except InputError:
        return None
    places: dict[str, list[int]] = {char: [] for char in chars}
    plain: list[str] = []
    for char in rendered:
        if char in places:
            places[char].append(len(plain))
        else:
            plain.append(char)
    if "".join(plain) != text:
        return None
    return [
        Found(first=max(at[0] - depth, 0), last=min(at[-1] + depth, len(text))) if at else Found()
        for at in places.values()
    ]


def _marked(
    message: Message,
    char: str,
    depth: int,
    fields: Sequence[str] = ("content", "tool_calls"),
) -> Message:
    """The message with landmarks in its content, and in the arguments or names of its calls."""
    marked = dict(message)
    if "content" in fields and "content" in message:
        marked["content"] = _marked_content(message["content"], char, depth)
    calls = message.get("tool_calls")
    if isinstance(calls, list) and ("tool_calls" in fields or "names" in fields):
        marked["tool_calls"] = [
            _marked_call(call, char, depth, "names" in fields) for call in calls
        ]
    return marked


def _marked_content(content: Any, char: str, depth: int) -> Any:
    if isinstance(content, str):
        return _marked_text(content, char, depth)
    if isinstance(content, list):
        return [
            {**part, "text": _marked_text(part["text"], char, depth)}
            if isinstance(part, Mapping) and isinstance(part.get("text"), str)
            else part
            for part in content
        ]
    return content


def _marked_text(text: str, char: str, depth: int) -> str:
    visible = text.strip()
    if len(visible) <= 2 * depth:
        return text if visible or depth else text + char
    start = text.index(visible) + depth
    end = text.index(visible) + len(visible) - depth
    return text[:start] + char + text[start:end] + char + text[end:]


def _marked_call(call: Any, char: str, depth: int, by_name: bool) -> Any:
    if not isinstance(call, Mapping):
        return call
    if isinstance(call.get("function"), Mapping):
        return {**call, "function": _marked_call(call["function"], char, depth, by_name)}
    key = "name" if by_name else "arguments"
    value = call.get(key)
    if isinstance(value, str) and len(value) > 1:
        # Inside the braces of JSON that is written out.
        return {**call, key: value[:-1] + char + value[-1]}
    return {**call, key: _marked_strings(value, char)}


def _marked_strings(value: Any, char: str) -> Any:
    """Every string and key of some arguments, marked at its end."""
    if isinstance(value, str):
        return value + char
    if isinstance(value, Mapping):
        return {key: _marked_strings(item, char) for key, item in value.items()}
    return [_marked_strings(item, char) for item in value] if isinstance(value, list) else value


def _says_something(message: Message) -> bool:
    content = message.get("content")
    texts = [content] if isinstance(content, str) else _part_texts(content)
    return any(text.strip() for text in texts) or bool(message.get("tool_calls"))


def _begins(message: Message, text: str, at: int) -> bool:
    """Whether a message's content, whole, begins at this place of the text."""
    content = message.get("content")
    texts = [content] if isinstance(content, str) else list(_part_texts(content))
    return bool(texts) and text.startswith(texts[0].strip(), at)


def _part_texts(content: Any) -> Iterator[str]:
    for part in content if isinstance(content, list) else []:
        if isinstance(part, Mapping) and isinstance(part.get("text"), str):
            yield part["text"]


def _headers(asked: Sequence[Message], render: Render, special_tokens: Sequence[str]) -> list[str]:
    """What the template writes to ask for the answer to some messages, in shrinking versions.

    A prompt may go further than the history does: it opens a <think> that earlier turns lack.
    """
    try:
        plain, asking = render(asked, False), render(asked, True)
    except InputError:
        return []
    special_ends = {
        match.end()
        for match in re.finditer("|".join(map(re.escape, special_tokens)) or "$^", asking)
    }
    edges = {0} | special_ends | {match.end() for match in re.finditer("\n", asking)}
    if asking == plain:
        # The template always asks, or writes nothing to ask: the tokens at the end are the header.
        start = len(asking.rstrip())
        while start in special_ends:
            start = max(
                (start - len(token) for token in special_tokens if asking[:start].endswith(token)),
            )
    else:
        pairs = enumerate(zip(plain, asking, strict=False))
        common = next((at for at, (a, b) in pairs if a != b), min(len(plain), len(asking)))
        start = common if common == len(plain) else max(e for e in edges if e <= common)
    cuts = [len(asking), *sorted((e for e in edges if start < e < len(asking)), reverse=True)]
    found = [asking[start:cut] for cut in cuts]
    if asking == plain:
        found += [asking[edge:] for edge in sorted(edges) if start < edge < len(asking)]
    return [header for header in found if header.strip()]


def _start(
    text: str, floor: int, limit: int, headers: Sequence[str], special_tokens: Sequence[str]
) -> int | None:
    """Where the answer that says something at `limit` begins: after its header, if it has one."""
    for header in headers:
        # A header of plain text may stand in what a user says; one with a special token may not,
        # and an answer of several parts repeats it.
        is_safe = any(token in header for token in special_tokens)
        at = text.find(header, floor, limit) if is_safe else text.rfind(header, floor, limit)
        if at >= 0:
            return at + len(header)
    return None
