"""Which text of a conversation is the assistant's, in every chat template of the llama.cpp archive.

Equal to transformers' assistant mask where a template has {% generation %} marks; elsewhere the
rules that such a mask must obey are checked on every template, and its text on some.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from chats import CHATS
from llmtools.errors import InputError
from llmtools.tokenizer.chat import ChatExtras, ChatTemplate
from llmtools.tokenizer.spans import answer_spans

pytestmark = pytest.mark.network

TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}
ENDS = (
    "<|im_end|> <|eot_id|> <|eom_id|> <|end|> <end_of_turn> <|END_OF_TURN_TOKEN|> <|return|>"
    " <|call|> </s> <｜end▁of▁sentence｜> <|end_of_text|>"
).split()
SPECIAL = re.compile(r"<[|｜][^<>{}'\"]*?[|｜]>|\[/?[A-Z_]{3,}\]|<(?:start|end)_of_turn>|</?s>")
# No token ends an answer in this one.
PLAIN_TEXT = {"llama-cpp-rwkv-world": "\n\n"}


def spans_of(source: str, name: str) -> tuple[str, list[tuple[int, int]]]:
    messages, tools, documents = CHATS[name]
    specials = sorted({*SPECIAL.findall(source), *ENDS, *TOKENS.values()})
    template = ChatTemplate(source, TOKENS, "template")
    extras = ChatExtras(tools=tools, documents=documents)
    return answer_spans(messages, template, specials, ENDS, extras)


def answers_of(source: str, name: str) -> list[str]:
    text, spans = spans_of(source, name)
    return [text[start:end] for start, end in spans]


def said(message: dict[str, Any]) -> str:
    """What must be in an answer: the call, or the last line."""
    if message.get("tool_calls"):
        return "get_weather"
    return "".join(str(message["content"]).strip().splitlines()[-1:])


def breaks(text: str, spans: list[tuple[int, int]], messages: list[Any], end: str | None) -> bool:
    """Whether spans break a rule: one an answer, whole with its one end, nothing of it outside."""
    wanted = [said(message) for message in messages if message["role"] == "assistant"]
    pieces = [text[start:stop] for start, stop in spans]
    if len(pieces) != len(wanted) or any(w not in p for w, p in zip(wanted, pieces, strict=True)):
        return True
    outside = "".join(
        text[a:b]
        for a, b in zip([0, *(s[1] for s in spans)], [*(s[0] for s in spans), None], strict=True)
    )
    leaked = any(w in outside for w in wanted if w not in ("", "yes?", "y", "get_weather"))
    ended = all(p.endswith(end or tuple(ENDS)) and p.strip() != end for p in pieces)
    headed = any(re.match(r"\s*(<[|｜]?)?(assistant|Assistant)", p) for p in pieces)
    asked = any(
        m["content"] and m["content"].strip() in p and len(m["content"]) > 5
        for m in messages
        if m["role"] == "user"
        for p in pieces
    )
    return leaked or not ended or headed or asked


def test_every_template_shows_its_answers(llama_cpp_models: Path) -> None:
    files = sorted((llama_cpp_models / "templates").glob("*.jinja"))
    assert len(files) == 25
    found, refused = 0, []
    for file in files:
        for name, (messages, _, _) in CHATS.items():
            try:
                text, spans = spans_of(file.read_text(), name)
            except InputError as fault:
                if "refuses this conversation" not in str(fault):
                    refused.append((file.stem, name, str(fault)))
                continue
            end = PLAIN_TEXT.get(file.stem)
            assert not breaks(text, spans, messages, end), (file.stem, name, spans, text)
            found += len(spans)
            # The broken twins: a mask that is off by one on either side breaks the rules.
            if spans and not messages[-1]["role"] == "user":
                assert breaks(text, [(a, b - 1) for a, b in spans], messages, end)
    assert found > 200
    # Templates that write nothing of a tool's call cannot be trained on calls.
    assert {name for _, name, _ in refused} == {"a tool called", "a null beside a call"}
    assert all("leaves out its call" in message for _, _, message in refused), refused
    assert len(refused) == 6


def test_answers_of_templates_that_rewrite_earlier_turns(llama_cpp_models: Path) -> None:
    def source(name: str) -> str:
        return (llama_cpp_models / "templates" / f"{name}.jinja").read_text()

    assert answers_of(source("Qwen-Qwen3-0.6B"), "thoughts in the text") == [
        "It is 4.<|im_end|>",
        "<think>\nThrees.\n</think>\n\nIt is 6.<|im_end|>",
    ]
    assert answers_of(source("Qwen-QwQ-32B"), "reasoning") == [
        "It is 4.<|im_end|>",
        "It is 6.<|im_end|>",
    ]
    assert answers_of(source("openai-gpt-oss-120b"), "reasoning") == [
        "<|channel|>final<|message|>It is 4.<|end|>",
        "<|channel|>analysis<|message|>Threes.<|end|><|start|>assistant<|channel|>final<|message|>"
        "It is 6.<|return|>",
    ]
    assert answers_of(source("openai-gpt-oss-120b"), "a tool called")[0] == (
        " to=functions.get_weather<|channel|>commentary json<|message|>"
        '{"city": "Oslo", "unit": "celsius"}<|call|>'
    )
    assert answers_of(source("mistralai-Mistral-Nemo-Instruct-2407"), "a tool called")[0] == (
        '[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Oslo", "unit": "celsius"},'
        ' "id": "abcdef123"}]</s>'
    )
    assert answers_of(source("meta-llama-Llama-3.1-8B-Instruct"), "system and turns") == [
        "Paris it is.<|eot_id|>",
        "東京です 🗼<|eot_id|>",
        "Rome<|eot_id|>",
    ]
    assert answers_of(source("microsoft-Phi-3.5-mini-instruct"), "answered") == [
        "Paris it is.<|end|>"
    ]


MARKED = (
    "{% macro says(m) %}{{ m.content | trim }}<|im_end|>{% endmacro %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% generation %}{{ says(m) }}{% endgeneration %}"
    "{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
)


@pytest.mark.parametrize("name", ["system and turns", "short answers", "thoughts in the text"])
def test_generation_marks_are_those_of_transformers(name: str) -> None:
    text, spans = spans_of(MARKED, name)
    (theirs,), (indices,) = render_jinja_template(
        [CHATS[name][0]], chat_template=MARKED, return_assistant_tokens_mask=True
    )
    assert (text, spans) == (theirs, indices)
    assert spans != [(start + 1, end) for start, end in indices]


def test_marks_that_cover_part_of_an_answer_are_followed() -> None:
    part = MARKED.replace("{{ says(m) }}", "{{ m.content | trim }}").replace(
        "{% endgeneration %}", "{% endgeneration %}<|im_end|>"
    )
    assert answers_of(part, "short answers") == ["y", "yes?"]
