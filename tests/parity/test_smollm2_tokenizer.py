"""Ids and chat text of SmolLM2 equal transformers', exactly, from the vocabulary in its GGUF.

transformers 5.23 ignores `tokenizer.ggml.pre` and splits every GGUF vocabulary as GPT-2 does; its
splitter is therefore set to the one that SmolLM2's own tokenizer.json declares.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmtools.errors import InputError
from llmtools.formats.document import read_documents
from llmtools.formats.gguf import GGUFFile
from llmtools.tokenizer import gguf_vocab
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import SpecialRoles, Tokenizer
from toy_tokenizer import ADVERSARIAL, CONVERSATIONS, TEXTS

pytestmark = pytest.mark.network

ANSWER = [504, 3575, 282, 4649, 314, 7042, 30, 2]


@pytest.fixture(scope="module")
def ours(smollm2_gguf: Path) -> Tokenizer:
    return load_tokenizer(smollm2_gguf)


@pytest.fixture(scope="module")
def peer(smollm2_gguf: Path) -> Any:
    from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(smollm2_gguf.parent, gguf_file=smollm2_gguf.name)
    loaded.backend_tokenizer.pre_tokenizer = Sequence(
        [Digits(individual_digits=True), ByteLevel(add_prefix_space=False, use_regex=True)]
    )
    return loaded


def ids_differ(tokenizer: Tokenizer, peer: Any, texts: list[str]) -> list[str]:
    """The texts whose ids are not the peer's."""
    return [
        text
        for text in texts
        if tokenizer.encode(text, parse_special=True) != peer.encode(text, add_special_tokens=False)
    ]


def test_ids_equal_transformers(ours: Tokenizer, peer: Any) -> None:
    assert ids_differ(ours, peer, [*TEXTS, *ADVERSARIAL]) == []
    assert (ours.bos_id, ours.eos_id, ours.vocab_size) == (1, 2, len(peer))
    assert not ours.adds_bos and ours.stop_ids == {2}


def test_the_comparison_rejects_another_split_rule(smollm2_gguf: Path, peer: Any) -> None:
    metadata = {**GGUFFile(smollm2_gguf).metadata, "tokenizer.ggml.pre": "gpt-2"}
    broken = Tokenizer(gguf_vocab.tokenizer_json(metadata, "broken"), SpecialRoles())
    assert ids_differ(broken, peer, ["a\n\n2 b"]) == ["a\n\n2 b"]


def test_ids_equal_transformers_on_real_text(ours: Tokenizer, peer: Any, shared_data: Path) -> None:
    texts: list[str] = []
    for name in ("prose", "code", "multiling"):
        documents = read_documents([str(shared_data / "corpora" / f"{name}.jsonl.zst")])
        texts += [document.text[:4000] for document, _ in zip(documents, range(50), strict=False)]
    assert ids_differ(ours, peer, texts) == []


def test_known_ids_decode_to_the_known_answer(ours: Tokenizer) -> None:
    text = "The capital of France is Paris.<|im_end|>"
    assert ours.decode(ANSWER) == text
    assert ours.encode(text, parse_special=True) == ANSWER


def renderings_differ(tokenizer: Tokenizer, peer: Any) -> list[Any]:
    """The conversations whose text or ids are not the peer's."""
    different = []
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            options = {"add_generation_prompt": prompt, "tokenize": False}
            text = peer.apply_chat_template(messages, **options)
            ids = peer.encode(text, add_special_tokens=False)
            if tokenizer.apply_chat_template(messages, prompt) != text or (
                tokenizer.encode_chat(messages, add_generation_prompt=prompt) != ids
            ):
                different.append((messages, prompt))
    return different


def test_conversations_equal_transformers(ours: Tokenizer, peer: Any) -> None:
    assert renderings_differ(ours, peer) == []


def test_the_comparison_rejects_another_template(ours: Tokenizer, peer: Any) -> None:
    assert ours.chat_template is not None
    broken = ours.with_chat_template(ours.chat_template.replace("<|im_end|>\n", "<|im_end|>"))
    assert renderings_differ(broken, peer)


def test_supervised_tokens_are_the_answers(ours: Tokenizer) -> None:
    for messages in CONVERSATIONS:
        ids, mask = ours.supervised_spans(messages)
        assert ours.decode(ids) == ours.apply_chat_template(messages)
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        learned = ours.decode([id for id, keep in zip(ids, mask, strict=True) if keep])
        assert learned == "".join(answer + "<|im_end|>" for answer in answers)


def test_supervised_ids_are_those_of_the_prompt_and_then_the_answer(ours: Tokenizer) -> None:
    """They equal the ids of the whole text, except where an answer opens with a line break that
    would merge with the one before it, which no generated answer can do."""
    assert ours.supervised_spans(CONVERSATIONS[1])[0] == ours.encode_chat(CONVERSATIONS[1])
    ids, _ = ours.supervised_spans(CONVERSATIONS[2][:2])
    assert ids != ours.encode_chat(CONVERSATIONS[2][:2])
    prompt = ours.encode_chat(CONVERSATIONS[2][:1], add_generation_prompt=True)
    assert ids[: len(prompt)] == prompt


def test_what_we_save_transformers_loads(ours: Tokenizer, peer: Any, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    ours.save(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert ids_differ(ours, loaded, TEXTS) == [] and renderings_differ(ours, loaded) == []
    assert loaded.eos_token_id == 2
    again = load_tokenizer(tmp_path)
    assert again.identity == ours.identity and again.stop_ids == ours.stop_ids


def test_an_unknown_split_rule_is_refused(smollm2_gguf: Path) -> None:
    metadata = {**GGUFFile(smollm2_gguf).metadata, "tokenizer.ggml.pre": "smollm9"}
    with pytest.raises(InputError, match="smollm9"):
        gguf_vocab.tokenizer_json(metadata, "model.gguf")
