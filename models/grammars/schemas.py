"""JSON schemas that an answer must follow, checked before an engine compiles them to a grammar.

xgrammar, the compiler, drops in silence what it does not know, and much of what it knows where other keywords stand
beside it. An answer would then break the schema, and nobody would say so. Here a keyword is refused by its path unless
the compiler honours it in this place, or it is a mere annotation. The limits keep the work of a check small; what an
accepted schema costs to compile is found out by a trial, see trials.py.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from models.errors import InvalidRequest, UnsupportedParameter
from models.grammars.patterns import PatternRefused, check_pattern

# For each schema. OpenAI allows about 120,000 characters, 5,000 properties and 1,000 values of enums; the compiler's
# time grows with the cube of the properties of one object.
MOST_BYTES = 256 << 10
DEEPEST = 100  # lists and objects in each other: the levels of a schema are two or three of them
MOST_VALUES = 20_000
MOST_PROPERTIES = 1_000
MOST_ENUM_VALUES = 5_000
# Of each pattern there is a limit in patterns.py. This is for all of one schema.
MOST_PATTERNS = 100
# Schemas of a oneOf, and values of each, that are compared with each other.
MOST_COMPARED = 50
LARGEST_COUNT = (1 << 31) - 1  # the compiler counts in 32 bits,
LARGEST_INTEGER = (1 << 63) - 1  # and knows whole numbers of 64

TYPES = frozenset({"string", "number", "integer", "boolean", "null", "object", "array"})
ANNOTATIONS = frozenset({"title", "description", "default", "examples", "example", "deprecated", "readOnly"})
ANNOTATIONS |= {"writeOnly", "$comment", "$schema", "contentEncoding", "contentMediaType", "contentSchema"}
ANNOTATIONS |= {"discriminator", "externalDocs", "xml", "$defs", "definitions", "propertyOrdering"}
OF_OBJECT = frozenset({"properties", "required", "additionalProperties", "unevaluatedProperties"})
OF_OBJECT |= {"minProperties", "maxProperties"}
OF_ARRAY = frozenset({"items", "prefixItems", "unevaluatedItems", "minItems", "maxItems"})
OF_STRING = frozenset({"minLength", "maxLength", "pattern", "format"})
OF_NUMBER = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "format"})
KEYWORDS = {"object": OF_OBJECT, "array": OF_ARRAY, "string": OF_STRING, "number": OF_NUMBER, "integer": OF_NUMBER}
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
LIMITS = ("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum")
FORMATS = frozenset({"date", "time", "date-time", "duration", "email", "hostname", "ipv4", "ipv6", "uuid"})
FORMATS |= {"uri", "uri-reference", "uri-template", "json-pointer", "relative-json-pointer"}
# OpenAPI's formats of numbers name a machine's type. They are taken as annotations.
NUMBER_FORMATS = frozenset({"int32", "int64", "uint32", "uint64", "float", "double"})
# What to write instead, where there is something.
INSTEAD = {
    "nullable": 'Write "type": ["...", "null"], or anyOf with {"type": "null"}.',
    "allOf": "Write one schema with all that they ask for.",
    "minItems": "Add `items` for the rest.",
    "uniqueItems": "Leave it out and check the answer.",
}


def check_schemas(body: Mapping[str, Any]) -> None:
    """Check each schema that the answer to this request must follow.

    Raises:
        UnsupportedParameter: a keyword that would not be honoured, named by its path.
        InvalidRequest: the schema is wrong, or too large.
    """
    for path, schema in guiding_schemas(body):
        check_schema(schema, path)
    if strict_tools(body) and is_guided(body.get("response_format")):
        raise UnsupportedParameter(
            "response_format beside tools with strict: true is not supported: the form of the calls would take its "
            "place. Leave one of them out.",
            "response_format",
        )


def guiding_schemas(body: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The schemas that an answer must follow, each with its path in the body. Tools guide if they must be called, or if
    one of them is strict; else their schemas are only shown to the model."""
    choice = body.get("tool_choice")
    called = choice["function"]["name"] if isinstance(choice, dict) else None
    if called or choice == "required" or strict_tools(body):
        for number, tool in enumerate(body.get("tools") or ()):
            function = tool["function"]
            wanted = called is None or function["name"] == called
            if wanted and function.get("strict") is not False and function.get("parameters") is not None:
                yield f"tools[{number}].function.parameters", function["parameters"]
    form = body.get("response_format") or {}
    if form.get("type") == "json_schema":
        yield "response_format.json_schema.schema", form["json_schema"]["schema"]


