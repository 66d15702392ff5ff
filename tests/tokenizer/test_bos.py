"""BOS is never doubled, whoever writes it: the template, the tokenizer, or both."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmtools.align.conversations import Conversation
from llmtools.align.sft import encode_conversations
from llmtools.engine.prompt import ChatPrompt, encode_prompt
from llmtools.tokenizer.chat import CHATML
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import Tokenizer
from toy_tokenizer import fields_of, toy_tokenizer

BOS = 0
TURNS = [{"role": "user", "content": "Hi <|endoftext|>"}, {"role": "assistant", "content": "Ho"}]


def tokenizer_that(tmp_path: Path, *, adds: bool, writes: bool) -> Tokenizer:
    fields = fields_of(toy_tokenizer())
    if adds:
        token = {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}}
        fields["post_processor"] = {
            "type": "TemplateProcessing",
            "single": [token, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [token, {"Sequence": {"id": "A", "type_id": 0}}],
            "special_tokens": {
                "<|endoftext|>": {"id": "<|endoftext|>", "ids": [BOS], "tokens": ["<|endoftext|>"]}
            },
        }
    (tmp_path / "tokenizer.json").write_text(json.dumps(fields))
    config = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    loaded = load_tokenizer(tmp_path)
    assert loaded.adds_bos == adds
    return loaded.with_chat_template(("{{ bos_token }}" if writes else "") + CHATML)


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_a_conversation_has_the_bos_that_its_template_writes(
    tmp_path: Path, adds: bool, writes: bool
) -> None:
    tokenizer = tokenizer_that(tmp_path, adds=adds, writes=writes)
    conversation = Conversation(messages=TURNS, where="x")
    rows, _ = encode_conversations([conversation], tokenizer, max_length=999, on_too_long="cut")
    for ids in (
        tokenizer.encode_chat(TURNS),
        tokenizer.encode_chat(TURNS, add_generation_prompt=True),
        tokenizer.encode_chat(TURNS, continue_final_message=True),
        tokenizer.supervised_spans(TURNS)[0],
        encode_prompt(tokenizer, TURNS),
        encode_prompt(tokenizer, ChatPrompt(messages=TURNS)),
        rows.conversations[0].input_ids.tolist(),
    ):
        assert ids.count(BOS) == writes
        assert (ids[0] == BOS) == writes


@pytest.mark.parametrize("adds", [False, True])
@pytest.mark.parametrize("writes", [False, True])
def test_a_rendered_conversation_given_as_text_has_one_bos(
    tmp_path: Path, adds: bool, writes: bool
) -> None:
    """As a client of /v1/completions, or of `llm generate` without --chat, sends it."""
    tokenizer = tokenizer_that(tmp_path, adds=adds, writes=writes)
    text = tokenizer.apply_chat_template(TURNS[1:], add_generation_prompt=True)
    ids = encode_prompt(tokenizer, text)
    assert ids.count(BOS) == (adds or writes)
