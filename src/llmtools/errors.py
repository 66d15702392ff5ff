"""The exceptions that become messages, and the exit code of each.

    LLMToolsError              70  a bug of ours, unless a subclass says otherwise
    |-- AnswerIsNo              1  the command ran and the answer is no
    |-- UsageError              2  flags, settings or arguments that cannot be right
    |-- InputError              3  bad, missing or empty input
    |-- ResourceError           4  a missing dependency or device, no memory, no disk, no permission
    `-- InterruptedRun          5  stopped by a signal after the state was saved

Every message names what happened, where (file, line, key), the value, the limit and the next step.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class LLMToolsError(Exception):
    """Base of every error that ends a command with one message instead of a traceback."""

    exit_code = 70


class AnswerIsNo(LLMToolsError):
    """The command did its work and a requested check failed."""

    exit_code = 1


class UsageError(LLMToolsError):
    """The command line or a settings file asks for something impossible."""

    exit_code = 2


class InputError(LLMToolsError):
    """An input is missing, malformed, truncated, or a whole job has no output."""

    exit_code = 3


class ResourceError(LLMToolsError):
    """The machine lacks something: a package, a device, memory, disk space or write permission."""

    exit_code = 4


class InterruptedRun(LLMToolsError):
    """A signal stopped the run after its state was saved; the message says how to resume."""

    exit_code = 5


_NO_MEMORY = (
    "failed to map segment",
    "cannot allocate memory",
    "can't allocate memory",
    "std::bad_alloc",
    "unable to allocate",
    "out of memory",
    "outofmemory",
)


def is_no_memory(fault: BaseException) -> bool:
    """Whether an exception, or one that it came from, says that memory ran out.

    The loader, numpy, torch and LLVM each raise a class of their own for it.
    """
    seen: BaseException | None = fault
    while seen is not None:
        text = f"{type(seen).__name__}: {seen}".lower()
        if isinstance(seen, MemoryError) or any(words in text for words in _NO_MEMORY):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean X?' for the known name nearest to `name`, or '' when nothing is near."""
    import difflib

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""
