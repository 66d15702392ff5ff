"""What takes long to find out about a tokenizer, kept between runs.

The identity and the size of a vocabulary of 128,000 tokens take a second of CPU time, and follow
from the bytes of the file. `$XDG_CACHE_HOME/llmtools/tokenizers/DIGEST.json` has them. A file that
is gone, damaged or cannot be written costs that second again and nothing else.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

import xxhash

from llmtools.errors import LLMToolsError
from llmtools.formats.output import write_file

# Another one where what is kept is found out in another way.
VERSION = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """identity: see identity.py. vocab_size: one more than the largest id."""

    identity: str
    vocab_size: int


def digest_of(text: str) -> str:
    """The name of a tokenizer.json's facts."""
    return xxhash.xxh3_128_hexdigest(text.encode("utf-8", "surrogatepass"), seed=VERSION)


def recall(digest: str) -> Facts | None:
    """The facts of a file that was seen before."""
    try:
        found = Facts(**json.loads(_place(digest).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    is_sound = isinstance(found.identity, str) and len(found.identity) == 32
    return found if is_sound and isinstance(found.vocab_size, int) else None


def remember(digest: str, facts: Facts) -> None:
    """Keep the facts of a file, if there is a place for them."""
    place = _place(digest)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_file(place, json.dumps(asdict(facts)).encode())
    except (OSError, LLMToolsError):
        return


def _place(digest: str) -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "llmtools" / "tokenizers" / f"{digest}.json"
