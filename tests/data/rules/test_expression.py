"""The expressions of --where: what they mean, what they refuse, and where they say it is wrong."""

from __future__ import annotations

import random
import string

import pytest

from llmtools.data.rules.expression import Unanswered, parse_expression
from llmtools.errors import UsageError

RECORD = {
    "id": "d1",
    "text": "four words of text",
    "language": "en",
    "tags": ["a", "b", 3],
    "none": None,
    "metadata": {"scores": {"ppl": 12.5, "odd name": 1, "n": 3}, "ok": True, "and": 5},
}


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("metadata.scores.ppl < 13", True),
        ("metadata.scores.ppl <= 12.5", True),
        ("12.5 > metadata.scores.ppl", False),
        ("metadata.scores.ppl >= 1.25e1", True),
        ("metadata.scores.n == 3.0", True),
        ("metadata.scores.n != -3", True),
        ('language == "en"', True),
        ("language == 'en' and metadata.ok", True),
        ("not metadata.ok", False),
        ("not not metadata.ok", True),
        ("not language == 'de' and metadata.ok == true", True),
        ("language in ['de', 'en']", True),
        ("language not in ['de', 'en']", False),
        ("3 in tags and 'c' not in tags", True),
        ("'words' in text", True),
        ("len(text) == 18 and len(tags) > 2", True),
        ('metadata.scores["odd name"] == 1', True),
        ("metadata['and'] == 5", True),
        ("tags[1] == 'b'", True),
        ("'b' < 'c' and language < 'fr'", True),
        ("has(metadata.scores.ppl) and not has(metadata.nope) and not has(none)", True),
        # A boolean is no number, a string no number: not equal, not an error.
        ("metadata.ok == 1", False),
        ("language == 3", False),
        ("language != 3", True),
        # `and` binds before `or`, `not` before both; brackets change that.
        ("true or false and false", True),
        ("(true or false) and false", False),
        ("not true or true", True),
        ("not (true or true)", False),
        # What is decided is not looked up.
        ("language == 'en' or metadata.nope > 3", True),
        ("language == 'de' and metadata.nope > 3", False),
        ("'it\\'s' == \"it's\" and '\\\\' == \"\\\\\"", True),
        ("\n true\t", True),
        ("language in []", False),
    ],
)
def test_expressions_mean_what_they_say(text, answer):
    assert parse_expression(text).holds(RECORD) is answer


@pytest.mark.parametrize(
    ("text", "field", "found"),
    [
        ("metadata.nope > 3", "metadata.nope", None),
        ("not (metadata.nope > 3)", "metadata.nope", None),
        ("metadata.nope.deeper == 1 or true", "metadata.nope.deeper", None),
        ("none == null", "none", None),
        ("tags[9] == 1", "tags[9]", None),
        ("language > 3", "language", "a string"),
        ("3 < language", "language", "a string"),
        ("metadata.ok > 3", "metadata.ok", "a boolean"),
        ("language", "language", "a string"),
        ("text and true", "and", "a string"),
        ("len(metadata)  > 3", "metadata", "an object"),
        ("3 in language", "language", "a string"),
        ("'a' in metadata", "metadata", "an object"),
    ],
)
def test_a_record_without_an_answer_says_which_field_is_to_blame(text, field, found):
    with pytest.raises(Unanswered) as caught:
        parse_expression(text).holds(RECORD)
    assert (caught.value.field, caught.value.found) == (field, found)


@pytest.mark.parametrize(
    ("text", "reason", "column"),
    [
        ("", "a field, a number or a string expected, not the end", 0),
        ("a ==", "not the end", 4),
        ("a = 3", "write == to compare", 2),
        ("a > 3 b", "'and', 'or' or the end expected", 6),
        ("(a > 3", "')' expected", 6),
        ("1 < a < 3", "one comparison at a time", 6),
        ("a > 'x", "no end", 4),
        ("a.3 > 1", "'and', 'or' or the end", 1),
        ("a[b] > 1", '["a name"]', 2),
        ("a[-1] > 1", '["a name"]', 2),
        ("a $ b", "no meaning", 2),
        ("len text", "'(' expected", 4),
        ("len(text > 3)", "')' expected", 9),
        ("a in [1 2]", "',' expected", 8),
        ("a and", "not the end", 5),
        ("in > 3", "not 'in'", 0),
        ("not", "not the end", 3),
        ("__import__('os')", "'and', 'or' or the end", 10),
        ("(" * 60 + "a" + ")" * 60, "levels of nesting", 50),
        ("[" * 60, "levels of nesting", 50),
        ("len(" * 2000, "levels of nesting", 200),
    ],
)
def test_mistakes_are_shown_where_they_are(text, reason, column):
    with pytest.raises(UsageError) as caught:
        parse_expression(text)
    message, shown, caret = str(caught.value).split("\n")
    assert message.startswith("--where: ") and reason in message
    assert shown == f"  {text}"
    assert caret.index("^") - 2 == column


def test_fields_are_listed_once_in_order():
    found = parse_expression("b.c > 1 and a == 2 or b.c < 0 and has(z)")
    assert found.fields == ("b.c", "a")


def test_an_expression_has_a_limit():
    with pytest.raises(UsageError, match="10,000"):
        parse_expression("a or " * 3000 + "a")
    assert parse_expression(" or ".join(["false"] * 900 + ["true"])).holds({})


def test_random_texts_parse_or_are_refused_and_never_anything_else():
    chance = random.Random(4)
    words = ["a", "metadata.x", "(", ")", "[", "]", "not", "in", "and", "or", "==", "<", "3", "'s'"]
    words += ["len(", "has(", ".", ",", "true", "null", *string.punctuation]
    parsed = 0
    for _ in range(4000):
        text = " ".join(chance.choices(words, k=chance.randint(1, 8)))
        try:
            expression = parse_expression(text)
        except UsageError:
            continue
        parsed += 1
        try:
            expression.holds(RECORD | {"a": 3})
        except Unanswered:
            continue
    assert parsed > 20
