"""Records to requests, a model's own settings, and engines from files."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmtools.engine.defaults import read_generation_defaults
from llmtools.engine.jobs import DEFAULT_MAX_TOKENS, read_jobs, run_jobs
from llmtools.engine.load import LoadedModel, load_engine
from llmtools.engine.prompt import encode_prompt
from llmtools.engine.request import Request
from llmtools.engine.sampling import Sampling
from llmtools.errors import InputError
from llmtools.formats.records import read_records
from tiny_llama import save_tiny_llama

USER = [{"role": "user", "content": "a"}]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_engine(save_tiny_llama(tmp_path_factory.mktemp("jobs") / "model"), device="cpu")


@pytest.fixture
def jobs_of(model: LoadedModel, tmp_path: Path) -> Callable[..., Any]:
    def read(*records: Any, **settings: Any) -> Any:
        file = tmp_path / "in.jsonl"
        file.write_text("".join(json.dumps(record) + "\n" for record in records))
        return read_jobs(read_records([str(file)]), model, settings)

    return read


def make_request(model: LoadedModel, prompt: Any, settings: dict[str, Any]) -> Request:
    ids = encode_prompt(model.tokenizer, prompt)
    return model.request("0", ids, settings, DEFAULT_MAX_TOKENS)


def test_a_record_overrides_the_settings_of_all(jobs_of: Callable[..., Any]) -> None:
    first, second = jobs_of(
        {"prompt": "a", "id": {"any": "json"}},
        {"prompt": "b", "max_tokens": 7, "seed": 2, "stop": "x", "top_k": None},
        max_tokens=9,
        temperature=0.5,
        seed=1,
        top_k=4,
    )
    assert first.id == {"any": "json"} and second.id == "2"
    assert first.request.sampling == Sampling(temperature=0.5, top_k=4, seed=1)
    assert second.request.sampling == Sampling(temperature=0.5, top_k=4, seed=2)
    assert (first.request.max_tokens, second.request.max_tokens) == (9, 7)
    assert second.request.stop == ("x",)


def test_results_keep_the_order_of_the_records(
    model: LoadedModel, jobs_of: Callable[..., Any]
) -> None:
    jobs = jobs_of(*({"prompt": "abc", "max_tokens": n} for n in (9, 1, 5, 2)), ignore_eos=True)
    assert [len(done.token_ids) for _, done in run_jobs(model, jobs)] == [9, 1, 5, 2]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"promt": "a"}, "unknown key 'promt'; did you mean 'prompt'?"),
        ({}, "either 'prompt' or 'messages'"),
        ({"prompt": "a", "messages": []}, "either 'prompt' or 'messages'"),
        ({"prompt": 5}, "'prompt' is not a text"),
        ({"prompt": "a", "tools": []}, "tools without 'messages'"),
        ({"messages": USER, "documents": 3}, "documents is not a list"),
        ({"messages": USER, "tools": [{"name": "f"}]}, "has no tools"),
        ({"messages": USER, "tools": [{"n": "f"}]}, "tools[0] is no function"),
        ({"messages": USER, "chat_template_kwargs": 3}, "chat_template_kwargs is not"),
        ({"messages": USER, "continue_final_message": 1}, "continue_final_message is not"),
        ({"prompt": ""}, "the prompt has no tokens"),
        ({"prompt": "a", "max_tokens": 1000}, "the context holds 128"),
        ({"prompt": "a", "max_tokens": "9"}, "max_tokens is '9'"),
        ({"prompt": "a", "temperature": "hot"}, "temperature is 'hot'"),
        ({"prompt": "a", "min_p": True}, "min_p is True"),
        ({"prompt": "a", "seed": 1.5}, "seed is 1.5"),
        ({"prompt": "a", "stop": 5}, "stop is 5"),
        ({"prompt": "a", "stop": [""]}, "not empty"),
        ({"prompt": "a", "ignore_eos": 1}, "ignore_eos"),
        ({"messages": "hi"}, "'messages' is not a list of objects"),
        ({"messages": []}, "messages is empty"),
        ({"messages": [{"content": "a"}]}, "no role"),
    ],
)
def test_a_bad_record_is_named_before_any_runs(
    jobs_of: Callable[..., Any], record: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        jobs_of({"prompt": "good"}, record)
    assert message in str(caught.value) and "in.jsonl:2: " in str(caught.value)


def test_text_that_is_not_unicode_is_refused(model: LoadedModel) -> None:
    with pytest.raises(InputError, match=r"not Unicode text.*at character 2"):
        make_request(model, "ab\ud800", {})
    with pytest.raises(InputError, match="not Unicode"):
        make_request(model, [{"role": "user", "content": "\udcff"}], {})


def test_new_tokens_default_to_what_fits(model: LoadedModel) -> None:
    request = make_request(model, "a" * 10, {})
    assert len(request.prompt_ids) + (request.max_tokens or 0) == 128


def test_a_models_own_settings_are_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "generation_config.json"

    def sampling(**values: Any) -> Sampling:
        file.write_text(json.dumps(values))
        return read_generation_defaults(tmp_path).sampling

    assert read_generation_defaults(tmp_path).sampling == Sampling()
    assert sampling(temperature=0.7) == Sampling()
    assert sampling(do_sample=True) == Sampling(temperature=1.0)
    assert sampling(do_sample=True, temperature=0.6, top_p=0.9) == Sampling(
        temperature=0.6, top_p=0.9
    )
    file.write_text('{"eos_token_id": [2, 5]}')
    assert read_generation_defaults(tmp_path).stop_ids == {2, 5}
    with pytest.raises(InputError, match=r"generation_config.json: temperature is 'hot'"):
        sampling(do_sample=True, temperature="hot")
    with pytest.raises(InputError, match="eos_token_id"):
        sampling(eos_token_id="</s>")


def test_answers_end_at_the_stop_ids_of_tokenizer_config_and_generation_config(
    tmp_path: Path,
) -> None:
    directory = save_tiny_llama(tmp_path / "model", eos_token_id=[1, 7])
    (directory / "generation_config.json").write_text('{"eos_token_id": 9}')
    loaded = load_engine(directory, device="cpu")
    (free,) = loaded.engine.complete([make_request(loaded, "The quick", {"ignore_eos": True})])
    for stop in (1, 7, 9):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("llmtools.engine.sampling.Sampler.__call__", lambda *_, stop=stop: stop)
            (done,) = loaded.engine.complete([make_request(loaded, "The quick", {})])
        assert (done.token_ids, done.finish_reason, done.text) == ([stop], "stop", "")
    assert free.finish_reason == "length"
