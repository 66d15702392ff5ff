"""llama.cpp's golden token ids and chat templates, exactly.

The ids were made with each model's original tokenizer; the templates are rendered by transformers
beside us.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from llmtools.errors import InputError
from llmtools.formats.gguf import GGUFFile
from llmtools.tokenizer import gguf_vocab
from llmtools.tokenizer.chat import ChatTemplate
from llmtools.tokenizer.load import load_tokenizer
from llmtools.tokenizer.tokenizer import SpecialRoles, Tokenizer
from toy_tokenizer import CONVERSATIONS

pytestmark = pytest.mark.network

VOCABULARIES = ("gpt-2", "llama-bpe", "qwen2", "starcoder", "refact", "command-r")
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
REFUSED = "refused"


def golden_cases(vocabulary: Path) -> list[tuple[str, list[int]]]:
    texts = Path(f"{vocabulary}.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    lines = Path(f"{vocabulary}.out").read_text().split("\n")
    return [(t, [int(n) for n in line.split()]) for t, line in zip(texts, lines, strict=True)]


def num_wrong(tokenizer: Tokenizer, cases: list[tuple[str, list[int]]]) -> int:
    return sum(tokenizer.encode(text) != ids for text, ids in cases)


@pytest.mark.parametrize("name", VOCABULARIES)
def test_ids_equal_the_golden_ones(llama_cpp_models: Path, name: str) -> None:
    vocabulary = llama_cpp_models / f"ggml-vocab-{name}.gguf"
    cases = golden_cases(vocabulary)
    assert len(cases) == 47
    assert num_wrong(load_tokenizer(vocabulary), cases) == 0


@pytest.mark.parametrize(
    ("name", "other"), [("gpt-2", "smollm"), ("starcoder", "gpt-2"), ("qwen2", "gpt-2")]
)
def test_the_golden_ids_reject_another_split_rule(
    llama_cpp_models: Path, name: str, other: str
) -> None:
    vocabulary = llama_cpp_models / f"ggml-vocab-{name}.gguf"
    metadata = {**GGUFFile(vocabulary).metadata, "tokenizer.ggml.pre": other}
    broken = Tokenizer(gguf_vocab.tokenizer_json(metadata, "broken"), SpecialRoles())
    assert num_wrong(broken, golden_cases(vocabulary)) > 0


def renderings(source: str) -> list[str]:
    """What a template makes of every conversation, with and without a generation prompt."""
    texts: list[str] = []
    template = ChatTemplate(source, TOKENS, "template")
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            try:
                texts.append(template.render(messages, prompt))
            except InputError:
                texts.append(REFUSED)
    return texts


def peer_renderings(source: str) -> list[str]:
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    texts: list[str] = []
    for messages in CONVERSATIONS:
        for prompt in (False, True):
            try:
                rendered, _ = render_jinja_template(
                    conversations=[messages],
                    chat_template=source,
                    add_generation_prompt=prompt,
                    **TOKENS,
                )
                texts.append(rendered[0])
            except (TemplateError, TypeError):
                texts.append(REFUSED)
    return texts


def test_every_template_renders_as_in_transformers(llama_cpp_models: Path) -> None:
    files = sorted((llama_cpp_models / "templates").glob("*.jinja"))
    assert len(files) == 25
    num_refused = 0
    for file in files:
        ours = renderings(file.read_text())
        assert ours == peer_renderings(file.read_text()), file.name
        num_refused += ours.count(REFUSED)
    assert num_refused < 25 * 2 * len(CONVERSATIONS) / 4


def test_the_comparison_of_templates_rejects_a_lost_line_break(llama_cpp_models: Path) -> None:
    source = (llama_cpp_models / "templates" / "Qwen-Qwen3-0.6B.jinja").read_text()
    assert renderings(source.replace("<|im_end|>\\n", "<|im_end|>")) != peer_renderings(source)
