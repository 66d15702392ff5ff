"""Split rules: how text is cut into words before byte-pair merging.

Each rule is what the named model's tokenizer.json declares (and what `tokenizer.ggml.pre` of a GGUF
names). All of them map text to bytes, so that any text can be encoded and decoded unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tokenizers import Regex, normalizers, pre_tokenizers

from llmtools.formats.gguf_pre import CL100K, DIGIT, GPT2, O200K, QWEN2

_GPT2_REGEX = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PATTERNS: Mapping[str, str] = {
    "gpt4": CL100K,
    "llama3": CL100K,
    "qwen2": QWEN2,
    "o200k": O200K,
}


def pre_tokenizer(rule: str) -> pre_tokenizers.PreTokenizer:
    """The splitter of `rule`: one of PATTERNS, gpt2 or smollm; KeyError for another name."""
    steps = {"gpt2": (GPT2,), "smollm": (DIGIT, GPT2)}
    return splitter(steps[rule] if rule in steps else (PATTERNS[rule],))


def splitter(steps: Sequence[str]) -> pre_tokenizers.PreTokenizer:
    """What cuts text by each of some steps in turn (gguf_pre.PreType) and makes it bytes."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if tuple(steps) == (GPT2,):
        return gpt2
    made: list[pre_tokenizers.PreTokenizer] = []
    for step in steps:
        if step == GPT2 and step is steps[-1]:
            return pre_tokenizers.Sequence([*made, gpt2])
        if step == DIGIT:
            made.append(pre_tokenizers.Digits(individual_digits=True))
        else:
            regex = _GPT2_REGEX if step == GPT2 else step
            made.append(pre_tokenizers.Split(Regex(regex), behavior="isolated"))
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([*made, bytes_only])


def normalizer(rule: str) -> normalizers.Normalizer | None:
    """What is done to text before `rule` splits it."""
    return normalizers.NFC() if rule == "qwen2" else None
