"""Tokenizers inside GGUF files have the ids and the identity of their originals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmtools.errors import InputError
from llmtools.formats.gguf_writer import write_gguf
from llmtools.tokenizer.chat import CHATML
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import SpecialRoles, Tokenizer
from llmtools.tokenizer.train import train_tokenizer
from toy_tokenizer import ADVERSARIAL, TEXTS, fields_of, toy_tokenizer


def metadata_of(tokenizer: Tokenizer, pre: str, **changes: Any) -> dict[str, Any]:
    """What llama.cpp's converter writes for a byte-level BPE tokenizer."""
    fields = fields_of(tokenizer)
    names = dict(fields["model"]["vocab"])
    kinds = {token["content"]: 3 if token["special"] else 4 for token in fields["added_tokens"]}
    names |= {token["content"]: token["id"] for token in fields["added_tokens"]}
    tokens = sorted(names, key=names.__getitem__)
    metadata = {
        "general.architecture": "llama",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [kinds.get(token, 1) for token in tokens],
        "tokenizer.ggml.merges": [" ".join(merge) for merge in fields["model"]["merges"]],
        "tokenizer.ggml.add_bos_token": False,
    }
    return {k: v for k, v in (metadata | changes).items() if v is not None}


def load_from(path: Path, metadata: dict[str, Any]) -> Tokenizer:
    write_gguf(str(path), metadata, [], force=True)
    return load_tokenizer(path)


def llama3_like() -> Tokenizer:
    """Special tokens after the model's own, and whole words looked up before merging."""
    fields = fields_of(train_tokenizer(TEXTS, 380, pattern="llama3", special_tokens=[]))
    fields["model"]["ignore_merges"] = True
    end = len(fields["model"]["vocab"])
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    for at, (name, special) in enumerate(
        [("<|begin_of_text|>", True), ("<tool>", False), ("<|eot_id|>", True)]
    ):
        fields["added_tokens"].append(
            {"id": end + at, "content": name, "special": special, **flags}
        )
    roles = SpecialRoles(bos="<|begin_of_text|>", eos="<|eot_id|>")
    return Tokenizer(json.dumps(fields), roles)


def smollm_like() -> Tokenizer:
    fields = fields_of(toy_tokenizer())
    digits = {"type": "Digits", "individual_digits": True}
    fields["pre_tokenizer"] = {
        "type": "Sequence",
        "pretokenizers": [digits, fields["pre_tokenizer"]],
    }
    return Tokenizer(json.dumps(fields), SpecialRoles(eos="<|endoftext|>"))


@pytest.mark.parametrize(
    ("original", "pre"),
    [(toy_tokenizer(), "gpt-2"), (smollm_like(), "smollm"), (llama3_like(), "llama-bpe")],
    ids=["gpt-2", "smollm", "llama-bpe"],
)
def test_a_rebuilt_vocabulary_is_the_original(
    tmp_path: Path, original: Tokenizer, pre: str
) -> None:
    rebuilt = load_from(tmp_path / "m.gguf", metadata_of(original, pre))
    assert rebuilt.identity == original.identity
    assert rebuilt.vocab_size == original.vocab_size
    assert rebuilt.special_tokens == original.special_tokens
    for text in [*TEXTS, *ADVERSARIAL]:
        for parse in (False, True):
            ids = original.encode(text, parse_special=parse)
            assert rebuilt.encode(text, parse_special=parse) == ids
            assert rebuilt.decode(ids) == text


def test_another_split_rule_gives_other_ids(tmp_path: Path) -> None:
    rebuilt = load_from(tmp_path / "m.gguf", metadata_of(smollm_like(), "gpt-2"))
    assert rebuilt.identity != smollm_like().identity


def test_roles_and_template_come_from_the_metadata(tmp_path: Path) -> None:
    metadata = metadata_of(toy_tokenizer(), "gpt-2") | {
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.ggml.eot_token_id": 5,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.chat_template": CHATML,
    }
    tokenizer = load_from(tmp_path / "m.gguf", metadata)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (1, 0)
    assert tokenizer.stop_ids == {0, 2, 5}
    assert tokenizer.adds_bos
    assert tokenizer.encode("a", add_special_tokens=True)[0] == 1
    assert tokenizer.identity == toy_tokenizer().identity


def test_a_whole_tokenizer_json_wins(tmp_path: Path) -> None:
    whole = {"tokenizer.huggingface.json": toy_tokenizer().to_json()}
    metadata = metadata_of(smollm_like(), "unheard-of") | whole
    assert load_from(tmp_path / "m.gguf", metadata).identity == toy_tokenizer().identity


def test_padding_entries_are_not_tokens(tmp_path: Path) -> None:
    metadata = metadata_of(toy_tokenizer(), "gpt-2")
    metadata["tokenizer.ggml.tokens"] += ["[PAD1]", "[PAD2]"]
    metadata["tokenizer.ggml.token_type"] += [5, 5]
    tokenizer = load_from(tmp_path / "m.gguf", metadata)
    assert tokenizer.vocab_size == toy_tokenizer().vocab_size


@pytest.mark.parametrize(
    ("changes", "mention"),
    [
        ({"tokenizer.ggml.model": None}, "no tokenizer"),
        ({"tokenizer.ggml.model": "llama"}, "scores"),
        ({"tokenizer.ggml.model": "t5", "tokenizer.ggml.scores": [0.5]}, "scores"),
        ({"tokenizer.ggml.model": "bert"}, "unknown_token_id"),
        ({"tokenizer.ggml.model": "rwkv"}, "RWKV's greedy words"),
        ({"tokenizer.ggml.pre": "gemma4"}, "gemma4"),
        ({"tokenizer.ggml.pre": None}, "does not say how text is split"),
        ({"tokenizer.ggml.tokens": None}, "tokens"),
        ({"tokenizer.ggml.tokens": [1, 2]}, "tokens"),
        ({"tokenizer.ggml.tokens": ["a", "a"], "tokenizer.ggml.token_type": [1, 1]}, "twice"),
        ({"tokenizer.ggml.token_type": [1]}, "token_type"),
        ({"tokenizer.ggml.token_type": ["x"]}, "token_type"),
        ({"tokenizer.ggml.merges": ["ab"]}, "merge 0"),
        ({"tokenizer.ggml.merges": ["zz yy"]}, "do not agree"),
        ({"tokenizer.ggml.eos_token_id": 10**6}, "eos"),
        ({"tokenizer.huggingface.json": "{"}, "not a tokenizer.json"),
    ],
)
def test_an_inconsistent_vocabulary_is_refused_by_name(
    tmp_path: Path, changes: dict[str, Any], mention: str
) -> None:
    with pytest.raises(InputError, match=mention) as caught:
        load_from(tmp_path / "m.gguf", metadata_of(toy_tokenizer(), "gpt-2", **changes))
    assert "m.gguf" in str(caught.value)
