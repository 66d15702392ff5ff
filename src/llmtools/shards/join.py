"""Parts put together, in order, as the one output a pipe would have written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xxhash

from llmtools.formats.manifest import FILE_NAME, Recorder, digest_file
from llmtools.formats.output import open_output
from llmtools.formats.stream import READ_BYTES
from llmtools.shards.unit import Part

if TYPE_CHECKING:
    from llmtools.formats.token_forms import TokenForm


def part_of(path: Path) -> Part:
    """Size, lines and digest of a file; of a directory, those of its files without the manifest."""
    if not path.is_dir():
        digest, num_bytes, num_lines = xxhash.xxh3_128(), 0, 0
        with open(path, "rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
                num_bytes += len(block)
                num_lines += block.count(b"\n")
        return Part(
            path=str(path), num_bytes=num_bytes, num_lines=num_lines, digest=digest.hexdigest()
        )
    total, num_bytes = xxhash.xxh3_128(), 0
    for below in sorted(p for p in path.rglob("*") if p.is_file() and p.name != FILE_NAME):
        size, found = digest_file(below)
        total.update(f"{below.relative_to(path)} {found}\n".encode())
        num_bytes += size
    return Part(path=str(path), num_bytes=num_bytes, num_lines=0, digest=total.hexdigest())


def is_as_written(parts: Iterable[dict[str, Any]], *, is_quick: bool = False) -> bool:
    """Whether each output is there with the bytes it was given; `is_quick`: with as many bytes."""
    for item in parts:
        path = Path(item["path"])
        if not path.exists():
            return False
        if is_quick:
            if _size_of(path) != item["num_bytes"]:
                return False
        elif part_of(path).digest != item["digest"]:
            return False
    return True


def _size_of(path: Path) -> int:
    if not path.is_dir():
        return path.stat().st_size
    below = (p for p in path.rglob("*") if p.is_file() and p.name != FILE_NAME)
    return sum(p.stat().st_size for p in below)


def join(
    parts: Sequence[Part],
    output: str,
    settings: dict[str, Any],
    *,
    form: TokenForm | None = None,
) -> None:
    """Write the parts one after another, with a manifest that names each of them.

    Records go line by line and frames are cut anew, so that the bytes, compressed ones too, are
    those that one process writes. form: what parts that are frames become.
    """
    recorder = Recorder("run", settings)
    for part in parts:
        recorder.inputs.append({"path": part.path, "bytes": part.num_bytes, "digest": part.digest})
    if form is not None:
        from llmtools.formats.token_files import write_token_files
        from llmtools.formats.tokens import read_frames, reframe

        paths = [part.path for part in parts]
        write_token_files(
            output,
            lambda limit: reframe(read_frames(paths), limit),
            recorder,
            form=form,
            force=True,
        )
        return
    with open_output(output, force=True) as out:
        for part in parts:
            with open(part.path, "rb") as file:
                for line in file:
                    out.write(line)
    recorder.wrote(out)
    recorder.write_beside(output)
