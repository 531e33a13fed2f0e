"""The rules of an autoscaling policy. Serve's controller makes it: a failure there stops the scaling of all models."""

from __future__ import annotations

import inspect
from typing import Any

from pydantic import TypeAdapter, ValidationError

from medley.checks.entries import Application, Found
from medley.checks.words import did_you_mean, import_problem, imported, in_words, nearest
from medley.checks.yaml_lines import KeyPath


def policy_problems(application: Application, path: KeyPath) -> Found:
    """What keeps a policy class from being made with its policy_kwargs. That it can be imported is asked elsewhere."""
    function, arguments = application.get(*path, "policy_function"), application.get(*path, "policy_kwargs")
    arguments = {} if application.lacks(*path, "policy_kwargs") else arguments
    if not isinstance(function, str) or not isinstance(arguments, dict) or import_problem(function):
        return
    policy = imported(function)
    if not inspect.isclass(policy):
        return
    wrong = list(_arguments(policy, arguments, path))
    yield from wrong or _refusal(policy, arguments, path)


def _arguments(policy: type, arguments: dict[Any, Any], path: KeyPath) -> Found:
    """Unknown, missing and wrongly typed arguments, by the signature."""
    known = inspect.signature(policy).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    for name, value in arguments.items():
        place = (*path, "policy_kwargs", name)
        if name in known:
            yield from ((place, message) for message in _wrong_type(known[name], value))
        elif not takes_any:
            yield place, f"{policy.__name__} has no such argument. {did_you_mean(str(name), known)}"
    for name, parameter in known.items():
        needed = parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        misspelt = any(nearest(str(given), [name]) for given in arguments if given not in known)
        if needed and name not in arguments and not misspelt:
            yield path, f"{policy.__name__} needs {name}. Add it under policy_kwargs."


def _wrong_type(parameter: inspect.Parameter, value: Any) -> list[str]:
    if not isinstance(parameter.annotation, type) or parameter.annotation is parameter.empty:
        return []
    try:
        TypeAdapter(parameter.annotation).validate_python(value, strict=True)
    except ValidationError as error:
        return [in_words(dict(error.errors(include_url=False)[0]))]
    return []


def _refusal(policy: type, arguments: dict[str, Any], path: KeyPath) -> Found:
    """What the class itself says of the arguments."""
    try:
        policy(**arguments)
    except Exception as error:
        yield (*path, "policy_kwargs"), f"{policy.__name__} cannot be created: {error}. Correct policy_kwargs."
