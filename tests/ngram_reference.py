"""Modified Kneser-Ney in dictionaries, straight from Chen and Goodman (1998), to hold ours against.

Equations are those of the technical report TR-10-98: (25) for the lower orders' counts, (26) and
the text below it for the three discounts, (17) for the interpolation; the boundary words and <unk>
are as in lmplz.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

Gram = tuple[str, ...]


class Reference:
    """A model of some sentences (lists of words).

    prune: for each order, the count at which n-grams are dropped. Broken twins: `shift` takes the
    discounts of the order above or below, `has_raw_counts` counts occurrences in all orders.
    """

    def __init__(
        self,
        sentences: Sequence[Sequence[str]],
        order: int,
        *,
        prune: Sequence[int] = (),
        shift: int = 0,
        has_raw_counts: bool = False,
    ) -> None:
        self.order = order
        limits = [*prune, *[prune[-1] if prune else 0] * order][:order]
        raw: list[Counter[Gram]] = [Counter() for _ in range(order + 1)]
        before: dict[Gram, set[str]] = defaultdict(set)
        for sentence in sentences:
            words = ("<s>", *sentence, "</s>")
            for n in range(1, order + 1):
                for at in range(len(words) - n + 1):
                    gram = words[at : at + n]
                    raw[n][gram] += 1
                    if at and n < order:
                        before[gram].add(words[at - 1])
        counts: list[dict[Gram, int]] = [{}]
        for n in range(1, order + 1):
            counts.append({})
            for gram, count in raw[n].items():
                is_raw = n == order or gram[0] == "<s>" or has_raw_counts
                counts[n][gram] = count if is_raw else len(before[gram])
        counts[1][("<unk>",)] = 0
        counts[1][("<s>",)] = 0
        self.discounts = [discounts_of(c.values()) for c in counts[1:]]
        self.probs: dict[Gram, float] = {}
        self.backoffs: dict[Gram, float] = {}
        every: dict[Gram, float] = {(): 1 / (len(counts[1]) - 1)}
        for n in range(1, order + 1):
            discounts = self.discounts[(n - 1 + shift) % order]
            following: dict[Gram, list[tuple[Gram, int]]] = defaultdict(list)
            for gram, count in counts[n].items():
                following[gram[:-1]].append((gram, count))
            for context, grams in following.items():
                total = sum(count for _, count in grams)
                removed = 0.0
                kept = []
                for gram, count in grams:
                    is_kept = n == 1 or raw[n][gram] > limits[n - 1]
                    taken = discounts[min(count, 3)] if is_kept else count
                    removed += taken
                    kept.append((gram, (count - taken) / total, is_kept))
                for gram, share, is_kept in kept:
                    every[gram] = share + removed / total * every[gram[1:]]
                    if is_kept:
                        self.probs[gram] = math.log10(every[gram])
                if context:
                    self.backoffs[context] = math.log10(removed / total)
        self.probs[("<s>",)] = 0.0

    def score(self, sentence: Sequence[str]) -> list[float]:
        """log10 of each word's probability, that of </s> last."""
        known = [word if (word,) in self.probs else "<unk>" for word in sentence]
        words = ("<s>", *known, "</s>")
        return [
            self._log10(words[max(0, at - self.order + 1) : at + 1]) for at in range(1, len(words))
        ]

    def _log10(self, gram: Gram) -> float:
        if gram in self.probs:
            return self.probs[gram]
        return self.backoffs.get(gram[:-1], 0.0) + self._log10(gram[1:])


def discounts_of(counts: object) -> tuple[float, float, float, float]:
    """(0, D1, D2, D3+)."""
    times = Counter(counts)  # type: ignore[call-overload]
    n1, n2, n3, n4 = (times[k] for k in (1, 2, 3, 4))
    if not (n1 and n2 and n3):
        return (0.0, 0.5, 1.0, 1.5)
    y = n1 / (n1 + 2 * n2)
    found = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
    if not all(0 < d <= k for k, d in enumerate(found, 1)):
        return (0.0, 0.5, 1.0, 1.5)
    return (0.0, *found)
