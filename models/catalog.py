"""Load the catalog and look models up in it."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from models.documents import read_yaml, strictly
from models.errors import ModelNotFound
from models.specs import ModelSpec
from models.tasks.task import Task

FOLDER = Path(__file__).parent / "catalog"
# The environment variable that names a folder with an operator's own rows, laid out like FOLDER.
VARIABLE = "MEDLEY_CATALOG"


class _CatalogFile(BaseModel):
    model_config = ConfigDict(extra="forbid")
    models: list[ModelSpec]


class Catalog(Mapping[str, ModelSpec]):
    """Models by id, in the order of the files. Names such as `model@variant` can be looked up, but are not listed."""

    def __init__(self, specs: Iterable[ModelSpec]):
        self._specs: dict[str, ModelSpec] = {}
        for spec in specs:
            if spec.id in self._specs:
                raise ValueError(f"the catalog names {spec.id} twice")
            self._specs[spec.id] = spec

    def __getitem__(self, model_id: str) -> ModelSpec:
        row, at, variant = model_id.partition("@")
        return self._specs[row].at(variant) if at else self._specs[row]

    def __iter__(self) -> Iterator[str]:
        return iter(self._specs)

    def __len__(self) -> int:
        return len(self._specs)

    def resolve(self, model_id: str) -> ModelSpec:
        """The model of this id.

        Raises:
            ModelNotFound: the message suggests the nearest ids, or how to list them.
        """
        if model_id in self:
            return self[model_id]
        row, _, variant = model_id.partition("@")
        if row in self._specs:
            names = ", ".join(f"{row}@{name}" for name in self._specs[row].variants)
            message = f"{row} has no variant {variant[:100]!r}. It has {names}."
            if variant == "auto":
                message = f"{row}@auto names no variant: which one is meant, each machine decides. There are {names}."
            raise ModelNotFound(message, "model")
        raise ModelNotFound(f"The model {model_id[:100]!r} does not exist. {self._suggestion(row)}", "model")

    def of_task(self, task: Task[Any]) -> list[ModelSpec]:
        return [spec for spec in self._specs.values() if spec.task is task]

    def _suggestion(self, model_id: str) -> str:
        wanted = model_id[:100].lower()
        near = [name for name in self._specs if wanted and wanted in name]
        near += [name for name in difflib.get_close_matches(wanted, self._specs, n=3, cutoff=0.4) if name not in near]
        if near:
            return f"Did you mean {' or '.join(near[:3])}?"
        return "GET /v1/models lists the models there are."


def read_catalog(folder: Path) -> Catalog:
    """Read every YAML file of a folder.

    Raises:
        ValueError: there is no such folder, a key is unknown, a value is wrong, or a model's task is not the one that
            the file is named after.
    """
    if not folder.is_dir():
        raise ValueError(f"the folder {folder} is not there")
    specs: list[ModelSpec] = []
    for file in sorted(folder.glob("*.yaml")):
        for spec in strictly(_CatalogFile, read_yaml(file.read_text())).models:
            if spec.task.name != file.stem:
                raise ValueError(f"{file.name} holds {spec.id}, whose task is {spec.task}")
            specs.append(spec)
    return Catalog(specs)


def own_folder() -> Path | None:
    """The folder that MEDLEY_CATALOG names, or None."""
    named = os.environ.get(VARIABLE)
    return Path(named).expanduser().absolute() if named else None


@cache
def load_catalog() -> Catalog:
    """The catalog that ships with Medley, and the rows that an operator adds."""
    own = own_folder()
    return Catalog([*read_catalog(FOLDER).values(), *(read_catalog(own).values() if own else ())])
