"""Finds the parts of a task by name. Importing this module imports no engine."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, Self

from models.specs import Backend, ModelSpec, VariantSpec
from models.tasks.task import Task


class Engine(Protocol):
    """A loaded model. It also has the methods of the engine protocol in its task's contract."""

    @classmethod
    def load(cls, spec: ModelSpec, variant: VariantSpec, weights: Path) -> Self:
        """Load a variant of a model from its folder of weights. Blocks until that is done."""
        ...


def engine_module(task: Task[Any], backend: Backend) -> str:
    """The module of the engine for a task and backend. It need not exist."""
    return f"models.engines.{task}_{backend}"


def backends_of(task: Task[Any]) -> list[Backend]:
    """The backends that can run models of a task."""
    return [backend for backend in Backend if there_is(engine_module(task, backend))]


def engine_class(task: Task[Any], backend: Backend) -> type[Any]:
    """Import the engine for a task and backend: `Engine` in models/engines/<task>_<backend>.

    Raises:
        KeyError: there is none.
        ImportError: the backend's library is not installed.
    """
    engine = part(engine_module(task, backend), "Engine")
    if engine is None:
        raise KeyError(f"{task} has no engine for {backend}; it has {', '.join(backends_of(task)) or 'none'}")
    return engine


def there_is(module: str) -> bool:
    """Whether a module exists. A folder without code, such as one that a deleted package leaves behind, is none."""
    spec = find_spec(module)
    return spec is not None and spec.origin is not None


def part(module: str, name: str) -> Any | None:
    """The object of this name in an optional module of a task. None where there is no such module.

    Raises:
        ImportError: the module exists, but has no such object.
    """
    if not there_is(module):
        return None
    return import_string(f"{module}:{name}")


def import_string(path: str) -> Any:
    """The object that ``module:name`` names.

    Raises:
        ImportError: there is no such module, or it has no such object.
    """
    module, _, name = path.partition(":")
    found = import_module(module)  # an AttributeError in it is its own, and is not about the name
    try:
        return getattr(found, name)
    except AttributeError:
        raise ImportError(f"{module} has no {name}, by which it is looked for.") from None
