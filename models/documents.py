"""YAML as PyYAML reads it safely, by libyaml where that is there: eight times as fast, and with the same lines."""

from __future__ import annotations

import re
from typing import Any

import yaml

# libyaml calls itself for what is inside, without asking how deep it is, and ends the process where the stack does.
DEEPEST = 1000
# What stands before the first word of a line: `- - a` is two levels.
INDENT = re.compile(r"^[ \t?:-]+", re.MULTILINE)


def read_yaml(text: str) -> Any:
    """As `yaml.safe_load`. Raises yaml.YAMLError, in the words of PyYAML."""
    try:
        return yaml.load(text, loader_for(text))
    except yaml.YAMLError:
        return yaml.safe_load(text)


def loader_for(text: str) -> Any:
    """The fastest loader that a text can be trusted to. Each level takes a bracket or begins further to the right; a
    list in a mapping may stand right below it."""
    furthest = max(map(len, INDENT.findall(text)), default=0)
    possible = text.count("[") + text.count("{") + 2 * furthest
    return getattr(yaml, "CSafeLoader", yaml.SafeLoader) if possible < DEEPEST else yaml.SafeLoader
