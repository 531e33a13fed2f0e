"""The code and data that answers depend on, in addition to the model."""

from __future__ import annotations

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

from models.tasks.task import Task

ROOT = Path(__file__).parents[2]


def digest_of(task: Task, root: Path = ROOT) -> str:
    """A digest of the files of a task's evaluation. Stored answers have it in their name.

    Args:
        root: the folder that holds the package `workshop`.
    """
    digest = hashlib.sha256()
    for file in files_of(task, root):
        digest.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()} ".encode())
    return digest.hexdigest()


def files_of(task: Task, root: Path = ROOT) -> list[Path]:
    """The task's module and all modules of the workshop that it imports, directly or indirectly. A data file of the
    same name belongs to its module, such as `chat_texts.txt` to `chat_texts.py`."""
    found: set[Path] = set()
    waiting = [f"workshop.evaluation.{task}"]
    while waiting:
        file = root / f"{waiting.pop().replace('.', '/')}.py"
        if file.is_file() and file not in found:
            found.add(file)
            waiting += workshop_modules_in(file)
    return sorted(file for module in found for file in module.parent.glob(f"{module.stem}.*"))


def workshop_modules_in(file: Path) -> Iterator[str]:
    """The workshop modules that a module imports, also inside functions. Some names may not be modules."""
    for node in ast.walk(ast.parse(file.read_text())):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module)):
                names = [module, *(f"{module}.{alias.name}" for alias in node.names)]
            case _:
                continue
        yield from (name for name in names if name.startswith("workshop."))
