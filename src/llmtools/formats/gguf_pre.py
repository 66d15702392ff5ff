"""What `tokenizer.ggml.pre` of a GGUF file stands for: how text is cut before byte-pair merging.

Every rule is a row of steps; each cuts what the ones before it left, and what it matches stands
alone. The same table serves readers and writers of such files. Names that llama.cpp handles by code
of its own rather than by expressions (gemma4, afmoe, kimi-k2, sarvam-moe, whitespace, minicpm5) are
not here, and neither is `default`, which stands for not knowing.
Source: llama.cpp, src/llama-vocab.cpp; where it quotes the original expression of a tokenizer.json,
that one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

# The expression of GPT-2, which the step that turns text into bytes applies itself.
GPT2 = "gpt2"
DIGIT = r"\p{N}"

_SHORT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_SIGNS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
# cl100k_base of tiktoken; Llama 3 took it over unchanged.
CL100K = rf"{_SHORT}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_SPACES}"
# The same with every digit a word of its own.
QWEN2 = rf"{_SHORT}|{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}"
_QWEN35 = (
    rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_PATHS = r" ?[^\s\p{L}\p{N}]+[\r\n/]*"


def _cased(short: str, digits: str) -> str:
    """o200k_base's form: words end where small letters turn into capitals."""
    return (
        f"{_LEAD}{_UPPER}*{_LOWER}+{short}|{_LEAD}{_UPPER}+{_LOWER}*{short}"
        f"|{digits}|{_PATHS}|{_SPACES}"
    )


