"""Text as an n-gram language model sees it: sentences of words, each word a 64-bit hash.

A line is a sentence, blank lines are none, and words are what stands between white space, after a
normalisation:

    ccnet   lower case, digits to 0, accents off, the punctuation of other scripts and typography to
            ASCII, control characters out: cc_net's `normalize` (text_normalizer.py) with its
            defaults. Two differences: white space stays white space where cc_net takes tabs out,
            and letters are lowered one by one, so that a final sigma is like any other.
    words   the same, and then ASCII punctuation to white space, so that 'end.' is the word 'end'
    none    the text as it is; words are cut at ASCII white space and at NUL
"""

from __future__ import annotations

import re
import string
import unicodedata
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from llmtools.jit import kernel

Bytes = npt.NDArray[np.uint8]
Hashes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Offsets = npt.NDArray[np.int32]

Normalize = Literal["ccnet", "words", "none"]
NORMALIZE: tuple[str, ...] = get_args(Normalize)

# Punctuation that cc_net writes in ASCII (its UNICODE_PUNCT, from Moses).
_PUNCTUATION = {
    ",": "，、",
    ".": "。",
    '"': "„”“«»」「《》",
    "'": "´’",
    ":": "∶：",
    "?": "？",
    "!": "！",
    "(": "（",
    ")": "）",
    ";": "；",
    "-": "–━►",
    " - ": "—",
    ". ": "．",
    "~": "～",
    "...": "…",
    "<": "〈",
    ">": "〉",
    "[": "【",
    "]": "】",
    "%": "％",
}
_TO_ASCII = {char: plain for plain, chars in _PUNCTUATION.items() for char in chars}
_LOWER = bytes.maketrans(
    (string.ascii_uppercase + string.digits).encode(), (string.ascii_lowercase + "0" * 10).encode()
)
_NO_PUNCTUATION = bytes(b" "[0] if chr(c) in string.punctuation else c for c in _LOWER)
_CONTROL = bytes(c for c in [*range(32), 127] if chr(c) not in string.whitespace)
# Runs have a limit so that the cache cannot grow with the text.
_OTHER = re.compile(r"[^\x00-\x7f]{1,16}")

_FNV_BASIS = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x100000001B3)
_MIX_1 = np.uint64(0xFF51AFD7ED558CCD)
_MIX_2 = np.uint64(0xC4CEB9FE1A85EC53)
_SHIFT = np.uint64(33)
_LINE_FEED = 10


def normalise(text: str | bytes, how: str) -> bytes:
    """A text in UTF-8, normalised; `how` is one of NORMALIZE."""
    raw = text.encode() if isinstance(text, str) else text
    if how == "none":
        return raw
    if not raw.isascii():
        raw = _OTHER.sub(lambda found: _plain(found[0]), raw.decode()).encode()
    return raw.translate(_LOWER if how == "ccnet" else _NO_PUNCTUATION, _CONTROL)


@lru_cache(1 << 16)
def _plain(run: str) -> str:
    """Some characters beyond ASCII, normalised one by one."""
    out = []
    for char in unicodedata.normalize("NFD", "".join(map(str.lower, run))):
        kind = unicodedata.category(char)
        if char.isspace():
            out.append("\n" if char in "\u2028\u2029" else " ")
        elif kind == "Nd":
            out.append("0")
        elif kind not in ("Mn", "Cc"):
            out.append(_TO_ASCII.get(char, char))
    return "".join(out)


@dataclass(frozen=True, slots=True)
class Words:
    """The sentences of some texts, one after another, each with its <s> and </s>.

    hashes:     (W,) uint64, one for each word.
    places:     (W,) int32, where in its sentence a word stands: 0 is <s>, 1 the first word.
    starts, stops: (W,) int32, where the word's bytes are; empty where they were not asked for.
    offsets:    (D + 1,) int64; the words of text d are those from offsets[d] to offsets[d + 1].
    """

    hashes: Hashes
    places: Offsets
    starts: Offsets
    stops: Offsets
    offsets: Integers


def split_words(texts: list[bytes], *, with_spans: bool = False, is_arpa: bool = False) -> Words:
    """The words of normalised texts; spans count from the start of all texts joined.

    A word spelled <s>, </s> or <unk> is left out, as lmplz's --skip_symbols does. is_arpa: the
    lines are n-grams of an ARPA file instead, which get no ends and may name those three.
    """
    buffer = np.frombuffer(b"".join(texts), np.uint8)
    bounds = np.zeros(len(texts) + 1, np.int64)
    np.cumsum([len(text) for text in texts], out=bounds[1:])
    # A line of one letter is three words in two bytes. Pages that are not written cost nothing.
    size = len(buffer) + len(buffer) // 2 + 3 * len(texts)
    hashes, places = np.empty(size, np.uint64), np.empty(size, np.int32)
    starts, stops = (np.empty(size if with_spans else 0, np.int32) for _ in range(2))
    offsets = np.zeros(len(texts) + 1, np.int64)
    _split(buffer, bounds, is_arpa, hashes, places, starts, stops, offsets)
    end = offsets[-1]
    return Words(hashes[:end], places[:end], starts[:end], stops[:end], offsets)


@kernel
def _finish(x: np.uint64) -> np.uint64:
    """Spread a hash over all 64 bits (MurmurHash3's finaliser); never 0, which is an empty slot."""
    x = (x ^ (x >> _SHIFT)) * _MIX_1
    x = (x ^ (x >> _SHIFT)) * _MIX_2
    x = x ^ (x >> _SHIFT)
    return x if x != 0 else np.uint64(1)


@kernel
def _split(
    buffer: Bytes,
    bounds: Integers,
    is_arpa: bool,
    hashes: Hashes,
    places: Offsets,
    starts: Offsets,
    stops: Offsets,
    offsets: Integers,
) -> None:
    count = 0
    for d in range(bounds.size - 1):
        i, end = bounds[d], bounds[d + 1]
        place = 0
        while i <= end:
            c = buffer[i] if i < end else np.uint8(_LINE_FEED)
            if c > 32:
                start = i
                x = _FNV_BASIS
                while i < end and buffer[i] > 32:
                    x = (x ^ np.uint64(buffer[i])) * _FNV_PRIME
                    i += 1
                x = _finish(x)
                if not is_arpa:
                    if x == BEGIN or x == END or x == UNKNOWN:
                        continue
                    if place == 0:
                        hashes[count] = BEGIN
                        places[count] = 0
                        if starts.size:
                            starts[count] = stops[count] = start
                        count += 1
                        place = 1
                hashes[count] = x
                places[count] = place
                if starts.size:
                    starts[count] = start
                    stops[count] = i
                count += 1
                place += 1
                continue
            if c == _LINE_FEED and place > 0:
                if not is_arpa:
                    hashes[count] = END
                    places[count] = place
                    if starts.size:
                        starts[count] = stops[count] = i
                    count += 1
                place = 0
            i += 1
        offsets[d + 1] = count


def word_hash(word: bytes) -> int:
    """The hash of one word, as `split_words` gives it; in plain Python."""
    wrap = (1 << 64) - 1
    x = int(_FNV_BASIS)
    for byte in word:
        x = (x ^ byte) * int(_FNV_PRIME) & wrap
    for factor in (_MIX_1, _MIX_2):
        x = (x ^ x >> 33) * int(factor) & wrap
    return x ^ x >> 33 or 1


BEGIN, END, UNKNOWN = (np.uint64(word_hash(word)) for word in (b"<s>", b"</s>", b"<unk>"))
