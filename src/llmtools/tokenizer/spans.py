"""Which tokens of a conversation are the assistant's, and so are learned.

An answer is what follows the prompt for it, up to and with the token that ends the turn. It is
found in the text by

1. {% generation %} blocks, where the template has them, as transformers does;
2. else the text of messages[:i + 1] less that of messages[:i] with the generation prompt, where the
   template writes conversations front to back;
3. and landmarks (landmarks.py), which also work where it rewrites earlier turns, and show where an
   answer ends that the template writes more behind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeAlias

from llmtools.errors import InputError
from llmtools.tokenizer.chat import NO_EXTRAS, ChatExtras, ChatTemplate, Message
from llmtools.tokenizer.landmarks import landmark_spans
from llmtools.tokenizer.shield import Encode, encode_rendered, free_characters, shield

Span: TypeAlias = tuple[int, int]
Render: TypeAlias = Callable[[Sequence[Message], bool], str]


def supervised_spans(
    messages: Sequence[Message],
    template: ChatTemplate,
    special_tokens: Iterable[str],
    ends: Sequence[str],
    encode: Encode,
    extras: ChatExtras = NO_EXTRAS,
) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and 1 where a token belongs to an assistant's turn, its end included.

    ends: tokens that end a turn. White space that the template writes after one is not part of it.

    The pieces between span edges are encoded one by one, because that is what generation sees: a
    prompt that was encoded alone, then new tokens. Where a special token stands at the edges, as in
    most templates, this equals encoding the whole text.

    raises: InputError when no span of the text is the answer, because the template leaves it out.
    """
    specials = list(special_tokens)
    values = [list(messages), extras.tools, extras.documents, dict(extras.variables)]
    (shielded, tools, documents, variables), hidden = shield(values, specials)
    shielded_extras = ChatExtras(tools=tools, documents=documents, variables=variables)
    text, spans = answer_spans(shielded, template, specials, ends, shielded_extras)
    ids: list[int] = []
    mask: list[int] = []
    at = 0
    for start, end in [*spans, (len(text), len(text))]:
        for piece, is_answer in ((text[at:start], 0), (text[start:end], 1)):
            new = encode_rendered(piece, hidden, encode) if piece else []
            ids += new
            mask += [is_answer] * len(new)
        at = end
    return ids, mask


def answer_spans(
    messages: Sequence[Message],
    template: ChatTemplate,
    special_tokens: Sequence[str],
    ends: Sequence[str],
    extras: ChatExtras = NO_EXTRAS,
) -> tuple[str, list[Span]]:
    """The text of a conversation, and where its answers stand in it, in order."""

    def render(said: Sequence[Message], add_generation_prompt: bool) -> str:
        return template.render(said, add_generation_prompt, extras=extras)

    if template.has_generation_blocks:
        return _generation_spans(messages, template, extras)
    text = render(messages, False)
    spans = prefix_spans(messages, text, render, ends)
    try:
        answers = landmark_spans(messages, text, render, special_tokens, ends)
    except InputError:
        if spans is None:
            raise
    else:
        if spans is None:
            spans = [(one.start, one.end) for one in answers]
        else:
            spans = [
                (start, one.end if one.is_ended else end)
                for (start, end), one in zip(spans, answers, strict=True)
            ]
    _check_calls(messages, text, spans)
    return text, spans


def _check_calls(messages: Sequence[Message], text: str, spans: Sequence[Span]) -> None:
    """Raise InputError for a call of a tool that the template writes nothing of."""
    answers = [(n, m) for n, m in enumerate(messages) if m.get("role") == "assistant"]
    for (number, message), (start, end) in zip(answers, spans, strict=True):
        for call in message.get("tool_calls") or []:
            name = str(call.get("function", call).get("name"))
            if name not in text[start:end]:
                raise InputError(
                    f"message {number}: the chat template leaves out its call of {name!r}"
                )


def _generation_spans(
    messages: Sequence[Message], template: ChatTemplate, extras: ChatExtras
) -> tuple[str, list[Span]]:
    """The text of {% generation %} blocks, found by marks around it."""
    free = free_characters([messages, extras.tools, extras.documents, extras.variables])
    opening, closing = next(free), next(free)
    marked = template.render(messages, extras=extras, marks=(opening, closing))
    text = template.render(messages, extras=extras)
    if marked.replace(opening, "").replace(closing, "") != text:
        raise InputError("the chat template changes text that it marks as the assistant's")
    spans: list[Span] = []
    length = 0
    for piece in marked.split(opening):
        inside, _, outside = piece.rpartition(closing)
        if inside:
            spans.append((length, length + len(inside)))
        length += len(inside) + len(outside)
    return text, spans


def prefix_spans(
    messages: Sequence[Message], text: str, render: Render, ends: Sequence[str]
) -> list[Span] | None:
    """What each answer adds to the text of its prompt; None where that is not a part of `text`."""
    spans: list[Span] = []
    at = 0
    for number, message in enumerate(messages):
        if message.get("role") != "assistant":
            continue
        try:
            before = render(messages[:number], True)
            after = render(messages[: number + 1], False)
        except InputError:
            return None
        if not (text.startswith(after) and after.startswith(before) and at <= len(before)):
            return None
        at = len(before) + _turn_length(after[len(before) :], ends)
        spans.append((len(before), at))
    return spans


def _turn_length(turn: str, ends: Sequence[str]) -> int:
    """Characters of a turn up to the token that ends it, where only white space follows that."""
    found = [turn.rfind(stop) + len(stop) for stop in ends if stop in turn]
    end = max(found, default=len(turn))
    return end if not turn[end:].strip() else len(turn)
