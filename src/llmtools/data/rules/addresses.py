"""Rules `addresses` and `newlines`: what DCLM takes out of texts before it judges them.

An address is a host below a listed top-level domain, in lower case, with what follows it, or four
numbers between dots; up to ten white-space characters before it go too. As in DCLM, hosts are
looked for only in a text that opens with the letters of a top-level domain, in any case: that is
where its check with `match` looks ("The" opens with th, Thailand's).

    source: DCLM, baselines/mappers/modifiers.py: url_removal_modifier, newline_removal_modifier
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from llmtools.data.batch import Batch
from llmtools.data.rules.rule import Check, Reject, Rule, Verdicts
from llmtools.data.rules.settings import AddressSettings, Conventions, NewlineSettings
from llmtools.data.rules.url import read_entries
from llmtools.errors import InputError
from llmtools.formats.manifest import digest_file

_TAIL = r"[-a-zA-Z0-9()@:%_\+.~#?&//=]*"
_NUMBERS = re.compile(
    rf"\s{{0,10}}\b(?:(?:https?|ftp)://)?(?:[0-2]?[0-9]{{1,2}}\.){{3}}[0-2]?[0-9]{{1,2}}{_TAIL}"
)
# What every such address holds, from the last digit of its first number on.
_DOTTED = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]")
# No address begins farther before what it must hold: white space, 'https://' and a host's name.
_REACH = 10 + 8 + 256
_LINE_FEEDS = re.compile(r"\n+")

Edit = Callable[[str], str]


class AddressRule(Rule):
    """Removes addresses; a text that has nothing else is dropped."""

    def __init__(self, name: str, settings: AddressSettings, conventions: Conventions) -> None:
        self.name = name
        path = str(settings.tlds)
        domains = {entry.lower() for entry in read_entries(path)}
        if not domains:
            raise InputError(f"{path}: no entries (--tlds)")
        self.record = asdict(settings) | {"tlds": digest_file(Path(path))[1]}
        self.checks = (Check(rule=name, measure="characters_left", threshold=1, is_minimum=True),)
        listed = pattern_of(domains)
        self._opening = re.compile(listed, re.IGNORECASE)
        self._domain = re.compile(rf"\.{listed}\b")
        self._host = re.compile(
            rf"\s{{0,10}}(?:(?:https?|ftp)://)?[-a-zA-Z0-9@:%._\+~#=]{{1,256}}\.{listed}\b{_TAIL}"
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        return _edited(batch, self.without_addresses, self.checks, annotate=annotate)

    def without_addresses(self, text: str) -> str:
        """The text without hosts, and then without numbers between dots."""
        if self._opening.match(text):
            text = _remove(text, self._domain, self._host)
        return _remove(text, _DOTTED, _NUMBERS)


class NewlineRule(Rule):
    """Shortens runs of line feeds."""

    def __init__(self, name: str, settings: NewlineSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self.checks = ()
        self._most = settings.max_newlines

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        return _edited(batch, self.shortened, self.checks, annotate=annotate)

    def shortened(self, text: str) -> str:
        """The text with at most so many line feeds in a row."""
        if "\n" * (self._most + 1) not in text:
            return text
        return _LINE_FEEDS.sub(lambda run: run[0][: self._most], text)


def _edited(batch: Batch, edit: Edit, checks: tuple[Check, ...], *, annotate: bool) -> Verdicts:
    """What is left of each text; one of which nothing is fails the check, where there is one."""
    rejects: list[Reject | None] = []
    texts: dict[int, bytes] = {}
    measures: list[dict[str, Any]] = []
    for row in range(len(batch.documents)):
        text = str(batch.text(row), "utf-8")
        found = edit(text)
        fails = not found and bool(checks)
        rejects.append(Reject(check=checks[0], value=0.0) if fails else None)
        if found != text and not fails:
            texts[row] = found.encode()
        if annotate:
            measures.append({"characters_left": len(found)})
    return Verdicts(rejects=rejects, measures=measures, texts=texts)


def _remove(text: str, needed: re.Pattern[str], whole: re.Pattern[str]) -> str:
    """`whole.sub('', text)`, for a pattern of which each match holds a match of `needed`.

    The whole pattern is tried at every character, which is far slower than to look for a part.
    """
    parts: list[str] = []
    at = 0
    while hint := needed.search(text, at):
        found = whole.search(text, max(at, hint.start() - _REACH))
        if found is None:
            break
        parts.append(text[at : found.start()])
        at = found.end()
    return "".join(parts) + text[at:]


def pattern_of(entries: Iterable[str]) -> str:
    """A group that matches the entries letter by letter, so that thousands cost what one does."""
    root: dict[str, Any] = {}
    for entry in entries:
        node = root
        for character in entry:
            node = node.setdefault(character, {})
        node[""] = {}
    return _group(root)


def _group(node: dict[str, Any]) -> str:
    """Longer entries are tried before those that they open with."""
    longer = [re.escape(c) + _group(child) for c, child in sorted(node.items()) if c]
    if not longer:
        return ""
    return f"(?:{'|'.join(longer)}){'?' if '' in node else ''}"
