"""New tokens for a tokenizer that is there, and a model's first rows for them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmtools.errors import InputError, UsageError
from llmtools.formats.record import Document
from llmtools.tokenizer.extend import extend_tokenizer
from llmtools.tokenizer.fertility import Sample, measure
from llmtools.tokenizer.new_rows import focus_rows, mean_rows, sparsemax
from llmtools.tokenizer.tokenizer import SpecialRoles, Tokenizer
from llmtools.tokenizer.train import train_tokenizer
from toy_tokenizer import ADVERSARIAL, TEXTS, fields_of, toy_tokenizer

NEW = ["Żółw i zając. Zażółć gęślą jaźń, proszę! Ile to jest 12345?"] * 4 + ADVERSARIAL


def document(text: str, **fields: object) -> Document:
    return Document(b"", {"text": text, **fields}, "x", 1, "x:1", text)


@pytest.mark.parametrize("rule", ["gpt2", "llama3", "qwen2"])
def test_old_ids_stay_and_new_tokens_are_made_of_their_pieces(rule: str) -> None:
    old = toy_tokenizer(rule)
    found = extend_tokenizer(old, NEW, 60)
    new = found.tokenizer
    assert new.vocab_size == old.vocab_size + 60 == old.vocab_size + len(found.pieces)
    old_fields, new_fields = fields_of(old), fields_of(new)
    assert old_fields["model"]["vocab"].items() <= new_fields["model"]["vocab"].items()
    num_merges = len(old_fields["model"]["merges"])
    assert new_fields["model"]["merges"][:num_merges] == old_fields["model"]["merges"]
    assert new.special_tokens == old.special_tokens and new.eos_id == old.eos_id
    for text in [*NEW, *TEXTS]:
        spread = [
            piece
            for id in new.encode(text)
            for piece in ([id] if id < old.vocab_size else found.pieces[id - old.vocab_size])
        ]
        assert spread == old.encode(text)
    assert sum(len(new.encode(t)) for t in NEW) < 0.8 * sum(len(old.encode(t)) for t in NEW)


def test_special_tokens_behind_the_model_s_own_keep_their_ids() -> None:
    """As Llama 3's and Qwen's, whose tokenizer.json does not have them in the model."""
    trained = train_tokenizer(TEXTS, 360, pattern="llama3", special_tokens=[])
    fields = fields_of(trained)
    like = fields_of(toy_tokenizer("llama3"))["added_tokens"][0]
    ids = {"<|begin_of_text|>": 360, "<|end_of_text|>": 361, "<|eot_id|>": 362}
    fields["added_tokens"] = [like | {"id": id, "content": name} for name, id in ids.items()]
    old = Tokenizer(json.dumps(fields), SpecialRoles(eos="<|end_of_text|>"))
    new = extend_tokenizer(old, NEW, 40).tokenizer
    assert new.special_tokens == old.special_tokens == ids
    assert (new.vocab_size, new.eos_id) == (403, 361)
    assert 362 in new.encode("a<|eot_id|>b Żółw", parse_special=True)
    for text in [*NEW, *ids]:
        found = new.encode(text)
        assert new.decode(found) == text and not set(ids.values()) & set(found)


def test_a_text_without_new_pairs_is_encoded_as_before() -> None:
    old = toy_tokenizer()
    new = extend_tokenizer(old, ["日本語の日本語の"] * 3, 10).tokenizer
    for text in ("The capital of France is Paris.", "o'clock 12345"):
        assert new.encode(text) == old.encode(text)


def test_unknown_split_rules_are_left_to_the_library() -> None:
    old = toy_tokenizer()
    fields = fields_of(old)
    fields["pre_tokenizer"]["trim_offsets"] = not fields["pre_tokenizer"]["trim_offsets"]
    other = Tokenizer(json.dumps(fields), SpecialRoles())
    slow, fast = (extend_tokenizer(one, NEW, 40) for one in (other, old))
    assert slow.pieces == fast.pieces
    assert fields_of(slow.tokenizer)["model"] == fields_of(fast.tokenizer)["model"]


def test_extending_refuses_what_cannot_be() -> None:
    with pytest.raises(UsageError, match="--add 0"):
        extend_tokenizer(toy_tokenizer(), NEW, 0)
    with pytest.raises(InputError, match="byte-level BPE"):
        extend_tokenizer(train_tokenizer(TEXTS, 300, model="word"), NEW, 5)
    with pytest.raises(InputError, match="no text"):
        extend_tokenizer(toy_tokenizer(), [""], 5)
    with pytest.raises(InputError, match="no pair of tokens occurs 99999 times"):
        extend_tokenizer(toy_tokenizer(), NEW, 5, min_frequency=99999)


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7):
        scores = rng.normal(size=size)
        found = sparsemax(scores)
        assert abs(found.sum() - 1) < 1e-12 and (found >= 0).all()
        # No mixture with a corner of the simplex is nearer (the projection's condition).
        assert ((scores - found) @ (np.eye(size) - found).T <= 1e-12).all()
    assert sparsemax(np.array([3.0, 0.0])).tolist() == [1.0, 0.0]


def test_focus_rows_come_from_tokens_in_like_contexts() -> None:
    rng = np.random.default_rng(1)
    fruits, tools = ["apple", "banana"], ["hammer", "chisel"]
    around = {
        "fruit": "eat ripe sweet juicy fresh".split(),
        "tool": "hit iron wood nail saw".split(),
    }

    def lines(fruit: list[str], tool: list[str]) -> list[str]:
        made = []
        for _ in range(400):
            kind, words = ("fruit", fruit) if rng.random() < 0.5 else ("tool", tool)
            near = rng.choice(around[kind], 4)
            made.append(f" {near[0]} {near[1]} {rng.choice(words)} {near[2]} {near[3]}")
        return made

    old = train_tokenizer(lines(fruits[:1], tools[:1]), 400)
    texts = lines(fruits, tools)
    found = extend_tokenizer(old, texts, 200)
    new = found.tokenizer
    sample = Sample(1 << 20)
    for text in texts:
        sample.add(document(text))
    rows = focus_rows(found.pieces, new, sample)
    for kin, word in ((" apple", " banana"), (" hammer", " chisel")):
        (kin_id,), (id,) = new.encode(kin), new.encode(word)
        ids, weights = rows[id - old.vocab_size]
        assert kin_id in ids and abs(weights.sum() - 1) < 1e-6
        assert weights[ids.tolist().index(kin_id)] == weights.max()
    # A token that the sample does not hold gets the mean of its pieces.
    ids, weights = focus_rows(found.pieces, new, Sample(1))[0]
    assert ids.tolist() == mean_rows(found.pieces)[0][0].tolist() == found.pieces[0]
    assert weights.tolist() == [1 / len(ids)] * len(ids)


def test_a_sample_and_its_measures_do_not_depend_on_the_order() -> None:
    documents = [
        document(f"text {number} of some length", lang="ab"[number % 2], source=f"s{number % 3}/x")
        for number in range(300)
    ]
    found = []
    for order in (documents, documents[::-1]):
        sample = Sample(1000)
        for one in order:
            sample.add(one)
        found.append(measure(toy_tokenizer(), sample).to_json())
    assert found[0] == found[1]
    assert set(found[0]["languages"]) == {"a", "b"} and set(found[0]["sources"]) == {
        "s0",
        "s1",
        "s2",
    }
    total = found[0]["all"]
    assert 6 * 1000 <= total["bytes"] < 6 * 1040
    assert total["tokens_per_word"] == total["tokens"] / total["words"]


def test_coverage_counts_unknown_tokens_and_lone_bytes() -> None:
    sample = Sample(1000)
    sample.add(document("ab \u6c34"))
    words = measure(train_tokenizer(["ab ab"], 10, model="word"), sample).total
    assert (words.tokens, words.unknown, words.words, words.bytes) == (2, 1, 2, 6)
    plain = measure(train_tokenizer(["ab ab"], 300), sample).total
    assert (plain.unknown, plain.byte_pieces) == (0, 3)


def test_a_vocabulary_with_a_hole_is_refused_before_any_text_is_read() -> None:
    fields = fields_of(toy_tokenizer())
    last = max(fields["model"]["vocab"].values())
    token = {"id": last + 5, "content": "<far>", "special": True, "normalized": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False}
    fields["added_tokens"].append(token | flags)
    fields["model"]["vocab"]["<far>"] = last + 5
    holed = Tokenizer(json.dumps(fields), SpecialRoles(), "holed.json")
    with pytest.raises(InputError, match=r"holed\.json: 4 ids below \d+ have no token"):
        extend_tokenizer(holed, (pytest.fail("read") for _ in "x"), 3)
