"""What the files of n-gram language models say of themselves; data/ngram_lm.py has the tables."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from llmtools.errors import InputError
from llmtools.formats import tensor_header
from llmtools.formats.stream import open_input

FORMAT = "llmtools/ngram-lm@1"
ARPA_MAGIC = b"\\data\\"
ARPA_COUNT = re.compile(rb"ngram\s+(\d{1,3})\s*=\s*(\d{1,15})")
MAX_ORDER = 16
SHOWN_PERCENTILES = (10, 30, 50, 60, 90)


def describe_ngram_model(path: Path) -> dict[str, Any]:
    """Order, n-grams of each order, normalisation, and some percentiles."""
    with open(path, "rb") as file:
        header = tensor_header.read_header(file, str(path))
        assert header is not None
        about = header.metadata
        found: dict[str, Any] = {
            "kind": "n-gram language model",
            "order": about.get("order"),
            "normalize": about.get("normalize"),
            "documents": about.get("documents"),
            "ngrams": about.get("ngrams"),
        }
        entry = header.tensors.get("percentiles")
        if entry is not None and entry.dtype == "F64" and entry.shape == (101,):
            file.seek(header.data_start + entry.start)
            values = np.frombuffer(tensor_header.read_exactly(file, 808, str(path)), "<f8")
            found["perplexity_percentiles"] = {
                str(percent): float(values[percent]) for percent in SHOWN_PERCENTILES
            }
    return found


def describe_arpa(path: Path) -> dict[str, Any]:
    """Order and n-grams of each order, as the file announces them."""
    counts: list[int] = []
    with open_input(str(path)) as stream:
        for _ in range(2 * MAX_ORDER):
            line = stream.readline(1 << 12).strip()
            match = ARPA_COUNT.fullmatch(line)
            if match is not None:
                counts.append(int(match[2]))
            elif line and line != ARPA_MAGIC:
                break
    if not counts:
        raise InputError(f"{path}: an ARPA file that announces no n-grams")
    ngrams = " ".join(map(str, counts))
    return {"kind": "n-gram language model (ARPA)", "order": str(len(counts)), "ngrams": ngrams}
