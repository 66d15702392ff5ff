"""Lines of a documents file: good ones, and every kind of malformed one by its reason."""

from __future__ import annotations

GOOD = [
    b'{"id":"a","text":"The capital of France is Paris, they say.","kept":1}',
    b'{"text": "The capital of Italy is Rome, and Naples is large.",  "id": "b"}',
]
BAD = {
    "not JSON": b'{"id": "x", "text": "cut',
    "not UTF-8": b'{"id": "y", "text": "\xff\xfe"}',
    "no field 'text'": b'{"id": "z", "body": "elsewhere"}',
    "field 'text' is a number": b'{"id": "n", "text": 7, "metadata": {"from": "w"}}',
    "an array where": b"[1, 2]",
    "surrogate": b'{"id": "s", "text": "\\ud800 alone"}',
}
