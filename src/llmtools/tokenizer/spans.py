"""Which tokens of a conversation are the assistant's, and so are learned."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llmtools.errors import InputError
from llmtools.tokenizer.chat import NO_EXTRAS, ChatExtras, ChatTemplate, Message
from llmtools.tokenizer.shield import Encode, encode_rendered, shield


def supervised_spans(
    messages: Sequence[Message],
    template: ChatTemplate,
    special_tokens: Iterable[str],
    stops: Sequence[str],
    encode: Encode,
    extras: ChatExtras = NO_EXTRAS,
) -> tuple[list[int], list[int]]:
    """Ids of a conversation, and 1 where a token belongs to an assistant's turn, its end included.

    The turn of assistant message i is what the template adds after the prompt for it: the text of
    messages[:i + 1] less the text of messages[:i] with the generation prompt. White space that the
    template writes after the token that ends the turn is not part of it.

    The pieces between span edges are encoded one by one, because that is what generation sees: a
    prompt that was encoded alone, then new tokens. Where a special token stands at the edges, as in
    most templates, this equals encoding the whole text.

    raises: InputError when the template does not write conversations front to back (it rewrites
    earlier turns), so that no span of the text is the turn.
    """
    shielded, hidden = shield(messages, special_tokens)
    text = template.render(shielded, False)
    ids: list[int] = []
    mask: list[int] = []
    at = 0
    for number, message in enumerate(shielded):
        if message.get("role") != "assistant":
            continue
        before = template.render(shielded[:number], True)
        after = template.render(shielded[: number + 1], False)
        if not (text.startswith(after) and after.startswith(before) and at <= len(before)):
            raise InputError(
                f"message {number}: the chat template rewrites earlier turns, so the tokens of this"
                " answer cannot be told apart; use a chat template that keeps them"
            )
        end = len(before) + _turn_length(after[len(before) :], stops)
        for piece, is_answer in ((text[at : len(before)], 0), (text[len(before) : end], 1)):
            new = encode_rendered(piece, hidden, encode)
            ids += new
            mask += [is_answer] * len(new)
        at = end
    rest = encode_rendered(text[at:], hidden, encode)
    return ids + rest, mask + [0] * len(rest)


def _turn_length(turn: str, stops: Sequence[str]) -> int:
    """Characters of a turn up to the token that ends it, where only white space follows that."""
    ends = [turn.rfind(stop) + len(stop) for stop in stops if stop in turn]
    end = max(ends, default=len(turn))
    return end if not turn[end:].strip() else len(turn)
