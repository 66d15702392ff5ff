"""Where tokens are written: frames to a pipe, a file or a directory, and other programs' forms."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import chain

from llmtools.formats.input_names import STDIO, bare_suffix
from llmtools.formats.manifest import Recorder
from llmtools.formats.output import atomic_directory, check_output, open_output
from llmtools.formats.token_forms import TokenForm, write_form
from llmtools.formats.tokens import PIPE_FRAME_BYTES, TokenFrame, write_frame

# In a directory every file is one frame, as the plain safetensors library reads it.
FILE_FRAME_BYTES = 64 << 20


def write_token_files(
    output: str,
    frames: Callable[[int], Iterable[TokenFrame]],
    recorder: Recorder,
    *,
    form: TokenForm,
    force: bool = False,
) -> None:
    """Write tokens and their manifest.

    `output` of frames is '-', a file whose name ends in .safetensors (a stream of frames,
    compressed by a further suffix), or else a directory; for other forms see token_forms.py.
    frames: called with how many bytes of ids close a frame.
    """
    if form.name != "frames":
        check_output(output, force=force)
        found = iter(frames(PIPE_FRAME_BYTES))
        first = next(found)
        dtype = form.dtype_for(first.vocabulary.vocab_size)
        documents = (ids for frame in chain([first], found) for _, ids, _ in frame.documents())
        write_form(output, documents, form, dtype, recorder, force=force)
        return
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
