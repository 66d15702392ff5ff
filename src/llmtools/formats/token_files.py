"""Where token frames are written: a pipe, one file, or a directory of files with a frame each."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from llmtools.formats.manifest import Recorder
from llmtools.formats.stream import STDIO, atomic_directory, bare_suffix, open_output
from llmtools.formats.tokens import PIPE_FRAME_BYTES, TokenFrame, write_frame

# In a directory every file is one frame, as the plain safetensors library reads it.
FILE_FRAME_BYTES = 64 << 20


def write_token_files(
    output: str,
    frames: Callable[[int], Iterable[TokenFrame]],
    recorder: Recorder,
    *,
    force: bool = False,
) -> None:
    """Write frames and their manifest.

    `output` is '-', a file whose name ends in .safetensors (a stream of frames, compressed by a
    further suffix), or else a directory. frames: called with how many bytes of ids close a frame.
    """
    if output == STDIO or bare_suffix(output) == ".safetensors":
        with open_output(output, force=force, is_binary=True) as out:
            for frame in frames(PIPE_FRAME_BYTES):
                write_frame(out, frame)
        recorder.wrote(out)
        recorder.write_beside(output)
        return
    with atomic_directory(output, force=force) as directory:
        for number, frame in enumerate(frames(FILE_FRAME_BYTES)):
            path = directory / f"tokens-{number:05d}.safetensors"
            with open_output(str(path), compress=False) as out:
                write_frame(out, frame)
        recorder.wrote_tree(directory)
        recorder.write_beside(directory)
