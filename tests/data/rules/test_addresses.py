"""Expected values are written from the regular expressions of DCLM's modifiers.py."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmtools.data.rules.addresses import AddressRule, NewlineRule, pattern_of
from llmtools.data.rules.recipes import RECIPES
from llmtools.data.rules.settings import AddressSettings, Conventions, NewlineSettings
from llmtools.errors import InputError
from text_batches import batch_of

DOMAINS = ["com", "org", "museum", "co", "uk", "th", "ly", "xn--p1ai", "भारत"]
# As in the source, with all domains as alternatives instead of letter by letter.
ANY = "|".join(sorted(map(re.escape, DOMAINS), key=len, reverse=True))
HOSTS = re.compile(
    r"\s{0,10}(?:((https?|ftp)://))?[-a-zA-Z0-9@:%._\+~#=]{1,256}"
    rf"\.(?:{ANY})\b([-a-zA-Z0-9()@:%_\+.~#?&//=]*)"
)
NUMBERS = re.compile(
    r"\s{0,10}\b((https?|ftp)://)?(?:[0-2]?[0-9]{1,2}\.){3}[0-2]?[0-9]{1,2}"
    r"[-a-zA-Z0-9()@:%_\+.~#?&//=]*"
)


@pytest.fixture(scope="module")
def rule(tmp_path_factory: pytest.TempPathFactory) -> AddressRule:
    path = tmp_path_factory.mktemp("lists") / "tlds.txt"
    path.write_text("# Version 1\n" + "\n".join(DOMAINS).upper() + "\n", encoding="utf-8")
    return AddressRule("addresses", AddressSettings(tlds=str(path)), Conventions())


@pytest.mark.parametrize(
    "address",
    [
        "https://www.example.com",
        "example.co.uk",
        "blog.samples.org:8081/post.html",
        "ftp://user:secret@files.example.com/a(b)?c=d&e#f",
        "http://www.example.museum",
        "bit.ly/abc",
        "a.xn--p1ai",
        "http://192.168.1.1",
        "https://10.0.0.1:8080/x",
        "1.1.1.1",
    ],
)
def test_an_address_goes_with_the_space_before_it(rule: AddressRule, address: str) -> None:
    assert rule.without_addresses(f"This one {address} goes.") == "This one goes."
    assert rule.without_addresses(f"This one\n{address}\nstays") == "This one\nstays"


@pytest.mark.parametrize("text", ["U.S.A.", "e.g.", "3.14", "example.COM", "a.comx", "v3.12.7"])
def test_what_is_none_stays(rule: AddressRule, text: str) -> None:
    assert rule.without_addresses(f"This {text} stays") == f"This {text} stays"


def test_hosts_are_looked_for_in_texts_that_open_with_a_domain_alone(rule: AddressRule) -> None:
    assert rule.without_addresses("See a.com or 1.2.3.4 here") == "See a.com or here"
    assert rule.without_addresses("Comes from a.com or 1.2.3.4 here") == "Comes from or here"


def test_more_than_ten_spaces_stay_in_part(rule: AddressRule) -> None:
    assert rule.without_addresses("th" + " " * 12 + "a.com") == "th  "


PIECES = ["a", "x.com", ".", "http://", "th", " ", "\n", "1.2", "3", "é", ".org", "/", "(", "-"]
PIECES += ["y" * 130, "     ", "@", ".भारत", "२", "_", "0.0.0.0", "https"]


@settings(max_examples=300)
@given(pieces=st.lists(st.sampled_from(PIECES), max_size=25))
def test_looking_for_a_part_first_changes_nothing(rule: AddressRule, pieces: list[str]) -> None:
    text = "th" + "".join(pieces)
    assert rule.without_addresses(text) == NUMBERS.sub("", HOSTS.sub("", text))


def test_a_pattern_of_letters_matches_the_entries_and_nothing_else() -> None:
    found = re.compile(pattern_of(DOMAINS))
    assert all(found.fullmatch(domain) for domain in DOMAINS)
    assert not any(found.fullmatch(text) for text in ("c", "orgs", "mus", "", "xn", "p1ai"))


def test_a_text_of_addresses_alone_is_dropped_and_others_are_edited(rule: AddressRule) -> None:
    found = rule.apply(batch_of(["1.2.3.4", "The a.com page", "plain"]), annotate=True)
    assert [reject is None for reject in found.rejects] == [False, True, True]
    assert found.texts == {1: b"The page"}
    assert [one["characters_left"] for one in found.measures] == [0, 8, 5]


def test_line_feeds_in_a_row_are_shortened() -> None:
    two, one = (
        NewlineRule("newlines", NewlineSettings(max_newlines=most), Conventions())
        for most in (2, 1)
    )
    text = "a\n\n\n\n\nb\n\nc\nd\n \n"
    assert two.shortened(text) == "a\n\nb\n\nc\nd\n \n"
    assert one.shortened(text) == "a\nb\nc\nd\n \n"
    assert two.apply(batch_of(["", "a\n\nb"])).texts == {}


def test_dclm_edits_before_it_judges() -> None:
    names = [step.rule for step in RECIPES["dclm"].steps]
    assert names[:4] == ["url", "addresses", "newlines", "language"]


def test_a_list_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    for name, said in (("empty", "no entries"), ("none", "No such file")):
        with pytest.raises(InputError, match=said):
            AddressRule("a", AddressSettings(tlds=str(tmp_path / name)), Conventions())
