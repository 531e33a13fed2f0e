"""A YAML document with the line of every key and value, so that a mistake can be shown where it stands.

Stricter than PyYAML's own loader: a duplicate key is a mistake, and so are aliases that expand without bound, and
numbers that are none.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from models.documents import loader_for

KeyPath = tuple[Any, ...]  # keys and indexes from the top of the document, such as ("applications", 0, "name")
MOST_NODES = 100_000  # far above any real document; a few lines of nested aliases stand for billions
NAMED_LISTS = {"applications": "application", "models": "model"}
MISSING: Any = object()
# A number of YAML 1.1 that begins with a zero.
OCTAL = re.compile("[-+]?0[0-7_]+")


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in a file.

    Attributes:
        line: counted from 1; None where the whole file is meant.
        where: the place in the document, for people; empty for all of it.
        message: what is wrong, then what to do.
        stops: the file cannot be served. Otherwise it is a warning: probably not what was meant.
    """

    path: Path
    line: int | None
    where: str
    message: str
    stops: bool = True

    def __str__(self) -> str:
        if self.line is None:
            return f"{self.path} {self.message}"
        return ": ".join(part for part in (f"{self.path}:{self.line}", self.where, self.message) if part)


@dataclass(slots=True)
class Document:
    """What a YAML file holds.

    Attributes:
        lines: line of every key and list item, by its path from the top.
        problems: what stops the file from being read, or makes it say two things at once.
        readable: whether `value` is what the file says.
        meant: paths that a misspelt key was probably meant for, so that they are not called missing as well.
    """

    path: Path
    value: Any = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    readable: bool = True
    meant: set[KeyPath] = field(default_factory=set)

    def at(self, path: KeyPath) -> Any:
        """The value at a path, or MISSING."""
        value = self.value
        for key in path:
            in_mapping = isinstance(value, dict) and key in value
            in_list = isinstance(value, list) and isinstance(key, int) and 0 <= key < len(value)
            if not (in_mapping or in_list):
                return MISSING
            value = value[key]
        return value

    def line(self, path: KeyPath) -> int:
        """The line of a path. If the path is not there, the line of what would hold it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: KeyPath, message: str, stops: bool = True) -> Problem:
        return Problem(self.path, self.line(path), self.where(path), message, stops)

    def where(self, path: KeyPath) -> str:
        """A path in words: `application router, deployments[router].max_ongoing_requests`."""
        if len(path) >= 2 and path[0] in NAMED_LISTS and (name := self._name(path[:2])):
            rest = self._dotted(path, 2)
            return f"{NAMED_LISTS[path[0]]} {name}" + (f", {rest}" if rest else "")
        return self._dotted(path, 0)

    def _dotted(self, path: KeyPath, start: int) -> str:
        text = ""
        for end in range(start, len(path)):
            key = path[end]
            if isinstance(key, int) and isinstance(self.at(path[:end]), list):
                text += f"[{self._name(path[: end + 1]) or key}]"
            else:
                text += f".{key}" if text else str(key)
        return text

    def _name(self, path: KeyPath) -> str | None:
        for key in ("name", "id"):
            name = self.at((*path, key))
            if isinstance(name, str) and name:
                return name
        return None


def is_number(value: Any) -> bool:
    """Python has it that True is 1."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def sorted_problems(problems: Iterable[Problem]) -> list[Problem]:
    """Each problem once, by file and line."""
    return sorted(dict.fromkeys(problems), key=lambda problem: (str(problem.path), problem.line or 0))


def read_document(path: Path) -> Document:
    """Read a YAML file. Never raises for what is in the file: mistakes are in the document's `problems`."""
    document = Document(path)
    try:
        _read(document)
    except OSError as error:
        document.problems.append(Problem(path, None, "", f"cannot be read: {error.strerror}. Check the name."))
    except UnicodeDecodeError:
        document.problems.append(Problem(path, None, "", "cannot be read: it is not UTF-8. Save it as UTF-8."))
    except _RefusedError as error:
        document.problems.append(Problem(path, error.line, "", error.reason))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        reason = ", ".join(part for part in (error.context, error.problem) if part)
        document.problems.append(Problem(path, mark.line + 1 if mark else 1, "", f"this is not valid YAML: {reason}."))
    except yaml.YAMLError as error:
        document.problems.append(Problem(path, 1, "", f"this is not valid YAML: {str(error).splitlines()[0]}."))
    except RecursionError:
        document.problems.append(Problem(path, 1, "", "this is nested too deeply. Write it flatter."))
    else:
        return document
    document.readable = False
    return document


