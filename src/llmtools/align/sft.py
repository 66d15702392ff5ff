"""Supervised fine-tuning data: conversations to rows whose labels are the assistant's tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmtools import terminal
from llmtools.align.conversations import Conversation
from llmtools.errors import InputError
from llmtools.tokenizer.chat import CHATML, ChatExtras
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.train.data import TrainingRow, next_token_row

CHATML_TOKENS = ("<|im_start|>", "<|im_end|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedConversation:
    """Token ids, and 1 where a token is the assistant's (its end of turn included), both [T]."""

    input_ids: np.ndarray
    is_target: np.ndarray


class ConversationRows:
    """One conversation a row; a batch holds several, none of which sees another."""

    def __init__(self, conversations: list[EncodedConversation]) -> None:
        self.conversations = conversations

    @property
    def num_rows(self) -> int:
        return len(self.conversations)

    def row(self, index: int) -> TrainingRow:
        one = self.conversations[index]
        return next_token_row(one.input_ids, [len(one.input_ids)], one.is_target)

    def split(self, fraction: float, seed: int) -> tuple[ConversationRows, ConversationRows]:
        """Rows to train on and a random fraction to validate on (at least one row)."""
        # A stream of its own, which no epoch's order shares.
        order = np.random.default_rng([seed, 1 << 32]).permutation(self.num_rows)
        count = max(1, round(fraction * self.num_rows))
        held_out = set(order[:count].tolist())
        kept = [one for at, one in enumerate(self.conversations) if at not in held_out]
        return ConversationRows(kept), ConversationRows(
            [self.conversations[at] for at in sorted(held_out)]
        )


def with_template(tokenizer: Tokenizer) -> Tokenizer:
    """The tokenizer with its own chat template, else ChatML where its vocabulary has the tokens.

    raises: InputError for a tokenizer with neither.
    """
    if tokenizer.chat_template is not None:
        return tokenizer
    if not set(CHATML_TOKENS) <= tokenizer.special_tokens.keys():
        raise InputError(
            f"{tokenizer.where}: no chat template, and no {' and '.join(CHATML_TOKENS)} for ChatML;"
            " add a chat_template.jinja beside the tokenizer"
        )
    terminal.note(f"{tokenizer.where} has no chat template; ChatML is used and saved")
    return tokenizer.with_chat_template(CHATML)


def encode_conversations(
    conversations: Iterable[Conversation],
    tokenizer: Tokenizer,
    *,
    max_length: int,
    on_too_long: Literal["cut", "skip"],
) -> tuple[ConversationRows, dict[str, int]]:
    """Rows, and counts of conversations, tokens, targets, and those cut or skipped.

    max_length: tokens of a conversation; `cut` keeps the first ones, `skip` leaves it out.
    raises: InputError naming FILE:LINE where no token is left to learn.
    """
    kept: list[EncodedConversation] = []
    counts = {"conversations": 0, "tokens": 0, "targets": 0, "cut": 0, "skipped": 0}
    for conversation in conversations:
        try:
            extras = ChatExtras(tools=conversation.tools)
            ids, mask = tokenizer.supervised_spans(conversation.messages, extras)
        except InputError as fault:
            raise InputError(f"{conversation.where}: {fault}") from fault
        if len(ids) > max_length:
            if on_too_long == "skip":
                counts["skipped"] += 1
                continue
            counts["cut"] += 1
        is_target = np.array(mask[:max_length], np.uint8)
        # The first token has nothing before it, so it is nobody's target.
        is_target[:1] = 0
        if not is_target.any():
            raise InputError(_nothing_to_learn(conversation, len(ids), max_length))
        ids_kept = np.array(ids[:max_length], np.int64)
        kept.append(EncodedConversation(input_ids=ids_kept, is_target=is_target))
        counts["conversations"] += 1
        counts["tokens"] += len(ids_kept)
        counts["targets"] += int(is_target.sum())
    return ConversationRows(kept), counts


def _nothing_to_learn(conversation: Conversation, length: int, max_length: int) -> str:
    roles = ", ".join(str(message["role"]) for message in conversation.messages)
    if length > max_length:
        return (
            f"{conversation.where}: no answer is left of its {length} tokens within --max-length"
            f" {max_length}; raise it, or leave such records out with --on-too-long skip"
        )
    return f"{conversation.where}: no token to learn: no assistant message (roles: {roles})"
