"""The fast encoder does the work only where it gives the reference's ids."""

from __future__ import annotations

import random

import numpy as np
import pytest

from llmtools.tokenizer import facts, fast
from llmtools.tokenizer.tokenizer import Tokenizer
from llmtools.tokenizer.train import TRAIN_PATTERNS
from toy_tokenizer import ADVERSARIAL, TEXTS, toy_tokenizer

pytest.importorskip("gigatoken")


@pytest.fixture(autouse=True)
def small_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtools.tokenizer.tokenizer.WORTH_CHARS", 1)


def again(tokenizer: Tokenizer) -> Tokenizer:
    """The same tokenizer, which has encoded nothing yet."""
    return Tokenizer(tokenizer.to_json(), tokenizer._roles)


@pytest.mark.parametrize("pattern", TRAIN_PATTERNS)
@pytest.mark.parametrize("parse_special", [False, True])
def test_ids_are_the_reference_s(pattern: str, parse_special: bool) -> None:
    tokenizer = again(toy_tokenizer(pattern))
    draw = random.Random(4)
    mixed = ["".join(draw.choices("".join(ADVERSARIAL), k=60)) for _ in range(200)]
    texts = [*ADVERSARIAL, *TEXTS[:50], *fast.PROBES, *mixed]
    found = tokenizer.encode_batch(texts, parse_special=parse_special)
    # It does not know how SmolLM cuts digits.
    assert (tokenizer._fast[parse_special] is None) == (pattern == "smollm")
    assert [ids.tolist() for ids in found] == [
        tokenizer.encode(text, parse_special=parse_special) for text in texts
    ]


class Wrong(fast.FastEncoder):
    """Gives one id too many for texts with a rare letter."""

    def encode(self, text: str) -> fast.Ids:
        ids = super().encode(text)
        return np.append(ids, np.uint32(0)) if "Q" in text else ids


@pytest.mark.parametrize("broken", ["ids", "raises"])
def test_one_that_differs_is_dropped_with_a_note(broken, monkeypatch, capsys) -> None:
    class Broken(Wrong):
        def encode(self, text: str) -> fast.Ids:
            if broken == "raises" and "Q" in text:
                raise ValueError("no")
            return super().encode(text)

    monkeypatch.setattr("llmtools.tokenizer.tokenizer.FastEncoder", Broken)
    tokenizer = again(toy_tokenizer())
    texts = ["plain text", "a rare Q", "more"]
    found = tokenizer.encode_batch(texts)
    assert tokenizer._fast[False] is None
    assert [ids.tolist() for ids in found] == [tokenizer.encode(text) for text in texts]
    assert "not gigatoken" in capsys.readouterr().err


def test_a_split_rule_that_it_does_not_know_is_left_to_the_reference(capsys) -> None:
    tokenizer = toy_tokenizer("gpt4")
    content = tokenizer.to_json().replace(r"\\p{N}{1,3}", r"\\p{N}{1,5}")
    changed = Tokenizer(content, tokenizer._roles)
    found = changed.encode_batch(["12345678 words"])
    assert [ids.tolist() for ids in found] == [changed.encode("12345678 words")]


@pytest.mark.parametrize("unit", ["a", " ", "\n", "\u6f22", "<|"])
def test_a_megabyte_without_a_break_comes_back(unit: str) -> None:
    text = unit * (1_000_000 // len(unit.encode()))
    tokenizer = again(toy_tokenizer("gpt4"))
    ids = tokenizer.encode_batch([text])[0]
    assert tokenizer.decode(ids.tolist()) == text


def test_small_inputs_do_not_load_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmtools.tokenizer.tokenizer.WORTH_CHARS", 1000)
    tokenizer = again(toy_tokenizer())
    tokenizer.encode_batch(["few words"])
    assert tokenizer._fast == {}


def test_facts_are_found_out_once_and_survive_damage(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tokenizer = again(toy_tokenizer())
    known = (tokenizer.identity, tokenizer.vocab_size)
    (kept,) = (tmp_path / "llmtools" / "tokenizers").iterdir()
    digest = kept.stem
    assert facts.recall(digest) == facts.Facts(identity=known[0], vocab_size=known[1])
    for damage in (b"", b"[]", b'{"identity": 5, "vocab_size": 3}', b"\xff"):
        kept.write_bytes(damage)
        assert facts.recall(digest) is None
        assert (again(tokenizer).identity, again(tokenizer).vocab_size) == known
    monkeypatch.setenv("XDG_CACHE_HOME", "/dev/null")
    assert again(tokenizer).identity == known[0]
