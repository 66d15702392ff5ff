"""The tokenizer facade: round trips, special tokens, identity, loading and saving."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.errors import InputError, UsageError
from llmtools.formats.gguf_vocab import vocabulary_metadata
from llmtools.tokenizer.chat import ChatExtras
from llmtools.tokenizer.identity import tokenizer_identity
from llmtools.tokenizer.load import load_tokenizer, load_tokenizer_once
from llmtools.tokenizer.tokenizer import SpecialRoles, Tokenizer
from llmtools.tokenizer.train import TRAIN_PATTERNS, train_tokenizer
from toy_tokenizer import ADVERSARIAL, TEXTS, fields_of, save_toy, toy_tokenizer


@pytest.mark.parametrize("pattern", TRAIN_PATTERNS)
@pytest.mark.parametrize("parse_special", [False, True])
def test_adversarial_text_comes_back_unchanged(pattern: str, parse_special: bool) -> None:
    tokenizer = toy_tokenizer(pattern)
    for text in ADVERSARIAL:
        # qwen2 composes characters first.
        same = unicodedata.normalize("NFC", text) if pattern == "qwen2" else text
        assert tokenizer.decode(tokenizer.encode(text, parse_special=parse_special)) == same


@given(st.text())
def test_any_text_comes_back_unchanged(text: str) -> None:
    tokenizer = toy_tokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_in_text_are_plain_unless_parsed() -> None:
    tokenizer = toy_tokenizer()
    assert not {0, 1, 2} & set(tokenizer.encode("a<|im_end|>"))
    assert tokenizer.encode("a<|im_end|>", parse_special=True)[-1] == 2


def test_a_batch_equals_one_by_one() -> None:
    tokenizer = toy_tokenizer()
    for parse_special in (False, True):
        batch = tokenizer.encode_batch(ADVERSARIAL, parse_special=parse_special)
        assert all(ids.dtype == np.uint32 for ids in batch)
        assert [ids.tolist() for ids in batch] == [
            tokenizer.encode(text, parse_special=parse_special) for text in ADVERSARIAL
        ]


def test_skip_special_tokens_leaves_the_text() -> None:
    tokenizer = toy_tokenizer()
    ids = tokenizer.encode("Paris<|im_end|>", parse_special=True)
    assert tokenizer.decode(ids, skip_special_tokens=True) == "Paris"


def test_the_same_tokenizer_has_one_identity_however_it_is_stored(tmp_path: Path) -> None:
    tokenizer = toy_tokenizer()
    tokenizer.save(tmp_path)
    bare = tmp_path / "bare.json"
    fields = fields_of(tokenizer)
    merges = fields["model"]["merges"]
    fields["model"]["merges"] = [" ".join(m) if isinstance(m, list) else m.split() for m in merges]
    fields["truncation"] = {
        "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
    }  # fmt: skip
    bare.write_text(json.dumps(fields, indent=1))
    for place in (tmp_path, tmp_path / "tokenizer.json", bare):
        loaded = load_tokenizer(place)
        assert loaded.identity == tokenizer.identity
        assert loaded.eos_id == 0
        assert [loaded.encode(t) for t in TEXTS] == [tokenizer.encode(t) for t in TEXTS]


def _swap_two_ids(fields: dict[str, Any]) -> None:
    vocab = fields["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]


def _drop_a_merge(fields: dict[str, Any]) -> None:
    fields["model"]["merges"].pop()


def _normalize(fields: dict[str, Any]) -> None:
    fields["normalizer"] = {"type": "NFC"}


def _split_otherwise(fields: dict[str, Any]) -> None:
    fields["pre_tokenizer"]["add_prefix_space"] = True


def _unspecial(fields: dict[str, Any]) -> None:
    fields["added_tokens"][2]["special"] = False


@pytest.mark.parametrize(
    "change", [_swap_two_ids, _drop_a_merge, _normalize, _split_otherwise, _unspecial]
)
def test_whatever_changes_ids_changes_the_identity(change: Any) -> None:
    fields = fields_of(toy_tokenizer())
    before = tokenizer_identity(fields)
    change(fields)
    assert tokenizer_identity(fields) != before


def test_the_identity_of_a_given_tokenizer_stays_the_same_across_versions() -> None:
    fields = {
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]},
        "added_tokens": [{"id": 3, "content": "<|endoftext|>", "special": True}],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True},
    }
    assert tokenizer_identity(fields) == "f720fcf7c82100820dc8f4263c9b1908"


def test_bos_is_known_and_added_only_where_the_tokenizer_says_so() -> None:
    plain = toy_tokenizer()
    assert plain.bos_id is None and not plain.adds_bos
    roles = SpecialRoles(bos="<|im_start|>", eos="<|endoftext|>")
    named = Tokenizer(plain.to_json(), roles)
    assert named.bos_id == 1 and not named.adds_bos
    fields = fields_of(plain)
    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<|im_start|>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            "<|im_start|>": {"id": "<|im_start|>", "ids": [1], "tokens": ["<|im_start|>"]}
        },
    }
    adding = Tokenizer(json.dumps(fields), roles)
    assert adding.adds_bos and adding.identity == plain.identity
    assert adding.encode("a", add_special_tokens=True) == [1, *plain.encode("a")]
    assert adding.encode("a") == plain.encode("a")


def test_settings_beside_a_tokenizer_are_read_and_saved(tmp_path: Path) -> None:
    save_toy(tmp_path / "tokenizer.json")
    config = {"eos_token": {"content": "<|im_end|>"}, "bos_token": None, "model_max_length": 77}
    config["chat_template"] = [{"name": "default", "template": "{{ messages|length }}"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": [0, 2]}')
    loaded = load_tokenizer(tmp_path)
    assert (loaded.bos_id, loaded.eos_id, loaded.stop_ids) == (None, 2, {0, 2})
    assert loaded.apply_chat_template([{"role": "user", "content": "x"}]) == "1"
    copy = tmp_path / "copy"
    copy.mkdir()
    loaded.save(copy)
    again = load_tokenizer(copy)
    assert again.chat_template == loaded.chat_template and again.eos_id == 2
    assert json.loads((copy / "tokenizer_config.json").read_bytes())["model_max_length"] == 77


def test_conversations_with_tools_have_a_template_of_their_own(tmp_path: Path) -> None:
    save_toy(tmp_path / "tokenizer.json")
    plain, with_tools = "plain {{ messages|length }}", "tools {{ tools|length }}"
    named = {"default": plain, "tool_use": with_tools, "rag": "{{ documents }}"}
    templates = [{"name": name, "template": text} for name, text in named.items()]
    config = tmp_path / "tokenizer_config.json"
    config.write_text(json.dumps({"chat_template": templates}))
    loaded = load_tokenizer(tmp_path)
    copy = tmp_path / "copy"
    copy.mkdir()
    loaded.save(copy)
    said = [{"role": "user", "content": "x"}]
    tools = ChatExtras(tools=[{"type": "function", "function": {"name": "f"}}])
    for tokenizer in (loaded, load_tokenizer(copy)):
        assert tokenizer.apply_chat_template(said) == "plain 1"
        assert tokenizer.apply_chat_template(said, extras=tools) == "tools 1"
        assert tokenizer.encode_chat(said, extras=tools) == tokenizer.encode("tools 1")
    metadata = vocabulary_metadata(tmp_path, {"vocab_size": loaded.vocab_size})
    assert metadata["tokenizer.chat_template"] == plain
    assert metadata["tokenizer.chat_templates"] == ["tool_use", "rag"]
    assert metadata["tokenizer.chat_template.tool_use"] == with_tools
    for wrong in (7, [plain], [{"name": "default"}], [{"name": 1, "template": ""}]):
        config.write_text(json.dumps({"chat_template": wrong}))
        with pytest.raises(InputError, match="chat_template is not a string"):
            load_tokenizer(tmp_path)


def test_a_process_loads_a_tokenizer_once_until_its_files_change(tmp_path: Path) -> None:
    file = save_toy(tmp_path / "tokenizer.json")
    first = load_tokenizer_once(file)
    assert load_tokenizer_once(str(file)) is first
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<|im_end|>"}')
    second = load_tokenizer_once(file)
    assert (first.eos_id, second.eos_id) == (0, 2)
    save_toy(file, pattern="gpt4")
    assert load_tokenizer_once(file).identity != second.identity
    with pytest.raises(InputError, match="no such tokenizer"):
        load_tokenizer_once(tmp_path / "none.json")


def test_training_is_deterministic_and_bounded() -> None:
    first, second = (train_tokenizer(TEXTS, 400, pattern="gpt4") for _ in range(2))
    assert first.to_json() == second.to_json()
    assert first.vocab_size <= 400 and first.eos_id == 0
    assert train_tokenizer(["ab"], 10_000).vocab_size < 300


def test_training_refuses_what_cannot_be() -> None:
    with pytest.raises(UsageError, match="take 259"):
        train_tokenizer(TEXTS, 258)
    with pytest.raises(UsageError, match="double"):
        train_tokenizer(TEXTS, 400, special_tokens=["<a>", "<a>"])
    with pytest.raises(InputError, match="no text"):
        train_tokenizer(["", ""], 400)


@pytest.mark.parametrize(
    ("name", "content", "mention"),
    [
        ("t.json", b"", "not a tokenizer.json"),
        ("t.json", b"[]", "not a tokenizer.json"),
        ("t.json", b"\xff\xfe", "not UTF-8"),
        ("t.json", b'{"added_tokens": [1]}', "not a tokenizer.json"),
        ("t.json", b"[" * 100_000, "not a tokenizer.json"),
        ("t.json", b'{"version": "1.0", "added_tokens": []}', "not a tokenizer.json"),
        ("t.gguf", b"GGUF", "t.gguf"),
    ],
)
def test_a_malformed_file_is_refused_by_name(
    tmp_path: Path, name: str, content: bytes, mention: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=mention) as caught:
        load_tokenizer(path)
    assert name in str(caught.value)
    assert not re.search(r"[A-Z]\w+(Error|Exception)\(", str(caught.value))


def test_a_missing_tokenizer_is_refused_by_name(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "absent.json"):
        with pytest.raises(InputError, match=str(place)):
            load_tokenizer(place)


@pytest.mark.parametrize("config", ["[]", "{", '{"eos_token": 7}', '{"eos_token": "<none>"}'])
def test_wrong_settings_are_refused_by_name(tmp_path: Path, config: str) -> None:
    save_toy(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(config)
    with pytest.raises(InputError, match="tokenizer"):
        load_tokenizer(tmp_path)


def test_damaged_copies_are_refused_or_work(tmp_path: Path) -> None:
    text = toy_tokenizer().to_json()
    random_source = random.Random(5)
    path = tmp_path / "t.json"
    refused = 0
    for _ in range(60):
        at, length = random_source.randrange(len(text)), random_source.randrange(1, 40)
        path.write_text(text[:at] + random_source.choice(["", "0", '"', "{"]) + text[at + length :])
        try:
            load_tokenizer(path).encode("The capital")
        except InputError:
            refused += 1
    assert refused > 10
