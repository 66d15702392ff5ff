"""A second encoder, many times faster than `tokenizers`, used only where it is seen to agree.

gigatoken (MIT) reads the same tokenizer.json. It refuses split rules that it does not know, and
whatever it reads is still held to the reference: on texts made to be awkward and on the first
documents of every run. Any difference, and the reference does the work. Texts with characters that
only one of the two knows never come here (young_chars.py).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from llmtools.tokenizer.added_tokens import without_special

Ids = npt.NDArray[np.uint32]
# Inputs shorter than this are encoded before another encoder is even loaded.
WORTH_CHARS = 1 << 20
# The first documents of a run, compared up to here: 0.1 s of the reference.
CHECKED_CHARS = 1 << 17

PROBES = (
    "",
    " ",
    "  \n\n \t x",
    "Hello, world! It's 12345.67 o'clock; they'LL say \u00bfqu\u00e9?\r\n\r\n",
    "def f(x):\n        return x**2  # \u00b2\n",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea e\u0301 \u00e9 \ufb01 \u212b",
    "\u4f60\u597d\uff0c\u4e16\u754c \u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd"
    " \u0928\u092e\u0938\u094d\u0924\u0947 \u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35 \uc548\ub155",
    "a\u0000b\u0001\u007f\u0085\u00a0\u2028\u3000\ufeffz",
    "1 22 333 4444 \u0661\u0662\u0663 \u2167 \u00bd x1y2",
    "<|endoftext|><|im_start|>user<|im_end|> <s></s> <|eot_id|> [INST] <unk> <bos>",
    "a" * 300 + " " * 300 + "\n" * 50 + "=" * 200 + "\u6f22" * 100,
    "'s 'S 'T \u2019s I\u2019m \u017ft _x_ $1,000.00 http://a.b/c?d=e&f#g %20",
)


class Disagreement(Exception):
    """The fast encoder cannot be used for this tokenizer."""


class FastEncoder:
    """Ids of texts, one thread, nothing added.

    content: the text of a tokenizer.json. parse_special: special tokens in a text are those tokens.
    raises: Disagreement where the library is not there or refuses the file.
    """

    def __init__(self, content: str, *, parse_special: bool) -> None:
        try:
            from gigatoken import Tokenizer
        except ImportError as fault:
            raise Disagreement(
                "it is not installed (pip install 'llmtools-cli[fast-tokens]')"
            ) from fault
        if not parse_special:
            # It always finds the added tokens it knows.
            content = without_special(content)
        try:
            self._backend = Tokenizer.from_json(content).backend
        except BaseException as fault:
            if not isinstance(fault, Exception) and type(fault).__name__ != "PanicException":
                raise
            reason = str(fault).partition("\n")[0]
            raise Disagreement(f"it does not read this tokenizer: {reason}") from fault

    def encode(self, text: str) -> Ids:
        """uint32 [T]."""
        ids: Ids = self._backend.encode(text)
        return ids


def check(
    encode: Callable[[str], Ids],
    reference: Callable[[Sequence[str]], list[Ids]],
    texts: Sequence[str],
) -> None:
    """Raises Disagreement for the first probe or text whose ids are not the reference's."""
    chosen, num_chars = list(PROBES), 0
    for text in texts:
        if num_chars >= CHECKED_CHARS:
            break
        chosen.append(text[: CHECKED_CHARS - num_chars])
        num_chars += len(text)
    for text, expected in zip(chosen, reference(chosen), strict=True):
        try:
            found = encode(text)
        except BaseException as fault:
            if not isinstance(fault, Exception) and type(fault).__name__ != "PanicException":
                raise
            raise Disagreement(f"it fails on a text: {fault}") from fault
        if not np.array_equal(found, expected):
            shown = text if len(text) <= 40 else f"{text[:40]}..."
            raise Disagreement(f"ids of {shown!r} differ")
