"""The right to write an output: its temporary, a hidden sibling, locked until the output is there.

The lock is flock's, which the kernel frees however a process ends, so a temporary without a lock
is what a killed run left, and the next run of the same output takes it over. Where a file system
has no locks (some network mounts), two runs on one output are not noticed.
"""

from __future__ import annotations

import atexit
import errno
import fcntl
import os
import re
import shutil
import stat
import time
from pathlib import Path

from llmtools import signals
from llmtools.errors import ResourceError

TEMPORARY = ".llmtools-tmp"
REPLACED = ".llmtools-old"
_REPLACED_NAME = re.compile(rf"\.(.+){re.escape(REPLACED)}-\d+")
_NO_LOCKS = (errno.EBADF, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)
# A check by another run holds the lock for an instant; longer than this is a run at work.
_PATIENCE_S = 0.2


def temporary_for(target: Path) -> Path:
    """The hidden sibling in which an output grows."""
    return target.absolute().with_name(f".{target.name}{TEMPORARY}")


class Claim:
    """One output that this process alone may write; made by take_claim.

    temporary: the empty file or directory to fill; `target.absolute()` is where it goes.
    """

    def __init__(self, target: Path, handle: int) -> None:
        self.target = target
        self.temporary = temporary_for(target)
        self._handle: int | None = handle
        self._process = os.getpid()
        _held.add(self)

    def _let_go(self) -> None:
        # A second call must not close a descriptor that has become another file's.
        _held.discard(self)
        handle, self._handle = self._handle, None
        if handle is not None:
            os.close(handle)

    def publish(self) -> None:
        """Put the temporary in the target's place, and let go of both.

        What stands where a directory is to be is moved aside first: one rename cannot replace it.
        """
        target = self.target.absolute()
        if self.temporary.is_dir() and target.exists():
            aside = target.with_name(f".{target.name}{REPLACED}-{os.getpid()}")
            os.rename(target, aside)
            os.rename(self.temporary, target)
            remove(aside)
        else:
            os.replace(self.temporary, target)
        sync_directory(target.parent)
        self._let_go()

    def abandon(self) -> None:
        """Remove the temporary, and let go of the output, which stays or becomes what it was."""
        with signals.held():
            remove(self.temporary)
            _put_back(self.target)
            self._let_go()

    def abandon_if_own(self) -> None:
        """The same, unless this process is a fork of the one that made the claim."""
        if self._process == os.getpid():
            self.abandon()


_held: set[Claim] = set()


@atexit.register
def _abandon_held() -> None:
    """Let go of what an exception came in between claiming and filling: a signal comes anywhere."""
    for claim in list(_held):
        claim.abandon_if_own()


def take_claim(path: str, *, is_directory: bool) -> Claim:
    """Claim an output; what a killed run left of it is cleared away.

    Raises ResourceError when another run is writing it.
    """
    target = Path(path)
    temporary = temporary_for(target)
    temporary.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with signals.held():
            handle = _open_or_make(temporary, is_directory)
            try:
                lock(handle, path)
            except BaseException:
                os.close(handle)
                raise
            if not _is_at(handle, temporary):
                # Its owner published or removed it between the opening and the lock.
                os.close(handle)
                continue
            claim = Claim(target, handle)
        if stat.S_ISDIR(os.fstat(handle).st_mode) == is_directory:
            _empty(temporary)
            _put_back(target)
            return claim
        claim.abandon()


def check_claim(path: str) -> None:
    """Raises ResourceError when another run is writing `path`."""
    try:
        handle = os.open(temporary_for(Path(path)), os.O_RDONLY)
    except OSError:
        return
    try:
        lock(handle, path, is_shared=True)
    finally:
        os.close(handle)


def lock(handle: int, path: str, *, is_shared: bool = False) -> None:
    """Lock an open file or directory until it is closed.

    Raises ResourceError, naming `path`, when another run has it locked.
    """
    kind = fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX
    give_up = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, kind | fcntl.LOCK_NB)
            return
        except BlockingIOError as fault:
            if time.monotonic() < give_up:
                time.sleep(0.01)
                continue
            raise ResourceError(
                f"another run{_holder(handle)} is writing {path};"
                " wait for it or choose another output"
            ) from fault
        except OSError as fault:
            if fault.errno in _NO_LOCKS:
                return
            raise


def lock_directory(path: Path, *, is_shared: bool = False) -> int:
    """Lock a directory that stays where it is; returns the handle whose closing frees it.

    is_shared: beside others that share it, but none that wants it alone.
    """
    handle = os.open(path, os.O_RDONLY)
    try:
        lock(handle, str(path), is_shared=is_shared)
    except BaseException:
        os.close(handle)
        raise
    return handle


def remove_leftovers(folder: Path) -> None:
    """Clear away what killed runs left half-done in a folder that this process has locked.

    A directory that was being replaced, with the new one not yet in its place, goes back there.
    """
    for entry in sorted(folder.iterdir()):
        replaced = _REPLACED_NAME.fullmatch(entry.name)
        if replaced is not None:
            _put_back(folder / replaced[1])
        elif entry.name.startswith(".") and entry.name.endswith(TEMPORARY):
            try:
                handle = lock_directory(entry)
            except ResourceError:
                continue
            remove(entry)
            os.close(handle)


def _put_back(target: Path) -> None:
    """Undo or finish the replacement of `target` that a kill cut short."""
    start = f".{target.name}{REPLACED}-"
    folder = target.absolute().parent
    # A temporary directory takes the claims inside it along when it goes.
    for aside in sorted(folder.iterdir()) if folder.is_dir() else []:
        if aside.name.startswith(start) and aside.name[len(start) :].isdigit():
            if target.exists():
                remove(aside)
            else:
                os.rename(aside, target)


def _open_or_make(temporary: Path, is_directory: bool) -> int:
    while True:
        try:
            if is_directory:
                temporary.mkdir(exist_ok=True)
                return os.open(temporary, os.O_RDONLY)
            # Network file systems lock only what is open for writing.
            return os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
        except FileNotFoundError:
            # Another run removed it in between, unless the folder itself went away.
            if not temporary.parent.is_dir():
                raise
        except (IsADirectoryError, FileExistsError):
            # The other kind lies there.
            return os.open(temporary, os.O_RDONLY)


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), there)


def _empty(path: Path) -> None:
    if not path.is_dir():
        os.truncate(path, 0)
        return
    for entry in path.iterdir():
        remove(entry)


def _holder(handle: int) -> str:
    """' (process N)' where the system tells who holds the lock; not across containers."""
    inode = str(os.fstat(handle).st_ino)
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return ""
    for words in map(str.split, lines):
        if words[1] == "FLOCK" and words[5].endswith(f":{inode}") and int(words[4]) > 0:
            return f" (process {words[4]})"
    return ""


def remove(path: Path) -> None:
    """Remove a file or a directory tree; absent is fine, and so is another process at the same."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        if path.exists():
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync_directory(path: Path) -> None:
    """fsync a directory, so that a rename in it survives a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