def strict_tools(body: Mapping[str, Any]) -> bool:
    """Whether the model may choose to call a tool, and its arguments must then follow a schema."""
    tools = body.get("tools") or ()
    return body.get("tool_choice", "auto") == "auto" and any(tool["function"].get("strict") for tool in tools)


def is_guided(form: Any) -> bool:
    return bool(form) and form.get("type") in ("json_object", "json_schema")


def check_schema(schema: Any, path: str) -> None:
    """
    Args:
        path: where it is in the request, to name what is refused.

    Raises:
        UnsupportedParameter, InvalidRequest: as check_schemas.
    """
    check_size(schema, path)
    check = _Check(schema, path)
    check.all()
    check.cycles()


def check_size(schema: Any, path: str) -> None:
    """
    Raises:
        InvalidRequest: the schema is too large or too deep, or has a text or a number that the compiler cannot read.
    """
    values = 0
    level = [schema]
    for _ in range(DEEPEST):
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += value.values()
                inner += value.keys()
            elif isinstance(value, list):
                inner += value
            elif (problem := unreadable(value)) is not None:
                raise InvalidRequest(f"The schema has {problem}. Leave it out.", path)
        values += len(inner)
        if values > MOST_VALUES:
            raise InvalidRequest(f"The schema has more than {MOST_VALUES} keys and values. Make it smaller.", path)
        level = inner
    if level:
        raise InvalidRequest(f"The schema is more than {DEEPEST} levels deep. Make it flatter.", path)
    if len(json.dumps(schema, ensure_ascii=False).encode(errors="surrogatepass")) > MOST_BYTES:
        raise InvalidRequest(f"The schema has more than {MOST_BYTES >> 10} KiB. Make it smaller.", path)


def unreadable(value: Any) -> str | None:
    """What is wrong with a text or a number, if something is."""
    if isinstance(value, str) and "\0" in value:
        return "a text with a NUL character"
    if isinstance(value, int) and not -LARGEST_INTEGER - 1 <= value <= LARGEST_INTEGER:
        return "a whole number that needs more than 64 bits"
    if isinstance(value, float) and not math.isfinite(value):
        return "a number that is not finite"
    return None


