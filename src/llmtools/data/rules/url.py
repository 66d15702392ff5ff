"""Rule `url`: datatrove 0.10.1's five block lists, from files of one entry a line.

    domains    the host or a domain above it is listed
    list       the address itself is listed
    words      a word of the address is listed
    soft words that many words of the address are listed
    subwords   the address, letters and digits alone, holds a listed string

'#' opens a comment line. Words and subwords lose all but ASCII letters and digits, and case. Two
differences: a listed domain blocks every host below it, where datatrove asks the public suffix list
for the registered one and for the host alone; and lists of millions are kept as 64-bit hashes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sized
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import xxhash

from llmtools.data.batch import Batch
from llmtools.data.rules.lists import list_lines
from llmtools.data.rules.rule import Check, Reject, Rule, Verdicts
from llmtools.data.rules.settings import Conventions, URLSettings
from llmtools.errors import InputError
from llmtools.formats.manifest import digest_file
from llmtools.formats.record import Document

_NOT_WORD = re.compile(r"[^a-zA-Z0-9]+")
_HOST = re.compile(r"^(?:[a-zA-Z][a-zA-Z0-9+.-]*:)?(?://)?(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)")
_FILES = ("url_domains", "url_list", "url_words", "url_soft_words", "url_subwords")


class URLRule(Rule):
    """Drops documents by the address they come from."""

    def __init__(self, name: str, settings: URLSettings, conventions: Conventions) -> None:
        self.name = name
        self.record = asdict(settings)
        self._key = settings.url_key
        paths = {key: getattr(settings, key) for key in _FILES}
        self._domains = _hashes(paths["url_domains"])
        self._urls = _hashes(paths["url_list"])
        self._words = _normalised(paths["url_words"])
        self._soft = _normalised(paths["url_soft_words"])
        self._subwords = _normalised(paths["url_subwords"])
        lists: tuple[Sized, ...] = (
            self._domains,
            self._urls,
            self._words,
            self._soft,
            self._subwords,
        )
        for (key, path), entries in zip(paths.items(), lists, strict=True):
            if path is not None:
                if not len(entries):
                    raise InputError(f"{path}: no entries (--{key.replace('_', '-')})")
                self.record[key] = digest_file(Path(path))[1]
        self._lengths = sorted({len(word) for word in self._subwords})
        measures = ("domain", "url", "word", "soft_words", "subword")
        limits = (0, 0, 0, settings.soft_word_threshold - 1, 0)
        self.checks = tuple(
            Check(rule=name, measure=measure, threshold=limit)
            for measure, limit in zip(measures, limits, strict=True)
        )

    def apply(self, batch: Batch, *, annotate: bool = False) -> Verdicts:
        rejects: list[Reject | None] = []
        measures: list[dict[str, Any]] = []
        for document in batch.documents:
            found = list(self._found(url_of(document, self._key)))
            failed = [
                Reject(check=check, value=float(value))
                for check, value in zip(self.checks, found, strict=True)
                if value > float(check.threshold)
            ]
            rejects.append(failed[0] if failed else None)
            if annotate:
                names = (check.measure for check in self.checks)
                measures.append(dict(zip(names, found, strict=True)))
        return Verdicts(rejects=rejects, measures=measures)

    def _found(self, url: str) -> Iterator[int]:
        """How often each list matches an address, in the order of the checks."""
        yield _count(self._domains, domains_of(url))
        yield _count(self._urls, [url])
        words = set(_NOT_WORD.split(url))
        yield len(words & self._words)
        yield len(words & self._soft)
        plain = _NOT_WORD.sub("", url).lower()
        yield sum(
            plain[start : start + size] in self._subwords
            for size in self._lengths
            for start in range(len(plain) - size + 1)
        )


def url_of(document: Document, key: str) -> str:
    """The address of a document, in its metadata or beside it; raises InputError without one."""
    metadata = document.fields.get("metadata")
    value = metadata.get(key) if isinstance(metadata, dict) else None
    if value is None:
        value = document.fields.get(key)
    if not isinstance(value, str):
        raise InputError(
            f"{document.where}: no text in metadata.{key} or {key}, which rule url needs;"
            " name the field with --url-key"
        )
    return value


def domains_of(url: str) -> list[str]:
    """The host of an address and every domain above it, lower case; no top-level domain alone."""
    match = _HOST.match(url.strip())
    host = (match[1] if match else "").lower().strip(".")
    if host.startswith("[") or host.replace(".", "").isdigit():
        return [host]
    labels = host.split(".")
    return [".".join(labels[i:]) for i in range(max(len(labels) - 1, 1))]


def read_entries(path: str) -> Iterator[str]:
    """The lines of a list, without blank ones and comments, never all of them in memory."""
    return (line for line in list_lines(path) if line[0] != "#")


def _normalised(path: str | None) -> frozenset[str]:
    entries = () if path is None else read_entries(path)
    plain = (_NOT_WORD.sub("", entry).lower() for entry in entries)
    return frozenset(entry for entry in plain if entry)


def _hashes(path: str | None) -> npt.NDArray[np.uint64]:
    """The hashes of the entries, sorted: 8 bytes each."""
    found = np.fromiter(() if path is None else map(_hash, read_entries(path)), np.uint64)
    found.sort()
    return found


def _hash(entry: str) -> int:
    return xxhash.xxh3_64_intdigest(entry.encode())


def _count(listed: npt.NDArray[np.uint64], entries: list[str]) -> int:
    """How many of the entries are listed."""
    if not listed.size:
        return 0
    wanted = np.array([_hash(entry) for entry in entries], np.uint64)
    at = np.minimum(np.searchsorted(listed, wanted), listed.size - 1)
    return int((listed[at] == wanted).sum())
