"""Split rules: how text is cut into words before byte-pair merging.

Each rule is what the named model's tokenizer.json declares (and what `tokenizer.ggml.pre` of a GGUF
names). All of them map text to bytes, so that any text can be encoded and decoded unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping

from tokenizers import Regex, normalizers, pre_tokenizers

# cl100k_base of tiktoken; Llama 3 took it over unchanged.
_GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# The same with every digit a word of its own.
_QWEN2 = _GPT4.replace(r"\p{N}{1,3}", r"\p{N}")

# o200k_base of tiktoken.
_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
_O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_SHORT}"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_SHORT}"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

PATTERNS: Mapping[str, str] = {
    "gpt4": _GPT4,
    "llama3": _GPT4,
    "qwen2": _QWEN2,
    "o200k": _O200K,
}


def pre_tokenizer(rule: str) -> pre_tokenizers.PreTokenizer:
    """The splitter of `rule`: one of PATTERNS, gpt2 or smollm; KeyError for another name."""
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if rule == "gpt2":
        return gpt2
    if rule == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, gpt2])
    split = pre_tokenizers.Split(Regex(PATTERNS[rule]), behavior="isolated")
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, bytes_only])


def normalizer(rule: str) -> normalizers.Normalizer | None:
    """What is done to text before `rule` splits it."""
    return normalizers.NFC() if rule == "qwen2" else None
