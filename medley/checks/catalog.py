"""The rules of the catalog of models."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from medley.checks.entries import Found
from medley.checks.schema import schema_problems
from medley.checks.words import did_you_mean
from medley.checks.yaml_lines import Document, KeyPath, Problem, read_document
from models.catalog import FOLDER, load_catalog, own_folder
from models.registry import backends_of
from models.specs import Backend, ModelSpec
from models.tasks import task_named


class CatalogFile(BaseModel):
    models: list[ModelSpec]


def catalog_files() -> list[Path]:
    """The files that ship, then those that an operator adds."""
    own = own_folder()
    return sorted(FOLDER.glob("*.yaml")) + (sorted(own.glob("*.yaml")) if own else [])


def problems_of_the_catalog() -> list[Problem]:
    """What keeps the catalog from being loaded. Empty when it loads."""
    try:
        load_catalog()
    except Exception as error:
        documents = [read_document(file) for file in catalog_files()]
        found = [one for document in documents for one in (document.problems or catalog_problems(document))]
        return found or [Problem(own_folder() or FOLDER, None, "", f"cannot be loaded: {error}")]
    return []


def catalog_problems(document: Document) -> list[Problem]:
    """Everything that is wrong with a file of the catalog."""
    rules = [document.problem(path, message) for path, message in _rows(document)]
    by_schema = schema_problems(document, (), CatalogFile, left_to_rules=("default_variant ",))
    # Of a row in the wrong file, nobody knows whether its task or its settings are wrong.
    unsure = tuple(document.where((*path[:2], "settings")) for path, _ in _rows(document) if path[-1] == "task")
    return [one for one in by_schema if not (unsure and one.where.startswith(unsure))] + rules


def _rows(document: Document) -> Found:
    rows = document.at(("models",))
    known = _ids_elsewhere(document.path)
    for index, row in enumerate(rows if isinstance(rows, list) else ()):
        if not isinstance(row, dict):
            continue
        path = ("models", index)
        name = row.get("id")
        if isinstance(name, str) and name in known:
            yield (*path, "id"), f"{known[name]} already has a model {name}. Keep one."
        elif isinstance(name, str):
            known[name] = f"line {document.line((*path, 'id'))}"
        yield from _default_variant(document, path)
        yield from _task(document, path) or _engines(document, path)


def _ids_elsewhere(path: Path) -> dict[str, str]:
    """Ids in the other files of the folder, and in those that ship for a file that is added; with the file of each."""
    others = {file: file.name for file in sorted(path.parent.glob("*.yaml")) if file.name != path.name}
    if path.absolute().parent == own_folder():
        others |= {file: f"Medley's own {file.name}" for file in sorted(FOLDER.glob("*.yaml"))}
    ids: dict[str, str] = {}
    for file, name in others.items():
        rows = read_document(file).at(("models",))
        for row in rows if isinstance(rows, list) else ():
            if isinstance(row, dict) and isinstance(row.get("id"), str):
                ids[row["id"]] = name
    return ids


def _default_variant(document: Document, path: KeyPath) -> Found:
    variants, default = document.at((*path, "variants")), document.at((*path, "default_variant"))
    if isinstance(variants, dict) and isinstance(default, str) and default not in variants:
        yield (*path, "default_variant"), f"there is no variant {default}. {did_you_mean(default, variants)}"


def _task(document: Document, path: KeyPath) -> list[tuple[KeyPath, str]]:
    task, wanted = document.at((*path, "task")), document.path.stem
    if task == wanted or task_named(task) is None:
        return []
    message = f"a model of task {task} belongs in {task}.yaml, not in {document.path.name}. Move it."
    return [((*path, "task"), message)]


def _engines(document: Document, path: KeyPath) -> Found:
    """Every variant has an engine for its backend."""
    task, variants = document.at((*path, "task")), document.at((*path, "variants"))
    known = task_named(task)
    backends = [str(backend) for backend in backends_of(known)] if known else []
    for name, variant in variants.items() if isinstance(variants, dict) else ():
        backend = variant.get("backend") if isinstance(variant, dict) else None
        if backends and isinstance(backend, str) and backend in list(Backend) and backend not in backends:
            message = f"{task} has no engine for {backend}. {did_you_mean(backend, backends)}"
            yield (*path, "variants", name, "backend"), message
