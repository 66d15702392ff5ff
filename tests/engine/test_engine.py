"""One engine: batches, counts, limits, stops."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from llmtools.engine.request import Completion, Request
from llmtools.engine.sampling import Sampling
from llmtools.engine.scheduler import Limits
from llmtools.errors import InputError, UsageError
from llmtools.model import PackedRows
from tiny_engine import EOS, prompts, tiny_decoder, tiny_engine


def requests(count: int, **settings: object) -> list[Request]:
    options: dict[str, object] = {"max_tokens": 20, "ignore_eos": True} | settings
    return [
        Request(id=str(i), prompt_ids=ids, **options)  # type: ignore[arg-type]
        for i, ids in enumerate(prompts(count))
    ]


def tokens(completions: list[Completion]) -> list[list[int]]:
    return [completion.token_ids for completion in completions]


def test_greedy_tokens_are_the_argmax_of_whole_forward_passes() -> None:
    decoder = tiny_decoder()
    for request, done in zip(requests(3), tiny_engine().complete(requests(3)), strict=True):
        ids = list(request.prompt_ids)
        with torch.no_grad():
            for _ in range(20):
                hidden = decoder(torch.tensor(ids), PackedRows([len(ids)]))
                ids.append(int(decoder.logits(hidden[-1:]).argmax()))
        assert done.token_ids == ids[len(request.prompt_ids) :]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_tokens_do_not_depend_on_batch_mates_or_chunks(temperature: float) -> None:
    wanted = [
        replace(r, sampling=Sampling(temperature=temperature, top_p=0.9, seed=i))
        for i, r in enumerate(requests(9))
    ]
    alone = [tiny_engine().complete([request])[0] for request in wanted]
    together = tiny_engine(max_batch=8).complete(wanted)
    chunked = tiny_engine(max_batch=4, max_step_tokens=5).complete(wanted)
    assert tokens(alone) == tokens(together) == tokens(chunked)
    assert [c.text for c in alone] == [c.text for c in chunked]


def test_positions_are_the_prompt_and_all_sampled_tokens_but_the_last() -> None:
    engine = tiny_engine(max_step_tokens=16)
    done = engine.complete(requests(6))
    expected = sum(c.num_prompt_tokens + len(c.token_ids) - 1 for c in done)
    assert engine.num_positions == expected


def test_a_batch_takes_the_forward_calls_of_its_longest_request() -> None:
    engine = tiny_engine(max_step_tokens=512)
    done = engine.complete([replace(r, max_tokens=5 + i) for i, r in enumerate(requests(8))])
    assert engine.num_forward_calls == max(len(c.token_ids) for c in done) == 12


def test_a_request_that_comes_later_joins_the_running_batch() -> None:
    engine = tiny_engine()
    first, second = requests(2)
    engine.add(first)
    engine.step()
    engine.add(second)
    outputs = engine.step()
    assert [o.request_id for o in outputs] == [first.id, second.id]
    assert engine.num_forward_calls == 2


def test_prompts_longer_than_a_step_leave_room_for_those_that_decode() -> None:
    engine = tiny_engine(max_batch=2, max_step_tokens=8)
    engine.add(Request(id="short", prompt_ids=[1], max_tokens=20, ignore_eos=True))
    engine.step()
    engine.add(Request(id="long", prompt_ids=[2] * 30, max_tokens=2))
    for _ in range(4):
        assert [o.request_id for o in engine.step()] == ["short"]
    assert [o.request_id for o in engine.step()] == ["short", "long"]


def test_an_aborted_request_frees_its_place() -> None:
    engine = tiny_engine(max_batch=1)
    first, second = requests(2)
    engine.add(first)
    engine.add(second)
    engine.step()
    assert (engine.num_running, engine.num_waiting) == (1, 1)
    engine.abort(first.id)
    assert engine.num_reserved == 0
    assert [o.request_id for o in engine.step()] == [second.id]
    engine.abort(second.id)
    engine.abort("never there")
    assert not engine.has_work and engine.step() == []


def test_requests_wait_for_cache_positions_and_all_finish() -> None:
    engine = tiny_engine(max_positions=70)
    wanted = requests(8)
    seen = []
    for _ in engine.run(wanted):
        seen.append(engine.num_reserved)
    assert max(seen) <= 70 and engine.num_reserved == 0
    assert tokens(tiny_engine().complete(wanted)) == tokens(
        tiny_engine(max_positions=70).complete(wanted)
    )


def test_a_request_that_cannot_fit_is_refused_with_counts() -> None:
    engine = tiny_engine(max_positions=100)

    def refusal(**settings: object) -> str:
        with pytest.raises(InputError) as caught:
            engine.add(Request(id="x", **settings))  # type: ignore[arg-type]
        return str(caught.value)

    assert "120 tokens and 20 new ones" in refusal(prompt_ids=[1] * 120, max_tokens=20)
    assert "140 together; the context holds 128" in refusal(prompt_ids=[1] * 120, max_tokens=20)
    assert "110 together; the cache holds 100" in refusal(prompt_ids=[1] * 90, max_tokens=20)
    assert "129 together; the context holds 128" in refusal(prompt_ids=[1] * 128)
    assert "no tokens" in refusal(prompt_ids=[])
    assert "the model knows 0 to 256" in refusal(prompt_ids=[1, 257])
    assert not engine.has_work
    engine.add(Request(id="x", prompt_ids=[1], max_tokens=1))
    with pytest.raises(UsageError, match="already running"):
        engine.add(Request(id="x", prompt_ids=[1], max_tokens=1))


def test_without_a_limit_a_request_fills_the_context() -> None:
    engine = tiny_engine()
    (done,) = engine.complete([Request(id="a", prompt_ids=[5] * 8, ignore_eos=True)])
    assert (len(done.token_ids), done.finish_reason) == (120, "length")
    assert done.usage == {"prompt_tokens": 8, "completion_tokens": 120, "total_tokens": 128}


def test_a_stop_id_ends_the_request_and_has_no_text() -> None:
    request = requests(1)[0]
    (free,) = tiny_engine().complete([request])
    stop = free.token_ids[6]
    at = free.token_ids.index(stop)
    engine = tiny_engine(stop_ids=frozenset({stop}))
    (done,) = engine.complete([replace(request, ignore_eos=False)])
    assert done.token_ids == free.token_ids[: at + 1]
    assert done.finish_reason == "stop"
    assert tiny_engine(stop_ids=frozenset({stop})).complete([request])[0] == replace(
        free, prefill_s=pytest.approx(0, abs=9), decode_s=pytest.approx(0, abs=9)
    )


def test_a_stop_string_is_found_across_tokens_and_cut_off() -> None:
    request = requests(1, max_tokens=60)[0]
    (free,) = tiny_engine().complete([request])
    at = next(i for i in range(10, 50) if free.text[i : i + 3].isascii())
    stop = free.text[at : at + 3]
    outputs = list(tiny_engine().run([replace(request, stop=("never there", stop))]))
    done = outputs[-1].completion
    assert done is not None and done.finish_reason == "stop"
    assert done.text == free.text[: free.text.index(stop)] == "".join(o.text for o in outputs)
    assert free.token_ids[: len(done.token_ids)] == done.token_ids


def test_outputs_are_the_completion_piece_by_piece() -> None:
    for request in requests(4, max_tokens=50, ignore_eos=False):
        outputs = list(tiny_engine().run([request]))
        done = outputs[-1].completion
        assert done is not None and all(o.completion is None for o in outputs[:-1])
        assert [o.token_id for o in outputs] == done.token_ids
        assert "".join(o.text for o in outputs) == done.text
        shown = [id for id in done.token_ids if id != EOS]
        assert done.text == bytes(shown).decode("utf-8", errors="replace")


def test_weights_that_are_not_finite_are_named() -> None:
    engine = tiny_engine()
    with torch.no_grad():
        engine.decoder.model.norm.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="not finite"):
        engine.complete(requests(1))


def test_settings_out_of_range_are_refused_together() -> None:
    with pytest.raises(UsageError, match=r"temperature is -1.*top_p is 0.*min_p is 2"):
        Sampling(temperature=-1, top_p=0, min_p=2)
    with pytest.raises(UsageError, match="max_tokens is 0"):
        Request(id="", prompt_ids=[1], max_tokens=0)
    with pytest.raises(UsageError, match="not empty"):
        Request(id="", prompt_ids=[1], stop=("",))
    with pytest.raises(UsageError, match="at least one token of each"):
        Limits(max_batch=8, max_step_tokens=4, max_positions=10)
