"""ARPA files: n-gram language models as text, written and read.

    \\data\\
    ngram 1=3
    ...
    \\1-grams:
    log10-probability <TAB> words <TAB> log10-backoff
    ...
    \\end\\

Written as lmplz does: <unk>, <s>, </s>, then words as they came; no backoff in the highest order.
Source: SRILM's ngram-format(5). Read as KenLM does, which is strict about counts and probabilities;
where a file leaves out an n-gram that ends a longer one (SRILM's pruning does), the longer is found
all the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from llmtools.data.ngram_estimate import Corpus, Order
from llmtools.data.ngram_lm import NGramModel, NGrams, build_model, extend_hash
from llmtools.data.ngram_text import Hashes, split_words
from llmtools.errors import InputError
from llmtools.formats.ngram import ARPA_COUNT, ARPA_MAGIC, MAX_ORDER
from llmtools.formats.stream import InputStream, open_input

MAX_LINE = 1 << 20
_LINES = 1 << 14


def dump_arpa(corpus: Corpus, orders: Sequence[Order]) -> Iterator[bytes]:
    """The text of a model, in pieces."""
    counts = "".join(f"ngram {n}={len(one.probs)}\n" for n, one in enumerate(orders, 1))
    yield ARPA_MAGIC + b"\n" + counts.encode()
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


def load_arpa(path: Path, normalize: str) -> NGramModel:
    """Read a model, compressed or not; `normalize` is what its texts went through.

    Raises InputError, with the line, for anything that is no ARPA file, for other counts than it
    announces, and where it ends early.
    """
    with open_input(str(path)) as stream:
        return _Reader(stream).read(normalize)


class _Reader:
    """One pass over a file's lines."""

    def __init__(self, stream: InputStream) -> None:
        self._stream = stream
        self._number = 0

    def _fault(self, reason: str) -> InputError:
        return InputError(f"{self._stream.stream_name}:{self._number}: {reason}")

    def _line(self) -> bytes:
        """The next line that is not blank; raises InputError at the end."""
        while True:
            line = self._stream.readline(MAX_LINE + 1)
            self._number += 1
            if not line:
                raise self._fault("the file ends before \\end\\; it is truncated")
            if len(line) > MAX_LINE:
                raise self._fault(f"a line of more than {MAX_LINE:,} bytes")
            if not line.isspace():
                return line

    def read(self, normalize: str) -> NGramModel:
        if self._line().strip() != ARPA_MAGIC:
            raise self._fault("an ARPA file begins with \\data\\")
        counts: list[int] = []
        line = self._line()
        while (found := ARPA_COUNT.fullmatch(line.strip())) is not None:
            counts.append(int(found[2]))
            if int(found[1]) != len(counts):
                raise self._fault(f"counts of order {len(counts)} are missing")
            line = self._line()
        if not 1 <= len(counts) <= MAX_ORDER:
            raise self._fault(f"{len(counts)} orders; an n-gram model has 1 to {MAX_ORDER}")
        orders: list[NGrams] = []
        words: list[Hashes] = []
        for n, count in enumerate(counts, 1):
            if line.strip() != b"\\%d-grams:" % n:
                raise self._fault(f"{line[:40]!r} where \\{n}-grams: was expected")
            line = self._section(n, count, orders, words)
        if line.strip() != b"\\end\\":
            raise self._fault(f"{line[:40]!r} where \\end\\ was expected")
        try:
            return build_model(_with_suffixes(orders, words), normalize=normalize)
        except InputError as fault:
            raise InputError(f"{self._stream.stream_name}: {fault}") from fault

    def _section(self, n: int, count: int, orders: list[NGrams], words: list[Hashes]) -> bytes:
        """Read the n-grams of one order; returns the line after them."""
        parts: list[tuple[Hashes, np.ndarray, np.ndarray]] = []
        total = 0
        line = self._line()
        while not line.startswith(b"\\"):
            rows: list[list[bytes]] = []
            while not line.startswith(b"\\") and len(rows) < _LINES:
                rows.append(line.split())
                if len(rows[-1]) not in (n + 1, n + 2):
                    raise self._fault(f"{line[:40]!r}: a probability, {n} words and a backoff")
                line = self._line()
            total += len(rows)
            parts.append(self._parse(n, rows))
        if total != count:
            raise self._fault(f"{total:,} {n}-grams where {count:,} were announced")
        grams = [np.concatenate(column) for column in zip(*parts, strict=True)] if parts else []
        if not grams:
            grams = [np.zeros((0, n), np.uint64), np.zeros(0), np.zeros(0)]
        hashes = grams[0][:, -1]
        for column in range(n - 2, -1, -1):
            hashes = extend_hash(hashes, grams[0][:, column])
        orders.append(NGrams(hashes=hashes, probs=grams[1], backoffs=grams[2]))
        words.append(grams[0])
        return line

    def _parse(self, n: int, rows: list[list[bytes]]) -> tuple[Hashes, np.ndarray, np.ndarray]:
        """Hashes of the words (G, n), probabilities and backoffs of some lines."""
        try:
            probs = np.array([float(row[0]) for row in rows])
            backoffs = np.array([float(row[n + 1]) if len(row) > n + 1 else 0.0 for row in rows])
        except ValueError as fault:
            raise self._fault(f"before this line, in the {n}-grams: {fault}") from fault
        if not (np.all(probs <= 0) and np.all(np.isfinite(backoffs))):
            raise self._fault(
                f"before this line, in the {n}-grams: a probability above 1, or not a number"
            )
        text = b"\n".join(b" ".join(row[1 : n + 1]) for row in rows)
        found = split_words([text], is_arpa=True).hashes
        if len(found) != n * len(rows):
            raise self._fault(f"before this line, in the {n}-grams: a control character in a word")
        return found.reshape(-1, n), probs, backoffs


def _with_suffixes(orders: list[NGrams], words: list[Hashes]) -> list[NGrams]:
    """The same and, without a probability, every n-gram that ends a longer one and is missing."""
    orders = list(orders)
    for n in range(len(orders), 2, -1):
        chain = [words[n - 1][:, -1]]
        for column in range(n - 2, 0, -1):
            chain.append(extend_hash(chain[-1], words[n - 1][:, column]))
        for m in range(n - 1, 1, -1):
            known = orders[m - 1]
            missing = np.setdiff1d(chain[m - 1], known.hashes)
            if not len(missing):
                break
            orders[m - 1] = NGrams(
                hashes=np.concatenate([known.hashes, missing]),
                probs=np.concatenate([known.probs, np.full(len(missing), np.nan)]),
                backoffs=np.concatenate([known.backoffs, np.zeros(len(missing))]),
            )
    return orders
