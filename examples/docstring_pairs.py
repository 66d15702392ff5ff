"""Instruction pairs from Python sources: a function's signature asks, its docstring answers.

    python examples/docstring_pairs.py DIRECTORY > pairs.jsonl

One record a public function or method with a docstring of a sensible length:
{"id", "messages": [{"role": "user", ...}, {"role": "assistant", ...}]}. The same question is
asked once. Sources are parsed, never imported.
"""

from __future__ import annotations

import ast
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

SKIPPED_DIRECTORIES = {"site-packages", "test", "tests", "idlelib", "lib2to3", "__pycache__"}
MIN_ANSWER_CHARS, MAX_ANSWER_CHARS = 20, 300
MAX_QUESTION_CHARS = 200

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Public functions of a module and public methods of its classes, with dotted names."""
    for node in tree.body:
        if isinstance(node, Function):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for member in node.body:
                if isinstance(member, Function):
                    yield f"{node.name}.{member.name}", member


def pairs(root: Path) -> Iterator[dict[str, object]]:
    seen: set[str] = set()
    for path in sorted(root.rglob("*.py")):
        if SKIPPED_DIRECTORIES & set(path.relative_to(root).parts):
            continue
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tree = ast.parse(path.read_text(encoding="utf-8"))
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue
        for name, function in functions(tree):
            docstring = ast.get_docstring(function) or ""
            answer = " ".join(docstring.split("\n\n")[0].split())
            if function.name.startswith("_") or not (
                MIN_ANSWER_CHARS <= len(answer) <= MAX_ANSWER_CHARS
            ):
                continue
            signature = f"def {function.name}({ast.unparse(function.args)}):"
            question = f"What does {name} do?\n{signature}"
            if len(question) > MAX_QUESTION_CHARS or question in seen:
                continue
            seen.add(question)
            yield {
                "id": f"{path.relative_to(root).as_posix()}:{name}",
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": answer},
                ],
            }


def main() -> None:
    for record in pairs(Path(sys.argv[1])):
        print(json.dumps(record, ensure_ascii=False))


if __name__ == "__main__":
    main()
