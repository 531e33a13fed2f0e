"""The rules of slo.yaml."""

from __future__ import annotations

from medley.checks.entries import Found
from medley.checks.schema import errors_of, schema_problems
from medley.checks.words import did_you_mean, in_words
from medley.checks.yaml_lines import MISSING, Document, KeyPath, Problem
from models.catalog import load_catalog
from models.slo import Slo, Targets


def slo_problems(document: Document) -> list[Problem]:
    """Everything that is wrong with slo.yaml."""
    found = list(_models(document))
    rules = [document.problem(path, message) for path, message in found]
    # A profile says what is wrong with its models as well, and not at which line.
    said = {document.where(path[:2]) for path, _ in found}
    return [problem for problem in schema_problems(document, (), Slo) if problem.where not in said] + rules


def _models(document: Document) -> Found:
    profiles = document.at(("profiles",))
    for name in profiles if isinstance(profiles, dict) else ():
        models = document.at(("profiles", name, "models"))
        for model, changes in models.items() if isinstance(models, dict) else ():
            path = ("profiles", name, "models", model)
            if model not in load_catalog():
                yield path, f"the catalog has no model {model}. {did_you_mean(str(model), load_catalog())}"
            elif isinstance(changes, dict):
                yield from _changes(document, path, changes)


def _changes(document: Document, path: KeyPath, changes: dict) -> Found:
    """A model's own settings must be valid together with those of its task."""
    task = load_catalog()[path[-1]].task
    promised = document.at((*path[:2], "tasks", task.name))
    if promised is MISSING:
        promised = document.at((*path[:2], "default"))
    if not isinstance(promised, dict):
        yield path, f"nothing is promised for {task}, so nothing can differ. Add {task} under tasks."
        return
    for key in changes:
        if key not in Targets.model_fields:
            yield (*path, key), f"there is no such setting. {did_you_mean(str(key), Targets.model_fields)}"
    known = {key: value for key, value in changes.items() if key in Targets.model_fields}
    for error in errors_of(Targets, {**promised, **known}):
        if error["loc"] and error["loc"][0] in known:
            yield (*path, error["loc"][0]), in_words(error)
