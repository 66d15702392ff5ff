"""Which tokens are learned, against transformers' assistant mask; equal, token for token.

The peer needs {% generation %} marks in the template, ours finds the turns in any template.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from llmtools.align.conversations import Conversation
from llmtools.align.sft import encode_conversations, with_template
from llmtools.tokenizer.chat import CHATML
from toy_tokenizer import toy_tokenizer

MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\\n' }}"
    "{% generation %}{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\\n' }}"
    "{% else %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endif %}{% endfor %}"
)
MESSAGES = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
    {"role": "assistant", "content": "The capital of France is Paris."},
    {"role": "user", "content": "naïve café 日本語?"},
    {"role": "assistant", "content": "日本 isn't\n\nRome."},
]


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[int], list[int]]:
    folder: Path = tmp_path_factory.mktemp("tokenizer")
    toy_tokenizer().save(folder)
    peer = AutoTokenizer.from_pretrained(folder)
    encoded = peer.apply_chat_template(
        MESSAGES, chat_template=MARKED, return_dict=True, return_assistant_tokens_mask=True
    )
    return encoded["input_ids"], encoded["assistant_masks"]


def ours(messages: list[dict[str, str]]) -> tuple[list[int], list[int]]:
    tokenizer = with_template(toy_tokenizer())
    assert tokenizer.chat_template == CHATML
    conversation = Conversation(messages=messages, where="test")
    rows, _ = encode_conversations([conversation], tokenizer, max_length=999, on_too_long="cut")
    row = rows.row(0)
    ids = [*row.input_ids.tolist(), int(rows.conversations[0].input_ids[-1])]
    return ids, [0, *(int(label != -100) for label in row.labels)]


def test_ids_and_labels_equal_transformers(theirs):
    assert ours(MESSAGES) == theirs
    assert 0 < sum(theirs[1]) < len(theirs[1])


def test_a_mask_that_is_one_token_off_would_be_noticed(theirs):
    """The broken twin."""
    ids, mask = ours(MESSAGES)
    assert (ids, [*mask[1:], 0]) != theirs