@dataclass
class _Check:
    root: Any
    root_path: str
    properties: int = 0
    enum_values: int = 0
    patterns: int = 0
    # Schemas that references point to, and that are still to be checked.
    waiting: list[tuple[Any, str]] = field(default_factory=list)
    # Where each schema was found first, by its identity. Each is checked once.
    paths: dict[int, str] = field(default_factory=dict)
    # From a schema to those that hold for the same value.
    same_value: dict[int, list[int]] = field(default_factory=dict)

    def all(self) -> None:
        """Check the schema and what its references point to. Definitions that are not used say nothing."""
        self.waiting = [(self.root, self.root_path)]
        while self.waiting:
            self.schema(*self.waiting.pop())

    def schema(self, schema: Any, path: str) -> None:
        if schema is True:
            return
        if schema is False:
            raise InvalidRequest("The schema false allows no value. Leave it out.", path)
        if not isinstance(schema, dict):
            raise InvalidRequest("This must be a schema: an object or true.", path)
        if id(schema) in self.paths:
            return
        self.paths[id(schema)] = path
        if "$ref" in schema:
            self.reference(schema, path)
        elif "const" in schema or "enum" in schema:
            self.values(schema, path)
        elif choices := [word for word in ("anyOf", "oneOf", "allOf") if word in schema]:
            self.alternatives(schema, choices[0], path)
        else:
            self.typed(schema, path)

    def only(self, schema: dict[str, Any], allowed: frozenset[str] | set[str], path: str, why: str) -> None:
        """Raises UnsupportedParameter for a keyword that is neither allowed here nor an annotation."""
        for word, value in schema.items():
            says_nothing = (word in ("$id", "id") and path == self.root_path) or (word == "nullable" and value is False)
            if not (word in allowed or word in ANNOTATIONS or word.startswith("x-") or says_nothing):
                raise refused(word, path, why)

    def reference(self, schema: dict[str, Any], path: str) -> None:
        self.only(schema, {"$ref"}, path, "beside $ref")
        reference = schema["$ref"]
        where = f"{path}.$ref"
        if not isinstance(reference, str):
            raise InvalidRequest("$ref must be a text.", where)
        if reference != "#" and not reference.startswith("#/"):
            raise UnsupportedParameter(
                '$ref must point into the same schema, as "#/$defs/name" does. Others are not fetched.', where
            )
        if "~" in reference or "%" in reference:
            raise UnsupportedParameter("$ref cannot have ~ or % in it. Rename the definition.", where)
        target = self.target(schema)
        if target is None:
            raise InvalidRequest("$ref points to nothing.", where)
        self.same_value.setdefault(id(schema), []).append(id(target))
        self.waiting.append((target, where))

    def values(self, schema: dict[str, Any], path: str) -> None:
        """`const` or `enum`: beside them the compiler reads nothing else, not even the type."""
        word = "const" if "const" in schema else "enum"
        self.only(schema, {"const", "enum", "type"}, path, f"beside {word}")
        values = schema.get("enum", [schema.get("const")])
        if not isinstance(values, list) or not values:
            raise InvalidRequest("enum must be a list with at least one value.", f"{path}.enum")
        self.enum_values += len(values)
        if self.enum_values > MOST_ENUM_VALUES:
            raise InvalidRequest(f"The schema has more than {MOST_ENUM_VALUES} values of enums.", f"{path}.enum")
        if "const" in schema and not any(same(schema["const"], value) for value in values):
            raise InvalidRequest("const is not among the values of enum.", f"{path}.const")
        if "type" in schema:
            types = self.types(schema, path)
            for value in [schema["const"]] if "const" in schema else values:
                if not any(is_of(value, one) for one in types):
                    raise InvalidRequest(f"A value of {word} is not of the type beside it.", f"{path}.{word}")

    def alternatives(self, schema: dict[str, Any], word: str, path: str) -> None:
        choices = schema[word]
        if not isinstance(choices, list) or not choices:
            raise InvalidRequest(f"{word} must be a list with at least one schema.", f"{path}.{word}")
        if word == "allOf" and len(choices) > 1:
            raise refused("allOf", path, "with more than one schema")
        self.only(schema, {word, "type"}, path, f"beside {word}")
        for number, choice in enumerate(choices):
            self.same_value.setdefault(id(schema), []).append(id(choice))
            self.schema(choice, f"{path}.{word}[{number}]")
        if "type" in schema:
            types = self.types(schema, path)
            if not all(self.types_of(choice) <= types for choice in choices):
                raise refused("type", path, f"beside {word} whose schemas can be of other types")
        if word == "oneOf" and "discriminator" not in schema and not self.exclude_each_other(choices):
            raise UnsupportedParameter(
                "oneOf is supported where no value can match two of its schemas: they have different types, constants "
                "or enums, or a property that does. Write anyOf if a value may match several.",
                f"{path}.oneOf",
            )

    def typed(self, schema: dict[str, Any], path: str) -> None:
        types = self.types(schema, path) if "type" in schema else set()
        if not types:
            types = {kind for kind in ("object", "array") if schema.keys() & KEYWORDS[kind]}
            if len(types) == 2:
                raise InvalidRequest("This schema needs a type: it speaks of objects and of arrays.", path)
            needed = {"object": {"properties", "additionalProperties"}, "array": {"items", "prefixItems"}}
            for word in () if not types or schema.keys() & needed[next(iter(types))] else schema:
                if word not in ANNOTATIONS:
                    raise refused(word, path, "without a type")
            self.only(schema, KEYWORDS[next(iter(types))] if types else set(), path, "without a type")
        allowed: frozenset[str] = frozenset().union(*(KEYWORDS.get(kind, frozenset()) for kind in types))
        self.only(schema, allowed | {"type"}, path, f"of type {' or '.join(sorted(types)) or 'any'}")
        self.counts(schema, path)
        if "string" in types:
            self.text(schema, path)
        if types & {"number", "integer"}:
            self.number(schema, types, path)
        if "array" in types:
            self.array(schema, path)
        if "object" in types:
            self.object(schema, path)

    def types(self, schema: dict[str, Any], path: str) -> set[str]:
        given = schema["type"]
        types = given if isinstance(given, list) else [given]
        if not types or not all(isinstance(one, str) and one in TYPES for one in types):
            raise InvalidRequest(f"type must be one or several of {', '.join(sorted(TYPES))}.", f"{path}.type")
        return set(types)

    def counts(self, schema: dict[str, Any], path: str) -> None:
        for word in COUNTS:
            value = schema.get(word, 0)
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= LARGEST_COUNT:
                raise InvalidRequest(f"{word} must be a whole number from 0 to {LARGEST_COUNT}.", f"{path}.{word}")
        for what in ("Length", "Items", "Properties"):
            if schema.get(f"min{what}", 0) > schema.get(f"max{what}", LARGEST_COUNT):
                raise InvalidRequest(f"min{what} is larger than max{what}.", f"{path}.min{what}")

    def text(self, schema: dict[str, Any], path: str) -> None:
        shape = [word for word in ("format", "pattern") if word in schema]
        for word in shape:
            if not isinstance(schema[word], str):
                raise InvalidRequest(f"{word} must be a text.", f"{path}.{word}")
        for word in (*shape[1:], "minLength", "maxLength") if shape else ():
            if word in schema:
                raise refused(word, path, f"beside {shape[0]}")
        if "format" in shape and schema["format"] not in FORMATS:
            supported = ", ".join(sorted(FORMATS))
            raise UnsupportedParameter(f"This format is not supported. Supported: {supported}.", f"{path}.format")
        if "pattern" in shape:
            self.patterns += 1
            if self.patterns > MOST_PATTERNS:
                raise InvalidRequest(f"The schema has more than {MOST_PATTERNS} patterns.", f"{path}.pattern")
            try:
                check_pattern(schema["pattern"])
            except PatternRefused as error:
                raise InvalidRequest(f"The pattern {error}.", f"{path}.pattern") from None

    def number(self, schema: dict[str, Any], types: set[str], path: str) -> None:
        if "string" not in types and schema.get("format", "double") not in sorted(NUMBER_FORMATS):
            raise refused("format", path, "of a number")
        for word in LIMITS:
            value = schema.get(word, 0)
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise InvalidRequest(f"{word} must be a number.", f"{path}.{word}")
            if "integer" in types and (value != int(value) or (isinstance(value, float) and abs(value) >= 2.0**63)):
                raise InvalidRequest(f"{word} of an integer must be whole and fit in 64 bits.", f"{path}.{word}")
        low = max(schema.get("minimum", float("-inf")), schema.get("exclusiveMinimum", float("-inf")))
        high = min(schema.get("maximum", float("inf")), schema.get("exclusiveMaximum", float("inf")))
        if low > high:
            raise InvalidRequest("The minimum is larger than the maximum.", f"{path}.minimum")

    def array(self, schema: dict[str, Any], path: str) -> None:
        first = schema.get("prefixItems", [])
        if not isinstance(first, list):
            raise InvalidRequest("prefixItems must be a list of schemas.", f"{path}.prefixItems")
        for number, one in enumerate(first):
            self.schema(one, f"{path}.prefixItems[{number}]")
        for word in ("items", "unevaluatedItems"):
            if isinstance(schema.get(word), list):
                raise UnsupportedParameter("items as a list is an old form. Write prefixItems.", f"{path}.{word}")
            if schema.get(word, False) is not False:
                self.schema(schema[word], f"{path}.{word}")
        if schema.get("maxItems", LARGEST_COUNT) < len(first):
            raise InvalidRequest("maxItems is less than the number of prefixItems.", f"{path}.maxItems")
        closed = first or "items" in schema or "unevaluatedItems" in schema
        rest = schema.get("items", schema.get("unevaluatedItems", False))
        if closed and rest is False and schema.get("minItems", 0) > len(first):
            raise InvalidRequest(
                f"minItems asks for more items than there are. {INSTEAD['minItems']}", f"{path}.minItems"
            )

    def object(self, schema: dict[str, Any], path: str) -> None:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise InvalidRequest("properties must be an object.", f"{path}.properties")
        self.properties += len(properties)
        if self.properties > MOST_PROPERTIES:
            raise InvalidRequest(f"The schema has more than {MOST_PROPERTIES} properties.", f"{path}.properties")
        for name, one in properties.items():
            self.schema(one, f"{path}.properties.{name[:60]}")
        for word in ("additionalProperties", "unevaluatedProperties"):
            if schema.get(word, False) is not False:
                self.schema(schema[word], f"{path}.{word}")
        required = schema.get("required", [])
        if not isinstance(required, list) or not all(isinstance(name, str) for name in required):
            raise InvalidRequest("required must be a list of names.", f"{path}.required")
        for number, name in enumerate(required):
            if name not in properties:
                raise InvalidRequest(
                    "required names a property that is not among properties. Add its schema there.",
                    f"{path}.required[{number}]",
                )
        open_ended = schema.get("additionalProperties", schema.get("unevaluatedProperties", False)) is not False
        if schema.get("minProperties", 0) > len(properties) and not open_ended:
            raise InvalidRequest(
                "minProperties asks for more than there are in properties. Allow additionalProperties.",
                f"{path}.minProperties",
            )
        if schema.get("maxProperties", LARGEST_COUNT) < len(set(required)):
            raise InvalidRequest("maxProperties is less than what is required.", f"{path}.maxProperties")
        if "maxProperties" in schema and not properties and not open_ended:
            raise refused("maxProperties", path, "without properties or additionalProperties")

    def types_of(self, schema: Any) -> set[str]:
        """The types that a value of this schema can have, as far as it says so. All of them for a schema that was not
        checked yet and is wrong."""
        schema = self.target(schema)
        if isinstance(schema, dict) and "$ref" not in schema:
            if values := constants(schema):
                return {kind for value in values for kind in TYPES if is_of(value, kind)}
            given = schema.get("type")
            named = given if isinstance(given, list) else [given]
            if all(isinstance(one, str) for one in named):
                return set(map(str, named))
        return set(TYPES)

    def target(self, schema: Any) -> Any:
        """The schema that a reference points to, None if there is none; or else the schema itself."""
        if not isinstance(schema, dict) or not isinstance(schema.get("$ref"), str):
            return schema
        target = self.root
        for name in schema["$ref"].split("/")[1:]:
            target = target.get(name) if isinstance(target, dict) else None
        return target

    def exclude_each_other(self, choices: list[Any]) -> bool:
        resolved = [self.target(choice) for choice in choices]
        if len(resolved) > MOST_COMPARED or not all(isinstance(one, dict) for one in resolved):
            return False
        return all(self.excludes(one, other) for number, one in enumerate(resolved) for other in resolved[number + 1 :])

    def excludes(self, one: dict[str, Any], other: dict[str, Any]) -> bool:
        mine, theirs = self.types_of(one), self.types_of(other)
        if not mine & theirs and not {"integer", "number"} <= mine | theirs:
            return True
        if distinct(one, other):
            return True
        tagged, others = one.get("properties"), other.get("properties")
        if not isinstance(tagged, dict) or not isinstance(others, dict):
            return False
        return any(name in others and distinct(schema, others[name]) for name, schema in tagged.items())

    def cycles(self) -> None:
        """Raises InvalidRequest for a schema that, followed through references, is made of itself alone."""
        done: set[int] = set()
        for start in self.same_value:
            stack: list[tuple[int, Iterator[int]]] = [(start, iter(self.same_value.get(start, ())))]
            open_now = {start}
            while stack:
                here, rest = stack[-1]
                following = next(rest, None)
                if following is None:
                    stack.pop()
                    open_now.discard(here)
                    done.add(here)
                elif following in open_now:
                    path = self.paths.get(following, self.root_path)
                    raise InvalidRequest("This schema is defined by itself alone, so it says nothing.", path)
                elif following not in done:
                    open_now.add(following)
                    stack.append((following, iter(self.same_value.get(following, ()))))


def refused(word: str, path: str, where: str) -> UnsupportedParameter:
    what = f"{word[:60]} {where} is not supported: the answer would not be held to it."
    return UnsupportedParameter(f"{what} {INSTEAD.get(word) or 'Leave it out.'}", f"{path}.{word[:60]}")


def distinct(one: Any, other: Any) -> bool:
    """Whether two schemas of constants have none in common."""
    mine, theirs = constants(one), constants(other)
    return bool(mine and theirs) and not any(same(a, b) for a in mine for b in theirs)


def constants(schema: Any) -> list[Any]:
    if not isinstance(schema, dict):
        return []
    values = [schema["const"]] if "const" in schema else schema.get("enum", [])
    return values if isinstance(values, list) and len(values) <= MOST_COMPARED else []


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0, and not true."""
    return one == other and isinstance(one, bool) == isinstance(other, bool)


def is_of(value: Any, kind: str) -> bool:
    """Whether a value of JSON is of this type."""
    if isinstance(value, bool):
        return kind == "boolean"
    if isinstance(value, int | float):
        return kind == "number" or (kind == "integer" and value == int(value))
    return kind == {str: "string", list: "array", dict: "object"}.get(type(value), "null")
