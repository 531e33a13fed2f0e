"""Compare a document with pydantic models, strictly: every unknown key, wrong type and wrong value, each at its line.

The models may ignore unknown keys, as Ray Serve's do; nothing is ignored here.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ValidationError

from medley.checks.annotations import generic_arguments, model_for, models_below, models_in
from medley.checks.words import did_you_mean, import_problem, in_words, nearest
from medley.checks.yaml_lines import MISSING, Document, KeyPath, Problem
from models.documents import strictly
from models.specs import ModelSpec
from models.tasks import task_named

Model = type[BaseModel]
BROKEN = object()

# Ray imports what these name while it validates, and raises whatever the import raises.
IMPORTED_FIELDS = {"policy_function", "request_router_class"}


def schema_problems(
    document: Document, path: KeyPath, model: Model, *, whole: bool = True, left_to_rules: Iterable[str] = ()
) -> list[Problem]:
    """What is wrong with the value at a path, by a model.

    Args:
        whole: also ask what the model says of several fields together.
        left_to_rules: parts of the model's own messages that are not repeated, because a rule says it better.
    """
    check = _SchemaCheck(document, tuple(left_to_rules))
    value = document.at(path)
    check.model({} if value is MISSING else value, path, model, whole=whole)
    return check.problems


class _SchemaCheck:
    """Checks from the inside out: what is refused is taken away before the value around it is checked."""

    def __init__(self, document: Document, left_to_rules: tuple[str, ...]):
        self.document = document
        self.left_to_rules = left_to_rules
        self.problems: list[Problem] = []
        self.refused = 0

    def model(self, value: Any, path: KeyPath, model: Model, outer: Model | None = None, *, whole: bool = True) -> Any:
        """Check a value and all below it. Returns what is left of it, or BROKEN."""
        left, refused_before = value, self.refused
        if isinstance(value, dict):
            left = self.fields(value, path, model, outer)
        whole = whole and self.refused == refused_before
        for error in errors_of(model, left):
            self.note(error, value, path, whole)
        return left if self.refused == refused_before else BROKEN

    def fields(self, value: dict, path: KeyPath, model: Model, outer: Model | None) -> dict:
        left = {}
        for key, item in value.items():
            if key in model.model_fields:
                left[key] = self.below(item, (*path, key), kind_of(model, key, value), model)
            else:
                self.note_unknown(key, value, path, model, outer)
        return {key: item for key, item in left.items() if item is not BROKEN}

    def below(self, item: Any, path: KeyPath, annotation: Any, outer: Model) -> Any:
        """Check the models within a value. The rest of it is checked by the model that has the field."""
        if path[-1] in IMPORTED_FIELDS and isinstance(item, str) and (reason := import_problem(item)):
            self.problems.append(self.document.problem(path, reason))
            self.refused += 1
            return BROKEN
        if isinstance(item, dict):
            if model := model_for(annotation, item):
                return self.model(item, path, model, outer)
            if kinds := generic_arguments(annotation, dict):
                left = {key: self.below(one, (*path, key), kinds[1], outer) for key, one in item.items()}
                return {key: one for key, one in left.items() if one is not BROKEN}
        if isinstance(item, list) and (kinds := generic_arguments(annotation, list)):
            left = [self.entry(one, (*path, index), kinds[0], outer) for index, one in enumerate(item)]
            return [one for one in left if one is not BROKEN]
        return item

    def entry(self, item: Any, path: KeyPath, annotation: Any, outer: Model) -> Any:
        """Check an entry of a list. Some of Ray's validators take for granted that it is a mapping."""
        if models_in(annotation) and not isinstance(item, dict):
            self.problems.append(self.document.problem(path, in_words({"type": "dict_type", "input": item})))
            self.refused += 1
            return BROKEN
        return self.below(item, path, annotation, outer)

    def note_unknown(self, key: Any, value: dict, path: KeyPath, model: Model, outer: Model | None) -> None:
        """An unknown key, and where it would be known: one level down, one level up, or under another spelling."""
        free = [name for name in model.model_fields if name not in value]
        home = next((name for name, below in models_below(model) if key in below.model_fields), None)
        if home:
            hint = f"It belongs under {home}."
        elif outer and key in outer.model_fields:
            hint = "It belongs one level up."
        else:
            self.document.meant |= {(*path, name) for name in nearest(str(key), free)}
            hint = did_you_mean(str(key), free)
        self.problems.append(self.document.problem((*path, key), f"there is no such setting. {hint}"))

    def note(self, error: dict[str, Any], value: Any, path: KeyPath, whole: bool) -> None:
        """Note an error of pydantic's, unless it only follows from another one."""
        if isinstance(value, dict) and not error["loc"] and not whole:
            return
        self.refused += 1
        place = self.place(error, path)
        if error["type"] == "missing" and (place in self.document.meant or self.document.at(place) is not MISSING):
            return
        problem = self.document.problem(place, in_words(error))
        said = any((known.line, known.where) == (problem.line, problem.where) for known in self.problems)
        if not said and not any(text in error["msg"] for text in self.left_to_rules):
            self.problems.append(problem)

    def place(self, error: dict[str, Any], path: KeyPath) -> KeyPath:
        """Where an error of pydantic's stands in the document: its location names the members of unions too."""
        *above, last = error["loc"] or [None]
        for key in above:
            if self.document.at((*path, key)) is not MISSING or key == "settings":
                path = (*path, key)
        there = self.document.at((*path, last)) is not MISSING
        return (*path, last) if there or error["type"] == "missing" else path


def kind_of(model: Model, key: str, value: dict) -> Any:
    """What a field must be. The settings of a row of the catalog are those of its task. Of an unknown task, nothing can
    be said."""
    if model is ModelSpec and key == "settings":
        task = task_named(value.get("task"))
        return task.settings if task else Any
    return model.model_fields[key].annotation


def errors_of(model: Model, value: Any) -> list[dict[str, Any]]:
    """Pydantic's errors. Whatever else a validator raises becomes one of the whole value."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of settings that Ray will rename one day
            strictly(model, copy.deepcopy(value))  # some of Ray's validators change what they are given
    except ValidationError as error:
        return [dict(one) for one in error.errors(include_url=False)]
    except Exception as error:
        return [{"type": "value_error", "loc": (), "msg": str(error) or type(error).__name__, "input": value}]
    return []
