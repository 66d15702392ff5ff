"""Runs `llm` many times without paying for its imports: a server that forks for each run.

It reads one request a line (JSON), forks, answers {"pid"} when the child has its signal handlers,
and {"code", "peak_bytes"} when the child has ended. `code` is negative for a signal, as in
subprocess. Run as a script it is the server; `Preloaded` starts and talks to one.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODULES = (
    "torch torch._dynamo numba numpy tokenizers safetensors.torch orjson jinja2 tqdm typer"
    " llmtools.commands.common llmtools.commands.extract llmtools.commands.filter"
    " llmtools.commands.dedup llmtools.commands.tokenize llmtools.commands.detokenize"
    " llmtools.commands.scorer llmtools.commands.score"
    " llmtools.commands.tokenizer llmtools.tokenizer.train"
    " llmtools.commands.pack llmtools.commands.pretrain"
    " llmtools.commands.finetune llmtools.commands.quantize llmtools.commands.eval"
    " llmtools.commands.generate llmtools.commands.inspect"
    " llmtools.data.dedup llmtools.data.filter llmtools.data.extract llmtools.data.encode"
    " llmtools.data.score llmtools.data.scorer llmtools.data.ngram_train"
    " llmtools.data.rules.labels llmtools.data.classifier_train llmtools.data.regression_train"
    " llmtools.engine.embed"
    " llmtools.data.pack llmtools.data.pack_rows llmtools.data.pack_kernels"
    " llmtools.data.pack_order"
    " llmtools.data.decode llmtools.align.finetune llmtools.train.pretrain"
    " llmtools.engine.load llmtools.engine.score llmtools.engine.jobs llmtools.evals.run"
    " llmtools.quant.gguf_export llmtools.formats.describe llmtools.model llmtools.ops"
)


@dataclass(frozen=True)
class Ended:
    """How a run ended. code: exit status, negative for a signal."""

    code: int
    stdout: bytes
    message: str
    seconds: float
    peak_bytes: int
    is_hung: bool = False


class Preloaded:
    """A server and what it needs to be asked."""

    def __init__(self, folder: Path, *, wrapper: Sequence[str] = ()) -> None:
        """`folder` is for its files; `wrapper` is a command that runs the one after it."""
        self._folder = folder
        self._server = subprocess.Popen(
            [*wrapper, sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._server.pid
        self.idle_bytes = int(self._answer()["idle_bytes"])

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        assert self._server.stdout is not None
        self._server.stdout.close()
        self._server.wait(timeout=60)

    def _answer(self) -> dict[str, Any]:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the server of preloaded runs has died"
        return dict(json.loads(line))

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        cwd: Path,
        stdin: bytes = b"",
        stdout: Path | None = None,
        env: Mapping[str, str] | None = None,
        signals: Sequence[tuple[float, int]] = (),
        limit_bytes: int | None = None,
        timeout_s: float = 60,
        meanwhile: Callable[[int], None] = lambda pid: None,
    ) -> Ended:
        """Run `llm ARGV`; `signals` are (seconds after the last, number) to send it.

        meanwhile: called with its process id while it runs.
        limit_bytes: address space beyond what is mapped at the start. A run longer than `timeout_s`
        is killed and `is_hung`.
        """
        place = {name: self._folder / name for name in ("stdin", "stdout", "stderr")}
        place["stdin"].write_bytes(stdin)
        request = {
            "argv": [str(a) for a in argv],
            "cwd": str(cwd),
            "limit_bytes": limit_bytes,
            "env": dict(env or {}),
            **{name: str(path) for name, path in place.items()},
        }
        if stdout is not None:
            request["stdout"] = str(stdout)
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        pid = int(self._answer()["pid"])
        start = time.monotonic()
        done = threading.Event()
        hung = threading.Event()

        def watch() -> None:
            meanwhile(pid)
            for delay, number in signals:
                if done.wait(delay):
                    return
                _send(pid, number)
            if not done.wait(timeout_s):
                hung.set()
                _send(pid, signal.SIGKILL)

        watcher = threading.Thread(target=watch)
        watcher.start()
        ended = self._answer()
        done.set()
        watcher.join()
        return Ended(
            code=int(ended["code"]),
            stdout=b"" if stdout is not None else place["stdout"].read_bytes(),
            message=place["stderr"].read_text(errors="replace"),
            seconds=time.monotonic() - start,
            peak_bytes=int(ended["peak_bytes"]),
            is_hung=hung.is_set(),
        )


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass


def moment(chance: random.Random, seconds: float) -> float:
    """A random moment of a run that takes `seconds`, early ones as likely as late ones."""
    return chance.uniform(0.0, seconds)


def _serve() -> None:
    import importlib

    for name in MODULES.split():
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    _warm_up()
    gc.collect()
    gc.freeze()
    # The children's answers go this way; their own stdout is a file.
    answers = os.fdopen(os.dup(1), "w")
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _say(answers, {"idle_bytes": usage.ru_maxrss * 1024})
    for line in sys.stdin:
        request = json.loads(line)
        ready, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(ready)
            _child(request, told)
        os.close(told)
        os.read(ready, 1)
        os.close(ready)
        _say(answers, {"pid": pid})
        _, status, used = os.wait4(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        _say(answers, {"code": code, "peak_bytes": used.ru_maxrss * 1024})


def _warm_up() -> None:
    """Load what commands load when they run: the parser's parts, compiled kernels."""
    from llmtools import cli

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "documents.jsonl"
        place.write_text('{"text": "a few words, and a few words"}\n' * 3)
        for argv in (["filter", "--rules", "length", "--min-doc-words", "1"], ["dedup"]):
            assert cli.run([*argv, str(place), "-q", "-o", os.devnull]) == 0
        model = f"{folder}/lm.safetensors"
        assert cli.run(["scorer", "train", str(place), "-q", "-o", model]) == 0
        assert cli.run(["score", str(place), "--with", model, "-q", "-o", os.devnull]) == 0
    gc.enable()


def _say(answers: Any, value: dict[str, Any]) -> None:
    answers.write(json.dumps(value) + "\n")
    answers.flush()


def _child(request: dict[str, Any], told: int) -> None:
    """Become `llm ARGV`; never returns."""
    from llmtools import cli, signals

    code: Any = 70
    try:
        os.setsid()
        os.chdir(request["cwd"])
        os.environ.update(request["env"])
        for handle, name, flags in (
            (0, "stdin", os.O_RDONLY),
            (1, "stdout", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
            (2, "stderr", os.O_WRONLY | os.O_CREAT | os.O_TRUNC),
        ):
            os.dup2(os.open(request[name], flags, 0o644), handle)
        sys.stdin = open(0, closefd=False)
        sys.stdout = open(1, "w", closefd=False)
        sys.stderr = open(2, "w", buffering=1, closefd=False)
        sys.argv = ["llm", *request["argv"]]
        if request["limit_bytes"] is not None:
            mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            limit = mapped + request["limit_bytes"]
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        signals.install()
        os.write(told, b".")
        os.close(told)
        cli.main(request["argv"])
    except SystemExit as ended:
        code = ended.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 99
    finally:
        atexit._run_exitfuncs()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 0 if code is None else 1)


if __name__ == "__main__":
    _serve()
