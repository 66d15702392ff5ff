from __future__ import annotations

import pytest

from llmtools.data.keep import NOTHING, Keep
from llmtools.errors import InputError, UsageError
from llmtools.formats.record import Document


def document(text: str = "text", **metadata: object) -> Document:
    return Document(b"", {"text": text, "metadata": metadata}, "f.jsonl", 3, "id", text)


def test_values_of_each_rule() -> None:
    assert Keep("longest").value(document("four")) == 4
    assert Keep("metadata.score").value(document(score=2.5)) == 2.5
    nested = Keep("metadata.scores.quality.v2").value
    assert nested(document(scores={"quality": {"v2": 0.5}})) == 0.5
    assert nested(document(**{"scores.quality.v2": 3})) == 3
    assert nested(document(scores={"quality": 1})) == nested(document()) == NOTHING
    newest = Keep("newest").value
    assert newest(document(date="2026-01-02")) > newest(document(timestamp="2026-01-01T23:59:59Z"))
    assert newest(document(created=5)) == 5
    assert newest(document()) == NOTHING
    assert not Keep("first").has_values


@pytest.mark.parametrize("rule", ["last", "metadata.", "", "metadata"])
def test_other_rules_are_refused(rule: str) -> None:
    with pytest.raises(UsageError, match=r"first, longest, newest or metadata\.FIELD"):
        Keep(rule)


def test_values_of_another_type_name_their_place() -> None:
    with pytest.raises(InputError, match=r"f\.jsonl:3: metadata\.score is 'high', not a number"):
        Keep("metadata.score").value(document(score="high"))
    with pytest.raises(InputError, match=r"f\.jsonl:3: metadata\.date is 'today'"):
        Keep("newest").value(document(date="today"))


def test_a_field_that_no_document_has_is_an_error() -> None:
    keep = Keep("metadata.score")
    assert keep.value(document(sore=1)) == NOTHING
    with pytest.raises(InputError, match=r"no document has metadata\.score"):
        keep.check("f.jsonl")
    keep.value(document(score=0))
    keep.check("f.jsonl")
