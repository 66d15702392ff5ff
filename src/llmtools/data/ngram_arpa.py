"""ARPA files: n-gram language models as text, written and read.

    \\data\\
    ngram 1=3
    ...
    \\1-grams:
    log10-probability <TAB> words <TAB> log10-backoff
    ...
    \\end\\

Written as lmplz does: <unk>, <s>, </s>, then words as they came; no backoff in the highest order.
Source: the format section of SRILM's ngram-format(5); what KenLM's reader takes is taken here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import numpy as np

from llmtools.data.ngram_estimate import Corpus, Order

MAGIC = b"\\data\\"
MAX_LINE = 1 << 20
_COUNT = re.compile(rb"ngram\s+(\d{1,3})\s*=\s*(\d{1,15})")
_LINES = 1 << 14


def dump_arpa(corpus: Corpus, orders: Sequence[Order]) -> Iterator[bytes]:
    """The text of a model, in pieces."""
    counts = "".join(f"ngram {n}={len(one.probs)}\n" for n, one in enumerate(orders, 1))
    yield MAGIC + b"\n" + counts.encode()
    words = corpus.words
    for n, one in enumerate(orders, 1):
        yield f"\n\\{n}-grams:\n".encode()
        for start in range(0, len(one.probs), _LINES):
            part = slice(start, start + _LINES)
            if n == 1:
                ids = np.arange(len(words), dtype=np.int64)[part, None]
            else:
                ids = corpus.ids[one.places[part, None] + np.arange(n)]
            grams = [b" ".join(words[i] for i in row) for row in ids.tolist()]
            probs, backoffs = one.probs[part].tolist(), one.backoffs[part].tolist()
            if n == len(orders):
                lines = [b"%.8g\t%b\n" % pair for pair in zip(probs, grams, strict=True)]
            else:
                rows = zip(probs, grams, backoffs, strict=True)
                lines = [b"%.8g\t%b\t%.8g\n" % row for row in rows]
            yield b"".join(lines)
    yield b"\n\\end\\\n"
