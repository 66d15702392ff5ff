"""The engine: requests in, tokens out, every step one forward call for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

import torch

from llmtools.engine.cache import CachedContext, SequenceCache, default_positions
from llmtools.engine.detokenize import Decodes
from llmtools.engine.request import Completion, Output, Request
from llmtools.engine.scheduler import Limits, Scheduler
from llmtools.engine.sequence import Sequence
from llmtools.errors import InputError, UsageError
from llmtools.model import Decoder


class DoesNotFit(InputError):
    """A prompt and its new tokens are more than the context or the cache holds."""


class Engine:
    """Runs many requests at once over one model; used from one thread.

    A request's sampled tokens depend on its own settings and seed, not on what runs beside it, up
    to the rounding of sums (fp32 matrix products of other batch sizes).

    num_forward_calls, num_positions: counted since the start. A request adds its prompt and all
    sampled tokens to num_positions but the last, which nothing has to be predicted from.
    """

    def __init__(
        self,
        decoder: Decoder,
        tokenizer: Decodes,
        *,
        stop_ids: Set[int] = frozenset(),
        limits: Limits | None = None,
    ) -> None:
        """limits: None takes the defaults, and half of the machine's memory for the cache."""
        weight = decoder.model.embed_tokens.weight
        self.decoder = decoder
        self.config = decoder.config
        self.limits = limits or Limits(
            max_positions=default_positions(decoder.config, weight.device, weight.dtype)
        )
        self.num_forward_calls = 0
        self.num_positions = 0
        self._tokenizer = tokenizer
        self._stop_ids = frozenset(stop_ids)
        self._device, self._dtype = weight.device, weight.dtype
        self._scheduler = Scheduler(self.limits, self._admit)
        self._sequences: dict[str, Sequence] = {}

    @property
    def num_waiting(self) -> int:
        """Requests that have no place yet."""
        return len(self._scheduler.waiting)

    @property
    def num_running(self) -> int:
        return len(self._scheduler.running)

    @property
    def num_reserved(self) -> int:
        """Cache positions that running requests hold."""
        return self._scheduler.num_reserved

    @property
    def has_work(self) -> bool:
        return bool(self._sequences)

    def check(self, request: Request) -> int:
        """The positions a request may take, prompt included; changes nothing.

        raises: InputError for a prompt that is empty or has ids the model lacks; DoesNotFit, which
        is one, with all counts where it is too long.
        """
        num_prompt = len(request.prompt_ids)
        if num_prompt == 0:
            raise InputError(
                "the prompt has no tokens, and this tokenizer puts no BOS in front; give some text"
            )
        if not 0 <= min(request.prompt_ids) <= max(request.prompt_ids) < self.config.vocab_size:
            raise InputError(
                f"the prompt has token ids from {min(request.prompt_ids)} to"
                f" {max(request.prompt_ids)}, the model knows 0 to {self.config.vocab_size - 1}"
            )
        context = self.config.max_position_embeddings
        new = 1 if request.max_tokens is None else request.max_tokens
        needed = num_prompt + new
        for what, space in (("context", context), ("cache", self.limits.max_positions)):
            if needed > space:
                raise DoesNotFit(
                    f"the prompt has {num_prompt} tokens and {new} new ones are asked for, {needed}"
                    f" together; the {what} holds {space}"
                )
        if request.max_tokens is None:
            return min(context, self.limits.max_positions)
        return needed

    def add(self, request: Request) -> None:
        """Queue a request; raises like `check`, UsageError for an id that is already there."""
        limit = self.check(request)
        if request.id in self._sequences:
            raise UsageError(f"a request with the id {request.id!r} is already running")
        sequence = Sequence(request, limit, self._tokenizer, self._stop_ids)
        self._sequences[request.id] = sequence
        self._scheduler.add(sequence)

    def abort(self, request_id: str) -> None:
        """Forget a request and free its place; one that is finished or unknown is no error."""
        sequence = self._sequences.pop(request_id, None)
        if sequence is not None:
            self._scheduler.remove(sequence)

    @torch.inference_mode()
    def step(self) -> list[Output]:
        """One forward call; returns what it added to each request that got a token.

        Raises InputError when the model's logits are not finite.
        """
        parts = self._scheduler.plan()
        if not parts:
            return []
        ids = [id for sequence, count in parts for id in sequence.pending_ids(count)]
        context = CachedContext([(_cache(s), count) for s, count in parts], self._device)
        hidden_TC = self.decoder(torch.tensor(ids, device=self._device), context)
        context.commit()
        self.num_forward_calls += 1
        self.num_positions += len(ids)
        sampling, rows, stop = [], [], 0
        for sequence, count in parts:
            stop += count
            if sequence.num_pending == 0:
                sampling.append(sequence)
                rows.append(stop - 1)
        if not sampling:
            return []
        last_BC = hidden_TC if len(rows) == len(ids) else hidden_TC[rows]
        logits_BV = self.decoder.logits(last_BC)
        if not bool(torch.isfinite(logits_BV).all()):
            raise InputError("the model computes logits that are not finite; its weights are bad")
        return [self._extend(s, logits) for s, logits in zip(sampling, logits_BV, strict=True)]

    def _extend(self, sequence: Sequence, logits_V: torch.Tensor) -> Output:
        output = sequence.add(sequence.sampler(logits_V))
        if output.completion is not None:
            self.abort(output.request_id)
        return output

    def _admit(self, sequence: Sequence) -> None:
        # The last token is never run, so it needs no place.
        capacity = max(1, sequence.limit - 1)
        sequence.admit(SequenceCache(self.config, capacity, self._device, self._dtype))

    def run(self, requests: Iterable[Request]) -> Iterator[Output]:
        """Add requests and yield outputs until all are finished, in the order they come."""
        for request in requests:
            self.add(request)
        while self.has_work:
            yield from self.step()

    def complete(self, requests: Iterable[Request]) -> list[Completion]:
        """The completions of some requests, in the order of the requests."""
        listed = list(requests)
        done = {o.request_id: o.completion for o in self.run(listed) if o.completion is not None}
        return [done[request.id] for request in listed]


def _cache(sequence: Sequence) -> SequenceCache:
    assert sequence.cache is not None
    return sequence.cache
