"""Who works on what, among processes that share nothing but a directory.

    .claims/owner-00002-4f1c8a   a process: where it runs, and a beat that it counts up
    .claims/0.3.1 -> owner-...   it has unit 0.3 in hand

A claim is a symbolic link to its owner's file: making one is atomic on network file systems too,
which flock is not. A claim whose owner is gone is never removed by others: the next taker makes
0.3.2, which only one can. An owner is gone when its file is, when its process is not among those of
this machine, or, on another machine, when its beat has stood still for STALE_S as seen from here,
so that clocks need not agree.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from llmtools.shards.place import Place

CLAIMS = ".claims"
BEAT_S = 5.0
STALE_S = 60.0


class Claims:
    """The claims of one process; a context manager that gives back what is not done.

    is_over: the directory of claims was removed, which the last process does when all is done.
    """

    def __init__(
        self, folder: Path, place: Place, *, beat_s: float = BEAT_S, stale_s: float = STALE_S
    ) -> None:
        self._folder = folder / CLAIMS
        self._place = place
        self._beat_s, self._stale_s = beat_s, stale_s
        self.owner = f"owner-{place.index:05d}-{secrets.token_hex(3)}"
        self.is_over = False
        self._about: dict[str, Any] = {
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
        }
        self._about |= {"started": _start_of(os.getpid())}
        self._held: dict[str, Path] = {}
        # What was last seen of an owner on another machine, and when it was first seen so.
        self._seen: dict[str, tuple[bytes, float]] = {}
        self._ended = threading.Event()
        self._handle = -1

    def __enter__(self) -> Claims:
        # The last process of an earlier run may be removing the directory.
        while self._handle < 0:
            self._folder.mkdir(parents=True, exist_ok=True)
            try:
                self._handle = os.open(
                    self._folder / self.owner, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644
                )
            except FileNotFoundError:
                continue
        self._beat(0)
        self._thread = threading.Thread(target=self._keep_beating, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        fault: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()
        for key in list(self._held):
            self.release(key)
        (self._folder / self.owner).unlink(missing_ok=True)
        os.close(self._handle)
        try:
            self._folder.rmdir()
        except OSError:
            # Others are at work, or it is gone.
            return

    def _beat(self, number: int) -> None:
        # Of one length, so that a reader never sees the end of a longer one.
        line = json.dumps({**self._about, "beat": f"{number:012d}"})
        os.pwrite(self._handle, line.encode(), 0)
        os.fsync(self._handle)

    def _keep_beating(self) -> None:
        number, last = 0, time.monotonic()
        while not self._ended.wait(self._beat_s):
            now = time.monotonic()
            if self._place.is_shared and now - last > self._stale_s:
                # It stood still for so long that others have taken its units over.
                os.kill(os.getpid(), signal.SIGTERM)
                return
            number, last = number + 1, now
            self._beat(number)

    def take(self, key: str) -> int:
        """Claim `key`: 0 where another has it, 1 where nobody ever had.

        More where its owners are gone: what they wrote last may not have been read yet, so the
        ledger must be read again before work begins.
        """
        number = 1
        while True:
            path = self._folder / f"{key}.{number}"
            try:
                os.symlink(self.owner, path)
            except FileExistsError:
                try:
                    owner = os.readlink(path)
                except FileNotFoundError:
                    continue
                if owner != self.owner:
                    if not self._is_gone(owner):
                        return 0
                    number += 1
                    continue
            except FileNotFoundError:
                self.is_over = True
                return 0
            self._held[key] = path
            if not os.path.lexists(self._folder / self.owner):
                self.is_over = True
                self.release(key)
                return 0
            return number

    def release(self, key: str) -> None:
        """Let others have what is not done."""
        path = self._held.pop(key, None)
        if path is not None:
            path.unlink(missing_ok=True)

    def keep(self, key: str) -> None:
        """It is done: the claim stays, so that nobody begins it who has not read the ledger."""
        self._held.pop(key, None)

    def busy(self) -> dict[str, str]:
        """What living processes have in hand: key to owner."""
        last: dict[str, int] = {}
        try:
            names = os.listdir(self._folder)
        except FileNotFoundError:
            self.is_over = True
            return {}
        for name in names:
            key, _, number = name.rpartition(".")
            if number.isdecimal():
                last[key] = max(last.get(key, 0), int(number))
        found: dict[str, str] = {}
        gone: dict[str, bool] = {}
        for key, highest in last.items():
            try:
                owner = os.readlink(self._folder / f"{key}.{highest}")
            except FileNotFoundError:
                continue
            if owner not in gone:
                gone[owner] = self._is_gone(owner)
            if not gone[owner]:
                found[key] = owner
        return found

    def describe(self, owner: str) -> str:
        """'process 12 on HOST' for messages."""
        try:
            about = json.loads((self._folder / owner).read_bytes())
            return f"process {about['pid']} on {about['host']}"
        except (OSError, ValueError, KeyError, TypeError):
            return owner

    def _is_gone(self, owner: str) -> bool:
        if owner == self.owner:
            return False
        try:
            data = (self._folder / owner).read_bytes()
        except FileNotFoundError:
            return True
        try:
            about = json.loads(data)
            if about["machine"] and about["machine"] == self._about["machine"]:
                return bool(_start_of(about["pid"]) != about["started"])
        except (ValueError, KeyError, TypeError):
            # Being written, or its writer died at once: the beat decides.
            pass
        now = time.monotonic()
        before, since = self._seen.get(owner, (b"", now))
        if before != data or owner not in self._seen:
            self._seen[owner] = (data, now)
            return False
        return now - since > self._stale_s


def _machine() -> str:
    """What processes that can see each other's ids have in common; '' where that is not known."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{socket.gethostname()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _start_of(pid: int) -> str:
    """When a process was started, which tells it from a later one of that id; '' if it ended."""
    try:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if words[0] in "ZX" else words[19]
