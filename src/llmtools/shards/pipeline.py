"""The grammar of `llm run`: commands joined by |, as in a shell, and what may follow what.

There is no shell behind it: quotes and backslashes work, and variables, redirections, substitutions
and other operators are refused. Globs are left to the commands, which all expand their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from llmtools.errors import UsageError, did_you_mean
from llmtools.shards.unit import Stage

_OPERATORS = "|&;<>()"


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """What a command reads and writes as a stage.

    is_barrier: it needs its whole input before its output is right, so it is one unit, unless it is
    divided: see `parts_of`.
    """

    reads: frozenset[str]
    writes: str
    is_barrier: bool = False
    verb: str | None = None


def _kind(*reads: str, writes: str, is_barrier: bool = False, verb: str | None = None) -> Kind:
    return Kind(reads=frozenset(reads), writes=writes, is_barrier=is_barrier, verb=verb)


KINDS = {
    "extract": _kind(writes="documents"),
    "filter": _kind("documents", writes="documents"),
    "dedup": _kind("documents", writes="documents", is_barrier=True),
    "tokenize": _kind("documents", writes="token frames"),
    "detokenize": _kind("token frames", writes="documents"),
    "pack": _kind("documents", "token frames", writes="packed rows", is_barrier=True),
    "score": _kind("documents", writes="documents"),
    "scorer": _kind("documents", writes="a scorer", is_barrier=True, verb="train"),
    "tokenizer": _kind("documents", writes="a tokenizer", is_barrier=True, verb="train"),
}


def writes_frames(stage: Stage) -> bool:
    """Whether what units of this stage write are token frames; other forms are made of those."""
    return KINDS[stage.name].writes == "token frames" and stage.values.get("format") != "jsonl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Stages, what the first one reads, where the last one writes, and each one's --rejects.

    force: the output may be replaced.
    """

    stages: tuple[Stage, ...]
    inputs: tuple[str, ...]
    output: str
    force: bool
    rejects: tuple[str | None, ...]


def split_stages(words: Sequence[str]) -> list[list[str]]:
    """The words of each stage: of one quoted string, or of words with '|' among them.

    A leading `llm` is dropped, so that a shell's pipe can be pasted. Raises UsageError for what
    only a shell understands and for an empty stage.
    """
    tokens = list(_lex(words[0])) if len(words) == 1 else [(w, w == "|") for w in words]
    stages: list[list[str]] = [[]]
    for word, is_bar in tokens:
        if is_bar:
            stages.append([])
        else:
            stages[-1].append(word)
    stages = [stage[1:] if stage[:1] == ["llm"] else stage for stage in stages]
    if not all(stages):
        raise UsageError("a stage of the pipeline is empty: write COMMAND | COMMAND | ...")
    return stages


def _lex(text: str) -> Iterator[tuple[str, bool]]:
    """(word, whether it is the operator |) of a command line."""
    word: str | None = None
    at = 0
    while at < len(text):
        char = text[at]
        if char in "'\"":
            part, at = _quoted(text, at)
            word = (word or "") + part
            continue
        if char == "\\" and at + 1 < len(text):
            # A backslash before a line end continues the line.
            word = word if text[at + 1] == "\n" else (word or "") + text[at + 1]
            at += 2
            continue
        if char.isspace() or char in _OPERATORS:
            if word is not None:
                yield word, False
            word = None
            if char in _OPERATORS:
                _check_bar(text, at)
                yield char, True
        else:
            _check_plain(text, at)
            word = (word or "") + char
        at += 1
    if word is not None:
        yield word, False


def _quoted(text: str, start: int) -> tuple[str, int]:
    """The content of a quoted part, and the place after it."""
    quote, out, at = text[start], "", start + 1
    while at < len(text) and text[at] != quote:
        if quote == '"':
            _check_plain(text, at)
            if text[at] == "\\" and text[at + 1 : at + 2] in ('"', "\\", "$", "`"):
                at += 1
        out += text[at : at + 1]
        at += 1
    if at >= len(text):
        raise UsageError(f"the pipeline's {quote} at character {start + 1} is never closed")
    return out, at + 1