def _read(document: Document) -> None:
    text = document.path.read_text()
    try:
        _build(document, loader_for(text)(text))
    except yaml.YAMLError:
        # Parse again with pure PyYAML: its error messages say more than libyaml's.
        _build(document, yaml.SafeLoader(text))


def _build(document: Document, loader: Any) -> None:
    document.lines.clear()
    document.problems.clear()
    try:
        node = loader.get_single_node()
        if node is not None:
            builder = _Builder(document, loader)
            document.value = builder.build(node, ())
            document.problems += builder.problems()
    finally:
        loader.dispose()


def misread(node: yaml.Node, value: Any) -> str:
    """Why a number is not taken for one, or for another than was probably meant. Empty for everything else."""
    if not isinstance(node, yaml.ScalarNode) or not is_number(value):
        return ""
    if not math.isfinite(value):
        return f"must be a finite number, but is {node.value}. Write a number."
    if ":" in node.value or OCTAL.fullmatch(node.value):
        base = "60" if ":" in node.value else "8"
        return (
            f"YAML reads {node.value} to the base {base}, as {value}. Write {value}, or put it in quotes if it is text."
        )
    return ""


class _RefusedError(Exception):
    """YAML that is valid and refused all the same."""

    def __init__(self, node: yaml.Node, reason: str):
        super().__init__(reason)
        self.line, self.reason = node.start_mark.line + 1, reason


class _Builder:
    """Turns nodes into values and records their lines."""

    def __init__(self, document: Document, loader: Any):
        self.document = document
        self.loader = loader
        self.nodes = 0
        self.noted: list[tuple[KeyPath, int, str]] = []

    def build(self, node: yaml.Node, path: KeyPath) -> Any:
        self.nodes += 1
        if self.nodes > MOST_NODES:
            raise _RefusedError(node, f"the aliases stand for more than {MOST_NODES} values. Write fewer.")
        self.document.lines.setdefault(path, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode) and node.tag == "tag:yaml.org,2002:map":
            return self.mapping(node, path)
        if isinstance(node, yaml.SequenceNode) and node.tag == "tag:yaml.org,2002:seq":
            return self.sequence(node, path)
        return self.scalar(node)

    def sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        values = [self.build(item, (*path, index)) for index, item in enumerate(node.value)]
        for index, value in enumerate(values):
            if reason := misread(node.value[index], value):
                self.note_misread((*path, index), node.value[index], reason)
        return values

    def mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[Any, Any]:
        values: dict[Any, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                merged += value_node.value if isinstance(value_node, yaml.SequenceNode) else [value_node]
                continue
            key = self.key(key_node)
            line = key_node.start_mark.line + 1
            if key in values:
                self.note_twice((*path, key), line)
                continue
            self.document.lines[*path, key] = line
            value = self.build(value_node, (*path, key))
            if reason := misread(value_node, value):
                self.note_misread((*path, key), value_node, reason)
            else:
                values[key] = value
        for source in merged:
            if not isinstance(source, yaml.MappingNode):
                raise _RefusedError(source, "only a mapping can be merged with `<<`. Name one.")
            for key, value in self.build(source, path).items():
                values.setdefault(key, value)
        return values

    def note_twice(self, path: KeyPath, line: int) -> None:
        first = self.document.lines[path]
        self.noted.append((path, line, f"this key already stands in line {first}. Keep one of the two."))

    def note_misread(self, path: KeyPath, node: yaml.Node, reason: str) -> None:
        """Nothing more is said of this place: any rule would only say that the number is above or below."""
        self.noted.append((path, node.start_mark.line + 1, reason))
        self.document.meant.add(path)

    def problems(self) -> list[Problem]:
        """Once all is built, because a place is named by what is around it."""
        document = self.document
        return [Problem(document.path, line, document.where(path), message) for path, line, message in self.noted]

    def key(self, node: yaml.Node) -> Any:
        if not isinstance(node, yaml.ScalarNode):
            raise _RefusedError(node, "a key must be text. Put it in quotes.")
        return self.scalar(node)

    def scalar(self, node: yaml.Node) -> Any:
        try:
            return self.loader.construct_object(node, deep=True)
        except ValueError as error:  # such as the date 2026-13-45
            raise _RefusedError(node, f"this value cannot be read: {error}. Put it in quotes if it is text.") from None
