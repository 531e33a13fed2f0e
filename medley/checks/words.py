"""Error messages that say what is wrong with a value and what to write."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import math
import re
from collections.abc import Iterable
from typing import Any

MOST_LISTED = 12
KINDS = {
    "int": "be a whole number",
    "float": "be a number",
    "finite": "be a finite number",
    "bool": "be true or false",
    "string": "be text",
    "dict": "be a mapping (`key: value` lines)",
    "model": "be a mapping (`key: value` lines)",
    "list": "be a list (`- ` lines)",
    "frozen_set": "be a list (`- ` lines)",
    "path": "be a path",
}
TRUE = ("true", "yes", "on", "1")
BOUNDS = {
    "greater_than": ("above", "gt"),
    "greater_than_equal": ("at least", "ge"),
    "less_than": ("below", "lt"),
    "less_than_equal": ("at most", "le"),
}


def nearest(name: str, known: Iterable[str]) -> list[str]:
    """At most two names that could have been meant, the nearest first."""
    names = [str(one) for one in known]
    wanted = name.lower()
    near = difflib.get_close_matches(wanted, names, n=2, cutoff=0.6)
    near += [one for one in names if len(wanted) > 3 and wanted in one.lower() and one not in near]
    return near[:2]


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Suggest the nearest names. If none is near: all names if they are few, else to take it out."""
    names = [str(one) for one in known]
    if near := nearest(name, names):
        return f"Did you mean {' or '.join(near)}?"
    return f"Choose from: {', '.join(names)}." if 0 < len(names) <= MOST_LISTED else "Remove it."


def in_words(error: dict[str, Any]) -> str:
    """An error of pydantic's: what the value must be, and what it is."""
    kind, context, given = error["type"], error.get("ctx", {}), error.get("input")
    if kind == "missing":
        return "is missing. Add it."
    if kind == "union_tag_not_found":
        return f"has no {context['discriminator']}, which says what it is. Add it."
    if kind in ("literal_error", "enum", "union_tag_invalid"):
        return _one_of(context.get("expected") or context["expected_tags"], context.get("tag", given))
    if must := _must_be(kind, context):
        return f"must {must}, but is {shown(given)}.{_remedy(must, given)}"
    if members := re.findall(r"<\w+\.\w+: ('\w+')>", error["msg"]):  # Ray prints a set of enum members
        return _one_of(" ".join(sorted(members)), given)
    return _sentence(error["msg"].removeprefix("Value error, "))


def _remedy(must: str, given: Any) -> str:
    """What to write instead, where the right text has another type in YAML than was meant."""
    if must == KINDS["string"] and isinstance(given, int | float):
        return " Put it in quotes."
    if must in (KINDS["int"], KINDS["float"]):
        if isinstance(given, bool):
            return " YAML reads yes, no, on and off as true and false."
        with contextlib.suppress(TypeError, ValueError):
            if isinstance(given, str) and math.isfinite(number := float(given)):
                return f" Write {number:.15g} without quotes."
    if must == KINDS["bool"] and isinstance(given, str | int):
        return f" Write {'true' if str(given).lower() in TRUE else 'false'} without quotes."
    return ""


def _must_be(kind: str, context: dict[str, Any]) -> str | None:
    if kind in BOUNDS:
        word, name = BOUNDS[kind]
        return f"be {word} {context[name]:g}"
    if kind == "string_pattern_mismatch":
        return f"match {context['pattern']}"
    return next((words for start, words in KINDS.items() if kind.startswith(f"{start}_")), None)


def shown(value: Any) -> str:
    """A value as a person would write it in YAML, in short."""
    if isinstance(value, dict | list):
        return "a mapping" if isinstance(value, dict) else "a list"
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _one_of(expected: str, given: Any) -> str:
    allowed = re.findall(r"'([^']*)'", expected) or re.findall(r"\w+", expected.replace(" or ", " "))
    near = nearest(given, allowed) if isinstance(given, str) else []
    return f"must be {' or '.join(allowed)}, but is {shown(given)}." + (f" Did you mean {near[0]}?" if near else "")


def _sentence(text: str) -> str:
    line = " ".join(text.split())
    return line if line.endswith((".", "!", "?")) else f"{line}."


def imported(path: str) -> Any:
    """What `module:name` names.

    Raises:
        ImportError: it cannot be imported, whatever its module raised; the message says what to write.
    """
    module, _, name = path.rpartition(":" if ":" in path else ".")
    try:
        found = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a module may do anything while it is imported
        reason = " ".join(str(error).split()) or type(error).__name__
        message = f"{path} cannot be imported: {reason}. Write module:name of a package that is installed."
        raise ImportError(message) from None
    if not hasattr(found, name):
        own = [one for one, value in vars(found).items() if getattr(value, "__module__", None) == module]
        raise ImportError(f"{path} cannot be imported: {module} has no {name}. {did_you_mean(name, own)}")
    return getattr(found, name)


def import_problem(path: str) -> str | None:
    """Why `module:name` cannot be imported. None when it can."""
    try:
        imported(path)
    except ImportError as error:
        return str(error)
    return None