def _check_bar(text: str, at: int) -> None:
    if text[at] != "|" or text[at + 1 : at + 2] in ("|", "&"):
        end = at + 1
        while end < len(text) and text[end] in _OPERATORS:
            end += 1
        raise UsageError(
            f"{text[at:end]!r} at character {at + 1} is the shell's: a pipeline is commands joined"
            " by |, the last one with -o; quote it if it belongs to a word"
        )


def _check_plain(text: str, at: int) -> None:
    if text[at] in "$`":
        raise UsageError(
            f"{text[at]!r} at character {at + 1}: a pipeline has no variables or substitutions;"
            " write the value, or put the character in single quotes"
        )


def check_names(stages: Sequence[Sequence[str]]) -> list[str]:
    """What is wrong with the commands of a pipeline and their order, as messages."""
    mistakes = []
    for number, words in enumerate(stages, 1):
        kind = KINDS.get(words[0])
        if kind is None:
            known = ", ".join(KINDS)
            near = did_you_mean(words[0], KINDS)
            mistakes.append(f"stage {number}: {words[0]!r} is no stage{near} (stages: {known})")
        elif kind.verb is not None and words[1:2] != [kind.verb]:
            mistakes.append(f"stage {number}: write {words[0]} {kind.verb}")
    if mistakes:
        return mistakes
    for number, (before, after) in enumerate(pairwise(stages), 2):
        gives, takes = KINDS[before[0]].writes, KINDS[after[0]].reads
        if not takes:
            mistakes.append(f"stage {number}: {after[0]} reads files, so it can only come first")
        elif gives not in takes:
            mistakes.append(
                f"stage {number}: {after[0]} reads {' or '.join(sorted(takes))},"
                f" but {before[0]} gives {gives}"
            )
    return mistakes


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """Stages that run together in each unit; a barrier is a single unit."""

    stages: tuple[Stage, ...]
    first: int
    is_barrier: bool

    @property
    def title(self) -> str:
        return " | ".join(stage.title for stage in self.stages)


# The parts of a divided stage, each a phase of its own: units over its input, one unit that sees
# what all of those found, and units over the input again.
SIGN, LINK, APPLY = "sign", "link", "apply"
# Flags of dedup that need all of its input in one process.
_UNDIVIDED = ("verify_jaccard", "index", "create_index")


def parts_of(stage: Stage) -> tuple[str, ...]:
    """The parts of a stage that is divided over units, () for one that is not."""
    if stage.name != "dedup" or stage.values.get("method") != "minhash":
        return ()
    return () if any(map(stage.values.get, _UNDIVIDED)) else (SIGN, LINK, APPLY)


def phases(stages: Sequence[Stage]) -> list[Phase]:
    """Which stages run in one unit.

    A document without an id is named after the line it stands on, and the lines of a later stage
    can be counted only when all units before have been through the stages before. So stages join
    only where ids are certain, behind `extract`; others wait until the parts are there.
    """
    found: list[Phase] = []
    for number, stage in enumerate(stages):
        is_barrier = KINDS[stage.name].is_barrier
        before = found[-1] if found else None
        parts = parts_of(stage)
        if parts:
            found += [
                Phase(stages=(replace(stage, part=part),), first=number, is_barrier=part == LINK)
                for part in parts
            ]
            continue
        if (
            before is not None
            and not is_barrier
            and before.stages[0].name == "extract"
            and stage.values.get("id_key", "id") == "id"
        ):
            found[-1] = Phase(stages=(*before.stages, stage), first=before.first, is_barrier=False)
        else:
            found.append(Phase(stages=(stage,), first=number, is_barrier=is_barrier))
    return found
