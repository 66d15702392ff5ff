"""What a person sees: notes, errors, progress, tables and JSON.

stdout carries data only; everything here but `emit_json` and `emit_text` goes to stderr. This is
the only module that asks whether a stream is a terminal. `llm --help` loads it, so it imports next
to nothing: dataclasses, typing and json would be half of that command's time.
"""

from __future__ import annotations

import os
import sys
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Any, Literal

LINE_INTERVAL_S = 10.0
# No path is this long; a value in a damaged file may be.
LONGEST_WORD = 4200


class Display:
    """The global display flags (see docs/cli.md)."""

    __slots__ = ("color", "json", "progress", "quiet", "verbose")

    def __init__(
        self,
        *,
        quiet: bool = False,
        verbose: bool = False,
        json: bool = False,
        color: bool = True,
        progress: Literal["auto", "always", "never"] = "auto",
    ) -> None:
        self.quiet, self.verbose, self.json = quiet, verbose, json
        self.color, self.progress = color, progress


_display = Display()


def configure(**changes: Any) -> Display:
    """Set display flags for this process and return all of them."""
    global _display
    kept = {name: getattr(_display, name) for name in Display.__slots__}
    _display = Display(**{**kept, **changes})
    return _display


def display() -> Display:
    """The display flags in force."""
    return _display


def stdin_is_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def stdout_is_terminal() -> bool:
    return sys.stdout is not None and sys.stdout.isatty()


def stderr_is_terminal() -> bool:
    return sys.stderr is not None and sys.stderr.isatty()


def _paint(text: str, code: str) -> str:
    plain = (
        not _display.color
        or "NO_COLOR" in os.environ
        or os.environ.get("TERM") == "dumb"
        or not stderr_is_terminal()
    )
    return text if plain else f"\x1b[{code}m{text}\x1b[0m"


def note(message: str) -> None:
    """One line for a person; silent under --quiet."""
    if not _display.quiet:
        print(message, file=sys.stderr)


def detail(message: str) -> None:
    """One line that only --verbose shows."""
    if _display.verbose:
        print(message, file=sys.stderr)


def warn(message: str) -> None:
    """A warning; shown under --quiet too, because it says that something was not as asked."""
    print(_paint("warning: ", "33") + readable(message), file=sys.stderr)


def error(message: str) -> None:
    """The one message of a command that failed."""
    print(_paint("error: ", "31") + readable(message), file=sys.stderr)


def readable(message: str) -> str:
    """A message that quotes a file: long words cut, control characters spelled out.

    Without it a damaged file could fill the screen, or send the terminal commands.
    """
    if len(message) > LONGEST_WORD:
        for word in message.split():
            if len(word) > LONGEST_WORD:
                message = message.replace(word, f"{word[:300]}[{len(word) - 300} more]")
    message = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in message)
    return message.encode("utf-8", "backslashreplace").decode()


def emit_json(value: Mapping[str, Any]) -> None:
    """One JSON object on stdout, floats at full precision."""
    import json

    sys.stdout.write(json.dumps(value, ensure_ascii=False, allow_nan=True) + "\n")
    sys.stdout.flush()


def emit_text(text: str) -> None:
    """Result text on stdout, flushed so that a reader at the other end sees it now."""
    sys.stdout.write(text)
    sys.stdout.flush()


def format_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """An aligned plain-text table; columns whose every cell is a number are right-aligned."""
    cells = [[str(c) for c in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    right = [
        bool(rows) and all(isinstance(row[i], int | float) for row in rows)
        for i in range(len(header))
    ]

    def line(row: Sequence[str]) -> str:
        padded = (
            c.rjust(w) if r else c.ljust(w) for c, w, r in zip(row, widths, right, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * w for w in widths]), *map(line, cells)])


def human_count(n: float) -> str:
    """1234567 -> '1.23M' (decimal units)."""
    for limit, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(n) >= limit:
            return f"{n / limit:.3g}{unit}"
    return f"{n:g}" if isinstance(n, int) else f"{n:.3g}"


class Progress:
    """A counter that draws a bar on a terminal, prints a line every 10 s, or does nothing."""

    def __init__(self, label: str, total: int | None, unit: str) -> None:
        self.label, self.total, self.unit = label, total, unit
        self.count = 0
        self.fields: dict[str, str] = {}
        self._start = self._last_line = time.monotonic()
        self._bar: Any = None
        mode = "never" if _display.quiet else _display.progress
        self._lines = mode == "always"
        if mode == "auto" and stderr_is_terminal():
            from tqdm import tqdm

            self._bar = tqdm(
                total=total, desc=label, unit=unit, unit_scale=True, file=sys.stderr, leave=False
            )

    def update(self, n: int = 1, **fields: str) -> None:
        """Count `n` more; `fields` (already formatted) replace what is shown beside the count."""
        self.count += n
        if fields:
            self.fields.update(fields)
        if self._bar is not None:
            if fields:
                self._bar.set_postfix(self.fields, refresh=False)
            self._bar.update(n)
        elif self._lines and time.monotonic() - self._last_line >= LINE_INTERVAL_S:
            self._last_line = time.monotonic()
            self._print_line()

    def _print_line(self) -> None:
        elapsed = max(time.monotonic() - self._start, 1e-9)
        rate = self.count / elapsed
        parts = [f"{self.label}: {human_count(self.count)}"]
        if self.total:
            parts[0] += f"/{human_count(self.total)}"
            if rate > 0:
                parts.append(f"ETA {max(self.total - self.count, 0) / rate:.0f}s")
        parts.insert(1, f"{human_count(rate)} {self.unit}/s")
        parts += [f"{k} {v}" for k, v in self.fields.items()]
        print(", ".join(parts), file=sys.stderr, flush=True)

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()
        elif self._lines:
            self._print_line()


def progress(label: str, total: int | None = None, unit: str = "it") -> Progress:
    """Progress on stderr: a bar on a terminal, plain lines with --progress always, else nothing."""
    return Progress(label, total, unit)
