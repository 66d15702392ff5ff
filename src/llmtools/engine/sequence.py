"""One request on its way through the engine."""

from __future__ import annotations

import time
from collections.abc import Set

from llmtools.engine.cache import SequenceCache
from llmtools.engine.detokenize import Decodes, Detokenizer
from llmtools.engine.request import Completion, FinishReason, Output, Request
from llmtools.engine.sampling import Sampler
from llmtools.engine.stop import StopStrings


class Sequence:
    """The tokens of a request, prompt first, and everything that decides what follows them.

    limit: positions it may have in all, prompt included. cache: set when it is admitted.
    """

    def __init__(
        self, request: Request, limit: int, tokenizer: Decodes, stop_ids: Set[int]
    ) -> None:
        self.request = request
        self.limit = limit
        self.ids = list(request.prompt_ids)
        self.sampler = Sampler(request.sampling)
        self.cache: SequenceCache | None = None
        self._stop_ids: Set[int] = frozenset() if request.ignore_eos else stop_ids
        self._detokenizer = Detokenizer(tokenizer, request.prompt_ids)
        self._stops = StopStrings(request.stop)
        self._text: list[str] = []
        self._start_s = self._first_token_s = 0.0

    @property
    def num_pending(self) -> int:
        """Tokens that have not been through the model."""
        return len(self.ids) - (0 if self.cache is None else self.cache.length)

    def pending_ids(self, count: int) -> list[int]:
        """The next `count` tokens to run."""
        start = len(self.ids) - self.num_pending
        return self.ids[start : start + count]

    def admit(self, cache: SequenceCache) -> None:
        """Give it a place."""
        self.cache = cache
        self._start_s = time.perf_counter()

    def add(self, token_id: int) -> Output:
        """Take the sampled token; the output carries the completion when it was the last."""
        now_s = time.perf_counter()
        num_prompt = len(self.request.prompt_ids)
        if len(self.ids) == num_prompt:
            self._first_token_s = now_s
        self.ids.append(token_id)
        is_stop_id = token_id in self._stop_ids
        text = "" if is_stop_id else self._stops.feed(self._detokenizer.feed(token_id))
        reason: FinishReason | None = "stop" if is_stop_id or self._stops.found else None
        if reason is None and len(self.ids) == self.limit:
            reason = "length"
        if reason is not None and not self._stops.found:
            text += self._stops.feed(self._detokenizer.finish())
            text += self._stops.finish()
            reason = "stop" if self._stops.found else reason
        self._text.append(text)
        completion = None
        if reason is not None:
            completion = Completion(
                request_id=self.request.id,
                text="".join(self._text),
                token_ids=self.ids[num_prompt:],
                finish_reason=reason,
                num_prompt_tokens=num_prompt,
                prefill_s=self._first_token_s - self._start_s,
                decode_s=now_s - self._first_token_s,
            )
        return Output(
            request_id=self.request.id, token_id=token_id, text=text, completion=completion
        )
