"""What the engine is asked for and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from llmtools.engine.sampling import Sampling
from llmtools.errors import UsageError

FinishReason = Literal["stop", "length"]
MAX_STOP_STRINGS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One prompt; UsageError names every value out of range.

    id: names the request in the engine's outputs. max_tokens: None means as many as the context
    holds. stop: strings that end the text and are cut off it. ignore_eos: stop ids do not end it.
    """

    id: str
    prompt_ids: Sequence[int]
    max_tokens: int | None = None
    sampling: Sampling = field(default_factory=Sampling)
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        limit = self.max_tokens
        if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int)):
            raise UsageError(f"max_tokens is {limit!r}, not an integer")
        if limit is not None and limit < 1:
            raise UsageError(f"max_tokens is {limit}, not at least 1")
        if not all(isinstance(text, str) and text for text in self.stop):
            raise UsageError(f"stop is {list(self.stop)!r}; stop strings are texts, not empty")
        if len(self.stop) > MAX_STOP_STRINGS:
            raise UsageError(f"{len(self.stop)} stop strings (limit {MAX_STOP_STRINGS})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """A finished request.

    token_ids: every sampled token, a stop token included; text: without it, cut before a stop
    string. prefill_s: from the first forward call to the first token; decode_s: from there to the
    last token.
    """

    request_id: str
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    num_prompt_tokens: int
    prefill_s: float
    decode_s: float

    @property
    def usage(self) -> dict[str, int]:
        """Token counts by the names of OpenAI's API."""
        sampled = len(self.token_ids)
        return {
            "prompt_tokens": self.num_prompt_tokens,
            "completion_tokens": sampled,
            "total_tokens": self.num_prompt_tokens + sampled,
        }

    def to_json(self) -> dict[str, Any]:
        """The object of `llm generate --json`; a rate needs two tokens, else it is null."""
        gaps = len(self.token_ids) - 1
        rate = gaps / self.decode_s if gaps and self.decode_s > 0 else None
        return {
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.finish_reason,
            "usage": self.usage,
            "timings": {
                "prefill_s": self.prefill_s,
                "decode_s": self.decode_s,
                "decode_tokens_per_s": rate,
            },
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Output:
    """What one step added to one request: one token, and the text that became certain with it.

    text may be empty (part of a character, or of what may become a stop string). completion: the
    whole, with the last token.
    """

    request_id: str
    token_id: int
    text: str
    completion: Completion | None = None
