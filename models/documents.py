"""Safe YAML reading, with libyaml where PyYAML has it: eight times as fast, and errors name the same lines. And what it
says is taken by its type: a quoted number is no number, and neither is `yes`, which YAML reads as true."""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel

M = TypeVar("M", bound=BaseModel)

# libyaml recurses without a depth limit, so a deeply nested text would overflow the stack and end the process.
DEEPEST = 1000
# Everything before the first word of a line: `- - a` is two levels.
INDENT = re.compile(r"^[ \t?:-]+", re.MULTILINE)


def read_yaml(text: str) -> Any:
    """Like `yaml.safe_load`. Raises yaml.YAMLError with PyYAML's own message, which is clearer than libyaml's."""
    try:
        return yaml.load(text, loader_for(text))
    except yaml.YAMLError:
        return yaml.safe_load(text)


def loader_for(text: str) -> Any:
    """The fastest loader that is safe for this text. It estimates the depth: each level needs a bracket or more
    indentation, except that a list in a mapping may have the mapping's own."""
    furthest = max(map(len, INDENT.findall(text)), default=0)
    possible = text.count("[") + text.count("{") + 2 * furthest
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader) if possible < DEEPEST else yaml.SafeLoader


def strictly(model: type[M], value: Any) -> M:
    """What pydantic makes of a value that was read from YAML, if every part of it is of the right type.

    Raises:
        ValidationError: with pydantic's own errors.
    """
    found = model.model_validate(value)  # also refuses dates and bytes, which would be text in JSON
    model.model_validate_json(as_json(value), strict=True)
    return found


def as_json(value: Any) -> str:
    """A value of YAML as JSON, whose strict rules in pydantic are those for YAML too: a list may be a tuple or a set,
    and text a path or a member of an enumeration; but text is no number, and neither is true. 16.0 is 16."""
    return json.dumps(_whole_numbers(value), default=str)


def _whole_numbers(value: Any) -> Any:
    match value:
        case dict():
            return {key if isinstance(key, str) else str(key): _whole_numbers(one) for key, one in value.items()}
        case list() | tuple():
            return [_whole_numbers(one) for one in value]
        case float() if value.is_integer():
            return int(value)
    return value
