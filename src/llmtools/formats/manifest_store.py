"""Every manifest by the digest of the bytes it describes, wherever those go.

$XDG_STATE_HOME/llmtools/manifests/ab/DIGEST/ID.json, and ID.drops where documents were dropped.
DIGEST is that of an output, of the bytes inside a compressed output, or the manifest's own id. The
same bytes can have been made in several ways, hence a directory for each digest. The store is a
convenience: it may be deleted, and a job never fails because of it.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from llmtools import terminal

_DIGEST = re.compile(r"[0-9a-f]{32}")


def folder() -> Path:
    """The store's folder."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "llmtools" / "manifests"


def _place(digest: str) -> Path:
    return folder() / digest[:2] / digest


def put(id: str, digests: list[str], manifest: bytes, drops: bytes | None) -> None:
    """Keep a manifest, and its drop log, under each digest; a store that fails is a warning."""
    try:
        first: dict[str, Path] = {}
        for digest in digests:
            place = _place(digest)
            place.mkdir(parents=True, exist_ok=True)
            for name, data in ((f"{id}.json", manifest), (f"{id}.drops", drops)):
                if data is None:
                    continue
                temporary = place / f".{name}.{os.getpid()}"
                temporary.unlink(missing_ok=True)
                if name not in first or not _linked(first[name], temporary):
                    temporary.write_bytes(data)
                os.replace(temporary, place / name)
                first.setdefault(name, place / name)
    except OSError as fault:
        terminal.warn(
            f"{folder()}: cannot keep the manifest ({fault.strerror or fault}), so the lineage of"
            " this output is known only beside it"
        )


def _linked(source: Path, target: Path) -> bool:
    """Give a file a second name; False where the file system has none."""
    try:
        os.link(source, target)
    except OSError:
        return False
    return True


def ids_of(digest: str | None) -> list[str]:
    """The ids of the manifests that describe some bytes."""
    return [path.stem for path in manifests_of(digest)]


def manifests_of(digest: str | None) -> list[Path]:
    """The manifests that describe some bytes, newest first."""
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        return []
    place = _place(digest)
    try:
        found = [(path.stat().st_mtime, path) for path in place.glob("*.json")]
    except OSError:
        return []
    return [path for _, path in sorted(found, reverse=True) if _DIGEST.fullmatch(path.stem)]


def drops_of(id: str) -> Path | None:
    """The drop log of a manifest, None where the store has none."""
    if not _DIGEST.fullmatch(id):
        return None
    path = _place(id) / f"{id}.drops"
    return path if path.is_file() else None
