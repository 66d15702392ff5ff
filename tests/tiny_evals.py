"""A few multiple-choice questions in HellaSwag's own layout."""

from __future__ import annotations

import json
from pathlib import Path

LAND = ("France", "Italy", "Spain", "Austria", "Norway", "Greece")
WORDS = ("sleeps", "eats", "sings", "reads a book")


def write_questions(path: Path, shift: int = 0) -> Path:
    """JSON lines; `shift` moves which ending is right."""
    rows = [
        {
            "ind": number,
            "activity_label": "Travel",
            "ctx_a": f"A man goes to {land}.",
            "ctx_b": f"he sees {number} towns and",
            "endings": [f"{word} in {land}." for word in WORDS],
            "label": str((number + shift) % 4),
        }
        for number, land in enumerate(LAND)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
