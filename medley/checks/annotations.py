"""Which pydantic models a type annotation allows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel

Model = type[BaseModel]


def members(annotation: Any) -> Iterator[Any]:
    """The members of a union, optional or annotated type. Any other type is its own only member."""
    origin = get_origin(annotation)
    if origin is None or origin in (dict, list, tuple, Literal):
        yield annotation
        return
    for argument in get_args(annotation):
        yield from members(argument)


def models_in(annotation: Any) -> list[Model]:
    return [one for one in members(annotation) if isinstance(one, type) and issubclass(one, BaseModel)]


def model_for(annotation: Any, value: dict) -> Model | None:
    """The model that a mapping is to be read as. None where there is none, or where several are possible."""
    models = models_in(annotation)
    if len(models) > 1:
        models = [model for model in models if _tags_fit(model, value)]
    return models[0] if len(models) == 1 else None


def _tags_fit(model: Model, value: dict) -> bool:
    literals = {
        name: get_args(field.annotation)
        for name, field in model.model_fields.items()
        if get_origin(field.annotation) is Literal
    }
    return bool(literals) and all(value.get(name) in allowed for name, allowed in literals.items())


def generic_arguments(annotation: Any, kind: type) -> tuple[Any, ...]:
    """The arguments of the first `dict[...]` or `list[...]` in an annotation; empty where there is none."""
    return next((get_args(one) for one in members(annotation) if get_origin(one) is kind and get_args(one)), ())


def models_below(model: Model) -> Iterator[tuple[str, Model]]:
    """Every field that holds a model or a list of them, with that model."""
    for name, field in model.model_fields.items():
        items = generic_arguments(field.annotation, list)
        for below in [*models_in(field.annotation), *(models_in(items[0]) if items else ())]:
            yield name, below