# o200k_base of tiktoken.
O200K = _cased(f"{_SHORT}?", r"\p{N}{1,3}")
_HAN = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
_DEEPSEEK_WORDS = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
# Letters of scripts that have two cases.
_CASED_LETTERS = (
    "A-Za-z\u00b5\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u01ba\u01bc-\u01bf\u01c4-\u0293\u0295-\u02af"
    "\u0370-\u0373\u0376\u0377\u037b-\u037d\u037f\u0386\u0388-\u038a\u038c\u038e-\u03a1"
    "\u03a3-\u03f5\u03f7-\u0481\u048a-\u052f\u0531-\u0556\u10a0-\u10c5\u13a0-\u13f5\u13f8-\u13fd"
    "\u1c90-\u1cba\u1cbd-\u1cbf\u1d00-\u1d2b\u1d6b-\u1d77\u1d79-\u1d9a\u1e00-\u1f15\u1f18-\u1f1d"
    "\u1f20-\u1f45\u1f48-\u1f4d\u1f50-\u1f57\u1f59\u1f5b\u1f5d\u1f5f-\u1f7d\u1f80-\u1fb4"
    "\u1fb6-\u1fbc\u1fbe\u1fc2-\u1fc4\u1fc6-\u1fcc\u1fd0-\u1fd3\u1fd6-\u1fdb\u1fe0-\u1fec"
    "\u1ff2-\u1ff4\u1ff6-\u1ffc\u2102\u2107\u210a-\u2113\u2115\u2119-\u211d\u2124\u2126\u2128"
    "\u212a-\u212d\u212f-\u2134\u2139\u213c-\u213f\u2145-\u2149\u214e\u2183\u2184\u2c00-\u2c7b"
    "\u2c7e-\u2ce4\u2ceb-\u2cee\u2cf2\u2cf3\ua640-\ua66d\ua680-\ua69b\ua722-\ua76f\ua771-\ua787"
    "\ua78b-\ua78e\uab70-\uabbf\ufb00-\ufb06\ufb13-\ufb17\uff21-\uff3a\uff41-\uff5a"
    "\U00010400-\U0001044f\U000104b0-\U000104d3\U000104d8-\U000104fb\U00010c80-\U00010cb2"
    "\U00010cc0-\U00010cf2\U000118a0-\U000118df\U0001e900-\U0001e943"
)
_DEEPSEEK_HAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_BLOOM = " ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"
_JAIS2_SPACES = "|".join(
    [rf"\s{{{n}}}(?!\S)" for n in (512, 256, 128, 64, 32, 16, 8, 4)] + [r"\s{1,2}(?!\S)", r"\s{1}"]
)
_YOUTU_SCRIPTS = (
    "[\uac00-\ud7a3\u3131-\u318e]+|[\uff01\u2026\u201c\u201d\u2018\u2019\u2014\uff1a\uff1b\uff0c"
    "\u3001-\u303f\ufe30-\ufe4f]+|[\u3105-\u312f]+|" + _HAN
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreType:
    """steps: expressions, or GPT2 as the last. ignores_merges: a word that is a token needs none.

    adds_bos: where the file does not say. composes: text is brought into NFC first.
    """

    steps: tuple[str, ...]
    ignores_merges: bool = False
    adds_bos: bool = False
    composes: bool = False


_LLAMA3 = PreType(steps=(CL100K,), ignores_merges=True, adds_bos=True)
_DEEPSEEK3 = PreType(steps=(r"\p{N}{1,3}", _HAN, _DEEPSEEK_WORDS))
# The first name of those that share a rule is the one that is written.
_NAMES: dict[PreType, str] = {
    PreType(steps=(GPT2,)): "gpt-2 gpt2 phi-2 jina-es jina-de gigachat jina-v2-es jina-v2-de"
    " a.x-4.0 mellum modern-bert exaone4 mpt olmo jais trillion granite-docling jina-v1-en"
    " jina-v2-code roberta-bpe",
    PreType(steps=(DIGIT, GPT2)): "smollm starcoder refact command-r codeshell exaone minerva-7b"
    " mellum2",
    _LLAMA3: "llama-bpe llama3 llama-v3 falcon3 falcon-h1 pixtral midm-2.0 lfm2 jina-v5-nano",
    PreType(steps=(CL100K,)): "dbrx smaug-bpe glm4 chatglm-bpe",
    PreType(steps=(QWEN2,), composes=True): "qwen2 deepseek-r1-qwen",
    PreType(steps=(QWEN2,)): "stablelm2 megrez hunyuan solar-open grok-2 kormo f2llmv2",
    PreType(steps=(_QWEN35,)): "qwen35",
    PreType(steps=(O200K,)): "gpt-4o llama4 kanana2 talkie minimax-m2",
    PreType(steps=(_cased("", r"\p{N}"),), ignores_merges=True, adds_bos=True): "tekken",
    PreType(
        steps=(
            "[\r\n]",
            rf"\s?[{_CASED_LETTERS}]+",
            "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+",
            r"\s+$",
            _DEEPSEEK_HAN,
            r"\p{N}+",
        )
    ): "deepseek-llm",
    PreType(steps=("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_HAN, DIGIT)): "deepseek-coder",
    _DEEPSEEK3: "deepseek-v3 hunyuan-dense joyai-llm hy_v4",
    PreType(steps=(r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]")): "falcon",
    PreType(steps=(_BLOOM,)): "bloom poro-chat gpt3-finnish",
    PreType(steps=(_BLOOM, DIGIT)): "viking",
    PreType(
        steps=(
            r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}"
            r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ): "bailingmoe bailingmoe2 llada-moe",
    PreType(
        steps=(rf"{_SHORT}|{_WORD}|\p{{N}}{{1}}| ?[^\s\p{{L}}\p{{N}}\r\n]+|{_SPACES}",)
    ): "seed-coder",
    PreType(steps=(rf"{_WORD}|\p{{N}}|{_SIGNS}|{_SPACES}",)): "ufakzeka",
    PreType(steps=(r"[^\n]+|[\n]+", QWEN2)): "laguna",
    PreType(
        steps=(
            rf"{_SHORT}|[^\r\n\p{{L}}\p{{N}}]?(?:\p{{L}}\p{{M}}*(?: \p{{L}}\p{{M}}*)*)+|\p{{N}}"
            r"| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n]|\s+(?!\S)|\s+",
        )
    ): "exaone-moe",
    PreType(steps=(_YOUTU_SCRIPTS, _cased(f"{_SHORT}?", DIGIT)), ignores_merges=True): "youtu",
    PreType(
        steps=(rf"{_SHORT}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s*[\r\n]+|{_JAIS2_SPACES}",)
    ): "jais-2",
    PreType(
        steps=(r"\d{1,3}(?=(?:\d{3})*\b)", O200K),
    ): "tiny_aya cohere2moe",
}
PRE_TYPES: dict[str, PreType] = {
    name: rule for rule, names in _NAMES.items() for name in names.split()
}


def name_of(steps: Sequence[str], *, ignores_merges: bool, composes: bool) -> str | None:
    """The name of a rule, None where there is none; settings decide among those that cut alike."""
    found = [(rule, names.split()[0]) for rule, names in _NAMES.items()]
    alike = [(rule, name) for rule, name in found if rule.steps == tuple(steps)]
    for rule, name in alike:
        if (rule.ignores_merges, rule.composes) == (ignores_merges, composes):
            return name
    return alike[0][1] if alike else None
