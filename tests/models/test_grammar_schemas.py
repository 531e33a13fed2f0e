"""Which JSON schemas may guide an answer. The compiler itself is the judge: what is accepted, it honours."""

import contextlib
import enum
import itertools
import json
from datetime import date
from typing import Annotated, Any, Literal

import pytest
from openai.lib._pydantic import to_strict_json_schema
from pydantic import BaseModel, Field

from models.errors import InvalidRequest, UnsupportedParameter
from models.grammars.schemas import check_schema, check_schemas

INTEGER = {"type": "integer"}
ONE = {"type": "object", "properties": {"a": INTEGER}, "required": ["a"]}


def nested(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = INTEGER
    for _ in range(levels):
        schema = {"type": "object", "properties": {"a": schema}}
    return schema


# Each with a value that it forbids and that the compiler of grammars allows.
IGNORED = [
    ({"not": {"type": "string"}}, "not", "a"),
    ({**INTEGER, "not": {"const": 1}}, "not", 1),
    ({"if": INTEGER, "then": {"minimum": 5}}, "if", 1),
    ({"type": "array", "items": INTEGER, "uniqueItems": True}, "uniqueItems", [1, 1]),
    ({"type": "array", "items": INTEGER, "contains": {"const": 1}}, "contains", [2]),
    ({**ONE, "dependentRequired": {"a": ["b"]}}, "dependentRequired", {"a": 1}),
    ({**ONE, "dependencies": {"a": ["b"]}}, "dependencies", {"a": 1}),
    ({**ONE, "dependentSchemas": {"a": False}}, "dependentSchemas", {"a": 1}),
    ({"type": "number", "multipleOf": 0.5}, "multipleOf", 0.3),
    ({"minimum": 2}, "minimum", 1),
    ({"pattern": "^a$"}, "pattern", "b"),
    ({"required": ["a"]}, "required", {}),
    ({"type": "object", "required": ["z"]}, "required[0]", {}),
    ({"type": "string", "pattern": "^a+$", "minLength": 2}, "minLength", "a"),
    ({"type": "string", "format": "date", "pattern": "^a$"}, "pattern", "2020-01-01"),
    ({"type": "string", "format": "iri"}, "format", "x y"),
    ({"$ref": "#/$defs/a", "minimum": 5, "$defs": {"a": INTEGER}}, "minimum", 1),
    ({"$ref": "#a", "$defs": {"a": {"$anchor": "a", **INTEGER}}}, "$ref", "x"),
    ({"$dynamicRef": "#a"}, "$dynamicRef", "x"),
    ({"$ref": "http://example.org/a.json"}, "$ref", "x"),
    ({"enum": ["abc"], "maxLength": 1}, "maxLength", "abc"),
    ({"type": "string", "enum": ["a", 1]}, "enum", 1),
    ({"const": "a", "enum": ["b"]}, "const", "a"),
    ({**INTEGER, "anyOf": [{}, {"type": "null"}]}, "type", "x"),
    ({**ONE, "anyOf": [{"required": ["b"]}]}, "properties", {"a": 1}),
    ({"oneOf": [{**INTEGER, "maximum": 5}, {**INTEGER, "minimum": 3}]}, "oneOf", 4),
    ({"allOf": [{**INTEGER, "minimum": 3}, {**INTEGER, "maximum": 5}]}, "allOf", 9),
    ({"maxlength": 3}, "maxlength", "abcd"),
    # vLLM itself refuses these, and does not say which keyword it means.
    ({"type": "object", "patternProperties": {"^a": INTEGER}}, "patternProperties", None),
    ({"type": "object", "propertyNames": {"pattern": "^a"}}, "propertyNames", None),
    ({**INTEGER, "nullable": True}, "nullable", None),
    ({"type": "array", "items": [INTEGER]}, "items", None),
]


@pytest.mark.parametrize(("schema", "named", "wrong"), IGNORED, ids=lambda value: str(value)[:40])
def test_what_the_compiler_would_ignore_is_refused_by_its_path(schema, named, wrong, allows):
    outer = {
        "type": "object",
        "properties": {"deep": {"type": "array", "items": schema}},
        "$defs": schema.get("$defs", {}),
    }
    for whole, path in ((schema, "s"), (outer, "s.properties.deep.items")):
        with pytest.raises(InvalidRequest) as refusal:
            check_schema(whole, "s")
        assert refusal.value.param == f"{path}.{named}"
    assert wrong is None or allows(schema, wrong)


WRONG = {
    "a type that is none": ({"type": "objct"}, "s.type"),
    "no type": ({"type": []}, "s.type"),
    "a property that is no schema": ({"type": "object", "properties": {"a": "b"}}, "s.properties.a"),
    "a reference to itself": ({"$ref": "#"}, "s"),
    "references in a ring": (
        {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "s.$ref",
    ),
    "a ring through anyOf": ({"anyOf": [INTEGER, {"allOf": [{"$ref": "#"}]}]}, "s"),
    "a reference to nothing": ({"$ref": "#/$defs/no"}, "s.$ref"),
    "a reference with an escape": ({"$ref": "#/$defs/a~1b", "$defs": {"a/b": INTEGER}}, "s.$ref"),
    "minimum over maximum": ({**INTEGER, "minimum": 5, "maximum": 1}, "s.minimum"),
    "minLength over maxLength": ({"type": "string", "minLength": 5, "maxLength": 1}, "s.minLength"),
    "a count below zero": ({"type": "string", "minLength": -1}, "s.minLength"),
    "a count of 64 bits": ({"type": "string", "maxLength": 1 << 40}, "s.maxLength"),
    "half a whole number": ({**INTEGER, "minimum": 0.5}, "s.minimum"),
    "a limit over 64 bits": ({**INTEGER, "maximum": 1e30}, "s.maximum"),
    "a number over 64 bits": ({"enum": [1 << 64]}, "s"),
    "a number without end": ({"type": "number", "maximum": float("inf")}, "s"),
    "an empty enum": ({"enum": []}, "s.enum"),
    "an empty anyOf": ({"anyOf": []}, "s.anyOf"),
    "nothing allowed": ({"type": "array", "items": {"anyOf": [False]}}, "s.items.anyOf[0]"),
    "NUL in a value": ({"const": {"a": ["\0"]}}, "s"),
    "NUL in a name": ({"type": "object", "properties": {"a\0": {}}}, "s"),
    "too deep": (nested(60), "s"),
    "much too deep": (nested(300), "s"),
    "a huge enum": ({"enum": [f"v{number}" for number in range(50_000)]}, "s"),
    "a large enum": ({"enum": [f"v{number}" for number in range(6000)]}, "s.enum"),
    "many properties": ({"type": "object", "properties": {f"p{number}": {} for number in range(3000)}}, "s.properties"),
    "many bytes": ({"description": "x" * 300_000}, "s"),
    "many patterns": ({"anyOf": [{"type": "string", "pattern": f"a{n}"} for n in range(200)]}, "s.anyOf[100].pattern"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_or_oversized_schema_is_refused(name):
    schema, path = WRONG[name]
    with pytest.raises(InvalidRequest) as refusal:
        check_schema(schema, "s")
    assert refusal.value.param == path


PATTERNS = {
    "not valid": ["^+[a-z]$", "[a-", "(a", "a)", "a**", "a{3,2}", "[z-a]", "a{,3}", "*a", "\\", r"\q", "[]", "(?i)a"],
    "Unicode property": [r"^\p{L}+$", r"[\p{Script=Greek}]", r"\P{L}"],
    "looks ahead or behind": ["^(?=a)", "a(?!b)", "(?<=a)b", "(?<!a)b"],
    "not supported": [r"\bword", r"(a)\1", r"(?<n>a)\k<n>", '^"$', r"^\\$", r"^\n$", '["]'],
    "only at the ends": ["a^b", "a$b", "(^a$)"],
    "at most 1000": [".{0,100000}", "a" * 1001],
    "all counts multiplied": ["(a{1,1000}){1,1000}", "((.{10}){10}){11}", "(a|b|c){400}"],
}  # fmt: skip


@pytest.mark.parametrize(("why", "pattern"), [(why, one) for why, many in PATTERNS.items() for one in many])
def test_a_pattern_that_would_not_be_honoured_is_refused(why, pattern):
    with pytest.raises(InvalidRequest, match=why) as refusal:
        check_schema({"type": "object", "properties": {"a": {"type": "string", "pattern": pattern}}}, "s")
    assert refusal.value.param == "s.properties.a.pattern"


HONOURED = {
    "^[a-z]+$": ("abc", "aBc"),
    r"^\d{4}-\d{2}$": ("2020-01", "2020-1"),
    r"^(red|green)$": ("red", "blue"),
    r"^(?:a|b){1,2}?$": ("ab", "abc"),
    r"^(?<year>\d+)x$": ("1x", "x"),
    "^a$|^b$": ("b", "ab"),
    r"^[\w.-]+@[\w.-]+\.com$": ("a@b.com", "a@b"),
    r"^\u0041\x42$": ("AB", "ab"),
    "^[^a]$": ("b", '"'),
    "^é$": ("é", "e"),
    r"^\.\/\-$": ("./-", "a/-"),
}


@pytest.mark.parametrize("pattern", HONOURED)
def test_a_pattern_is_honoured(pattern, allows):
    schema = {"type": "string", "pattern": pattern}
    check_schema(schema, "s")
    right, wrong = HONOURED[pattern]
    assert allows(schema, right)
    assert not allows(schema, wrong)


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int = Field(ge=0, le=9)


class Dog(BaseModel):
    kind: Literal["dog"]
    name: Annotated[str, Field(max_length=20)] | None = None


class Person(BaseModel):
    """What clients describe with pydantic."""

    name: str = Field(description="First and last", examples=["A B"])
    age: int
    born: date
    colour: Colour = Colour.RED
    pets: list[Annotated[Cat | Dog, Field(discriminator="kind")]]
    friends: list["Person"] = []
    scores: dict[str, float] = {}
    point: tuple[int, int] = (0, 0)


ZOD = {
    "$schema": "http://json-schema.org/draft-07/schema#",
    "type": "object",
    "properties": {"a": {"type": ["string", "null"]}, "b": {"anyOf": [INTEGER, {"type": "null"}]}},
    "required": ["a", "b"],
    "additionalProperties": False,
}
CHAIN = {**{f"d{n}": {"$ref": f"#/$defs/d{n + 1}"} for n in range(2000)}, "d2000": INTEGER}
REAL = {
    "pydantic": Person.model_json_schema(),
    "pydantic, serialization": Person.model_json_schema(mode="serialization"),
    "openai parse()": to_strict_json_schema(Cat),
    "zod": ZOD,
    "anything": {},
    "a large maximum": {**INTEGER, "minimum": 0, "maximum": 20_000_000_000},
    "64 bits": {**INTEGER, "minimum": -(1 << 63), "maximum": (1 << 63) - 1, "format": "int64"},
    "recursion": {"type": "object", "properties": {"child": {"$ref": "#"}}},
    "unicode": {"enum": ["naïve 😀"]},
    "older pydantic": {"allOf": [{"$ref": "#/$defs/a"}], "title": "x", "$defs": {"a": {"const": "a", "enum": ["a"]}}},
    "one of types": {"oneOf": [INTEGER, {"type": "string"}], "x-own": 1},
    "definitions that nobody uses": {**ONE, "$defs": {"a": {"not": {}}}},
    "a long chain of references": {"$ref": "#/$defs/d0", "$defs": CHAIN},
    "an answer of the model itself": True,
}  # fmt: skip


@pytest.mark.parametrize("name", REAL)
def test_schemas_that_clients_send_are_accepted_and_compiled(name, compiled):
    check_schema(REAL[name], "s")
    assert compiled(REAL[name])


def tool(name: str, strict: bool | None = None, **schema: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": schema, "strict": strict}}


BAD = {"type": "object", "not": {}}
FORM = {"type": "json_schema", "json_schema": {"schema": BAD}}
NAMED = {"type": "function", "function": {"name": "b"}}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"tools": [tool("a", **BAD)]}, None),  # only shown to the model
        ({"tools": [tool("a", **BAD)], "tool_choice": "auto"}, None),
        ({"tools": [tool("a", **BAD)], "tool_choice": "none"}, None),
        ({"tools": [tool("a"), tool("b", **BAD)], "tool_choice": "required"}, "tools[1].function.parameters.not"),
        ({"tools": [tool("a", **BAD), tool("b")], "tool_choice": NAMED}, None),
        ({"tools": [tool("b", **BAD)], "tool_choice": NAMED}, "tools[0].function.parameters.not"),
        ({"tools": [tool("a", True), tool("b", **BAD)]}, "tools[1].function.parameters.not"),
        ({"tools": [tool("a", True), tool("b", False, **BAD)]}, None),
        ({"tools": [tool("a", True)], "response_format": {"type": "json_object"}}, "response_format"),
        ({"response_format": FORM}, "response_format.json_schema.schema.not"),
        ({"response_format": {"type": "text"}}, None),
    ],
)  # fmt: skip
def test_schemas_are_checked_where_an_answer_must_follow_them(body, named):
    if named is None:
        check_schemas(body)
        return
    with pytest.raises(UnsupportedParameter) as refusal:
        check_schemas(body)
    assert refusal.value.param == named


VALUES: list[Any] = [None, True, 0, -1, 1.5, "", "#", "#/$defs/a", [], {}, [1], ["a"], [[]], [{}], {"a": 1}, {"a": {}}]
WORDS = ["type", "$ref", "enum", "const", "anyOf", "oneOf", "allOf", "properties", "items", "required", "pattern"]
WORDS += ["minimum", "minLength", "additionalProperties", "prefixItems", "format", "$defs", "maxItems"]
BASES = [{}, {"type": "object"}, INTEGER, {"type": ["string", "integer"]}, {"anyOf": [{"$ref": "#"}, {}]}]


@pytest.mark.parametrize("word", WORDS)
def test_odd_schemas_are_accepted_or_refused_and_break_nothing(word):
    """A keyword with every kind of value, beside others, and behind a reference."""
    for value, base in itertools.product(VALUES, BASES):
        one = {**base, word: value}
        for schema in (one, {"oneOf": [one, {"$ref": "#/$defs/a"}], "$defs": {"a": {word: value}}}):
            with contextlib.suppress(InvalidRequest):
                check_schema(schema, "s")


@pytest.fixture(scope="module")
def compiled():
    xgrammar = pytest.importorskip("xgrammar")
    return lambda schema: xgrammar.Grammar.from_json_schema(json.dumps(schema))


@pytest.fixture(scope="module")
def allows(compiled):
    """Whether the compiler lets this value be the answer."""
    from xgrammar.testing import _is_grammar_accept_string

    def answer(schema: dict[str, Any], value: Any) -> bool:
        return _is_grammar_accept_string(compiled(schema), json.dumps(value, ensure_ascii=False))

    return answer
