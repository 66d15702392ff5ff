from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmtools.data.batch import make_batch
from llmtools.data.rules.badwords import BadWordsRule
from llmtools.data.rules.c4 import c4_reference, sentences_reference
from llmtools.data.rules.rule import Verdicts
from llmtools.data.rules.settings import BadWordsSettings, C4Settings, Conventions, URLSettings
from llmtools.data.rules.table import choose
from llmtools.data.rules.url import URLRule, domains_of
from llmtools.errors import InputError
from llmtools.formats.record import Document
from text_batches import batch_of

PIECES = ["one two three.", "[12]", "[edit]", "[citation needed]", "{", "JavaScript", "x" * 12]
PIECES += ["Lorem Ipsum", "privacy policy", "?", "...", '"', "'", "日本。", "é", "[", "[1", "٣]"]
BREAKS = [" ", "\n", "\r\n", "\v", "\x85", "\u2028", "", "\u3000", "\n\n"]
texts = st.lists(st.tuples(st.sampled_from(PIECES), st.sampled_from(BREAKS)), max_size=30).map(
    lambda found: "".join(map("".join, found))
)


def judged(name: str, text: str, dialect: Any = "datatrove", **given: Any) -> Verdicts:
    (rule,) = choose((name,), given, Conventions(dialect=dialect)).build()
    return rule.apply(batch_of([text]))


def left(name: str, text: str, dialect: Any = "datatrove", **given: Any) -> str | None:
    found = judged(name, text, dialect, **given)
    if found.rejects[0] is not None:
        return None
    return found.texts[0].decode() if found.texts else text


@given(text=texts | st.text())
def test_c4s_kernel_leaves_what_the_reference_does(text: str) -> None:
    given_ = {"min_num_sentences": 1, "max_word_length": 11, "min_words_per_line": 2}
    cause, kept = c4_reference(text, C4Settings(**given_))  # type: ignore[arg-type]
    found = judged("c4", text, **given_)
    reject = found.rejects[0]
    assert (reject.check.measure if reject else "") == cause
    if not cause:
        assert (found.texts[0].decode() if found.texts else text) == kept


def test_c4s_dialects_differ_as_documented() -> None:
    text = "A line ends in 'quotes'\nA line goes on and on...\n\nThis one stays. It has JavaScript."
    loose = {"min_num_sentences": 1}
    assert left("c4", text, **loose) == "A line ends in 'quotes'"
    assert left("c4", text, "dolma", **loose) is None
    assert left("c4", text.replace("Java", ""), "dolma") == (
        "A line goes on and on...\nThis one stays. It has Script."
    )
    assert left("c4", text.replace("Java", ""), "dclm", **loose) == "This one stays. It has Script."


@pytest.mark.parametrize(
    ("line", "count"),
    [("One. Two! Three?", 3), ("At 3.14 of foo.bar", 1), ('He said "no." Then left.', 2), ("", 1)],
)
def test_sentences_end_at_marks_that_white_space_follows(line: str, count: int) -> None:
    assert sentences_reference(line) == count


def test_refinedweb_removes_lines_that_are_no_text() -> None:
    lines = ["ALL OF THIS IS SHOUTED", "12345", "3,000 Likes", "one", "", "3 items in cart now"]
    text = "\n".join(["A first line of text.", *lines, "The last one. Read more..."])
    found = left("refinedweb", text, "dclm", max_removed_words_ratio=0.9)
    assert found == "A first line of text.\n\n3 now\nThe last one."
    assert left("refinedweb", text, "dclm") is None
    assert left("refinedweb", "nothing to be removed here", "dclm") == "nothing to be removed here"


def page(url: str) -> Document:
    return Document(b"", {"metadata": {"url": url}}, "test", 1, "1", "text")


def test_a_url_is_blocked_by_each_kind_of_list(tmp_path: Path) -> None:
    lists = {
        "url_domains": "# comment\nbad.example\n",
        "url_list": "http://fine.example/but-not-this\n",
        "url_words": "Bad-Word\n",
        "url_soft_words": "soft\nsofter\n",
        "url_subwords": "in side\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
    paths = {name: str(tmp_path / name) for name in lists}
    rule = URLRule("url", URLSettings(**paths), Conventions())  # type: ignore[arg-type]
    blocked = {
        "https://www.bad.example:80/x": "domain",
        "http://fine.example/but-not-this": "url",
        "http://x.example/a/badword/b": "word",
        "http://soft.example/softer": "soft_words",
        "http://x.example/veryinSIDEly": "subword",
        "http://soft.example/notbad.example": None,
    }
    documents = [page(url) for url in blocked]
    found = rule.apply(make_batch(documents, [b"text"] * len(documents)))
    named = [None if reject is None else reject.check.measure for reject in found.rejects]
    assert named == list(blocked.values())
    with pytest.raises(InputError, match="--url-key"):
        rule.apply(batch_of(["no address"]))


def test_domains_are_the_host_and_those_above_it() -> None:
    assert domains_of("https://u:p@A.b.Example.com:8080/p?q") == [
        "a.b.example.com",
        "b.example.com",
        "example.com",
    ]
    assert domains_of("192.168.0.1/x") == ["192.168.0.1"]
    assert domains_of("http://[::1]/") == ["[::1]"]


def test_bad_words_stand_alone_or_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "words.txt"
    path.write_text("Bad\nvery bad thing\n性\n")
    batch = batch_of(["so BAD!", "badly", "a very bad thing", "中性的", "good"])

    def found(**given: bool) -> list[bool]:
        rule = BadWordsRule(
            "badwords", BadWordsSettings(badwords=str(path), **given), Conventions()
        )
        return [reject is not None for reject in rule.apply(batch).rejects]

    assert found() == [True, False, True, False, False]
    assert found(badwords_inside=True) == [True, True, True, True, False]
