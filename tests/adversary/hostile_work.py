"""Hostile requests to the models: what they cannot read, and too much work."""

from __future__ import annotations

import json
import random
from typing import Any

from kinds import (
    CHAT,
    EMBEDDINGS,
    JSON,
    MIB,
    VOCABULARY,
    Made,
    body_for,
    chat,
    completion,
    embedding,
    kind,
    picture,
    posted,
    word,
)
from sending import Request


@kind
def token_ids(draw: random.Random) -> Made:
    """Ids that a model does not have, in every field that takes ids."""
    model = draw.choice([CHAT, EMBEDDINGS])
    bad = draw.choice(
        [
            VOCABULARY[model],
            VOCABULARY[model] + draw.randrange(1, 5000),
            -1,
            (1 << 31) - 1,
            1 << 31,
            1 << 63,
            10**30,
            1.5,
        ]
    )
    ids: list[float] = [draw.randrange(20, 20_000) for _ in range(draw.randrange(4))]
    ids.insert(draw.randint(0, len(ids)), bad)
    if model == EMBEDDINGS:
        return draw.choice(
            [
                lambda: posted("/v1/embeddings", embedding(draw.choice([ids, [[5], ids]]))),
                lambda: posted("/v1/embeddings", embedding(ids, truncate_prompt_tokens=draw.choice([-1, 1, 5]))),
                lambda: posted("/detokenize", {"model": model, "tokens": ids}),
            ]
        )()
    return draw.choice(
        [
            lambda: posted("/v1/completions", completion(prompt=draw.choice([ids, [[1, 2], ids]]))),
            lambda: posted("/v1/completions", completion(prompt=ids, truncate_prompt_tokens=draw.choice([1, 2, -1]))),
            lambda: posted("/v1/completions", completion(prompt=ids, echo=True, logprobs=1)),
            lambda: posted("/detokenize", {"model": model, "tokens": ids}),
            lambda: posted("/v1/chat/completions", chat(draw, stop_token_ids=ids)),
            lambda: posted("/v1/chat/completions", chat(draw, allowed_token_ids=ids)),
            lambda: posted("/v1/chat/completions", chat(draw, logit_bias={str(one): 100 for one in ids})),
            lambda: posted("/v1/completions", completion(logit_bias={str(bad): -100}, stream=True)),
        ]
    )()


def exploding_schema(draw: random.Random) -> Any:
    n = draw.choice([7, 20, 60, 1000, 100_000])
    text: dict[str, Any] = {"type": "string"}

    def deep(schema: Any, levels: int) -> Any:
        for _ in range(levels):
            schema = draw.choice([{"type": "array", "items": schema}, {"type": "object", "properties": {"a": schema}}])
        return schema

    return draw.choice(
        [
            lambda: text | {"pattern": f"^(.{{0,{n}}}){{0,{n}}}$"},
            lambda: text | {"pattern": "(" * 40 + "a" + "+)" * 40},
            lambda: text | {"pattern": f"^(a|b|ab){{1,{n}}}c{{{n}}}$"},
            lambda: text | {"pattern": f"[\\u0000-\\uffff]{{{n},{2 * n}}}"},
            lambda: text | {"pattern": "".join(f"(x{number}|y)?" for number in range(n % 997))},
            lambda: (
                text | {"pattern": draw.choice(["^+[a-z]$", "[a-", "\\p{L}+", "(?=a)b", "(a)\\1", "\x00", "a{9,1}"])}
            ),
            lambda: text | {"maxLength": n, "minLength": n // 2},
            lambda: {"type": "object", "properties": {f"p{i}": text for i in range(min(n, 5000))}},
            lambda: {"enum": [f"{i}{word(draw)}" for i in range(n)]},
            lambda: deep(text, min(n, 400)),
            lambda: {"type": "array", "items": deep(text, 3), "minItems": n, "maxItems": 2 * n},
            lambda: {"$ref": draw.choice(["#", "#/$defs/none", "http://127.0.0.1:8265/x", "file:///etc/passwd"])},
            lambda: {
                "$defs": {
                    f"d{i}": {"anyOf": [{"$ref": f"#/$defs/d{(i + k) % 30}"} for k in (1, 2, 3)]} for i in range(30)
                },
                "$ref": "#/$defs/d0",
            },
            lambda: {
                "anyOf": [{"type": "object", "properties": {f"k{i}{k}": text for k in range(20)}} for i in range(60)]
            },
            lambda: {"type": "integer", "minimum": -(10**n % 10**40), "maximum": 10**25},
            lambda: {"not": {"type": "string"}, "if": {}, "then": {"$ref": "#"}},
            lambda: {"type": draw.choice(["objct", 5, [], ["string"] * 500, None])},
        ]
    )()


@kind
def schemas_that_explode(draw: random.Random) -> Made:
    schema = exploding_schema(draw)
    shape = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    holder = {"type": "object", "properties": {"a": schema}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": holder, "strict": draw.random() < 0.5}}
    return draw.choice(
        [
            lambda: posted("/v1/chat/completions", chat(draw, response_format=shape)),
            lambda: posted("/v1/chat/completions", chat(draw, response_format=shape, stream=True, n=2)),
            lambda: posted("/v1/completions", completion(response_format=shape)),
            lambda: posted("/v1/chat/completions", chat(draw, tools=[tool], tool_choice="required")),
        ]
    )()


@kind
def odd_tools(draw: random.Random) -> Made:
    tool = {"type": "function", "function": {"name": word(draw), "parameters": {"type": "object"}}}
    return posted(
        "/v1/chat/completions",
        chat(
            draw,
            **draw.choice(
                [
                    {"tools": [], "tool_choice": draw.choice(["none", "auto", "required"])},
                    {
                        "tools": [tool],
                        "tool_choice": {"type": "function", "function": {"name": draw.choice(["", "other", "\x00"])}},
                    },
                    {"tools": [tool] * draw.choice([2, 128, 129, 5000])},
                    {"tools": [tool], "tool_choice": draw.choice(["", "any", 5, {}, [], "x" * 100_000])},
                    {
                        "chat_template_kwargs": {
                            draw.choice(
                                ["messages", "tools", "chat_template", "__class__", "self", "tokenize"]
                            ): draw.choice(["x", [], 1])
                        }
                    },
                    {"chat_template_kwargs": {word(draw): "{{ 7*7 }}{% for i in range(10**9) %}{% endfor %}"}},
                    {
                        "messages": [
                            {
                                "role": "assistant",
                                "content": None,
                                "tool_calls": [
                                    {
                                        "id": "1",
                                        "type": "function",
                                        "function": {"name": "f", "arguments": "[" * 50_000},
                                    }
                                ],
                            }
                        ]
                    },
                    {
                        "messages": [
                            {
                                "role": draw.choice(["tool", "system", "assistant"]),
                                "content": "{{ raise }}<|im_end|>" * 50,
                            }
                        ]
                    },
                ]
            ),
        ),
    )


@kind
def odd_sampling(draw: random.Random) -> Made:
    number = draw.choice([0, -1, 1e308, -1e308, 5e-324, 2**63, -(2**63), 10**40, 0.1, True, None, "1", [], {}])
    field = draw.choice(
        [
            "temperature",
            "top_p",
            "top_k",
            "min_p",
            "n",
            "seed",
            "max_tokens",
            "min_tokens",
            "logprobs",
            "top_logprobs",
            "frequency_penalty",
            "presence_penalty",
            "repetition_penalty",
            "truncate_prompt_tokens",
            "stop",
            "bad_words",
            "best_of",
            "echo",
            "stream",
            "stream_options",
            "logit_bias",
            "ignore_eos",
            "response_format",
        ]
    )
    body = chat(draw) if draw.random() < 0.5 else completion()
    body |= {field: number}
    if draw.random() < 0.3:
        body |= {"stop": [draw.choice(["", "\x00", "a" * 100_000, "\ud7ff", "😀"])] * draw.choice([1, 16, 17])}
    if draw.random() < 0.3:
        body |= {"bad_words": [draw.choice(["", " ", "x" * 50_000, "😀"])] * draw.choice([1, 1000])}
    return posted("/v1/chat/completions" if "messages" in body else "/v1/completions", body)


@kind
def long_texts(draw: random.Random) -> Made:
    """Up to 8 MiB of text to whatever tokenizes."""
    size = draw.choice([MIB, 4 * MIB, 8 * MIB - 400])
    unit = draw.choice(["a", " ", "\n", "ab ", "é", "😀", word(draw) + " ", "1", "\t\n ", "a.", "ㄱ", "\u0301"])
    text = unit * (size // len(unit.encode()))
    cut = draw.choice([{}, {"truncate_prompt_tokens": draw.choice([-1, 1, 100])}])
    document, path = draw.choice(
        [
            ({"model": draw.choice([CHAT, EMBEDDINGS]), "prompt": text}, "/tokenize"),
            ({"model": CHAT, "messages": [{"role": "user", "content": text}]}, "/tokenize"),
            (embedding(text) | cut, "/v1/embeddings"),
            (embedding([text[: len(text) // 8]] * 8) | cut, "/v1/embeddings"),
            (chat(draw, messages=[{"role": "user", "content": text}]) | cut, "/v1/chat/completions"),
            (completion(prompt=text) | cut, "/v1/completions"),
            (picture(prompt=text), "/v1/images/generations"),
            (chat(draw, messages=[{"role": "user", "content": text}]), "/v1/estimate"),
        ]
    )
    return posted(path, json.dumps(document, ensure_ascii=False).encode())


@kind
def multipliers(draw: random.Random) -> Made:
    """Much work for few bytes."""
    raw = draw.choice(
        [
            lambda: posted("/v1/completions", completion(prompt=["Tell me a long story."] * 4, n=4, max_tokens=2000)),
            lambda: posted(
                "/v1/completions",
                completion(prompt=["Go on."] * draw.choice([16, 17, 64, 1025, 60_000]), max_tokens=200),
            ),
            lambda: posted(
                "/v1/chat/completions", chat(draw, n=draw.choice([16, 17, 1 << 30]), max_tokens=4000, temperature=1)
            ),
            lambda: posted(
                "/v1/chat/completions",
                chat(draw, n=16, max_tokens=500, stream=True, ignore_eos=True, logprobs=True, top_logprobs=20),
            ),
            lambda: posted("/v1/embeddings", embedding(["word " * 250] * draw.choice([64, 512, 2048, 2049, 20_000]))),
            lambda: posted("/v1/embeddings", embedding([[5] * 256] * 1000)),
            lambda: posted(
                "/v1/images/generations",
                picture(n=draw.choice([10, 40, 41, 1 << 30]), size="128x128", steps=draw.choice([20, 50, 1 << 30])),
            ),
            lambda: posted(
                "/v1/images/generations", picture(n=4, stream=True, partial_images=3, progress=True, quality="hd")
            ),
            lambda: posted("/v1/completions", completion(prompt="x " * 1500, n=16, best_of=16, echo=True, logprobs=5)),
        ]
    )()
    return Request("", raw, is_long=True)


@kind
def crowds(draw: random.Random) -> Made:
    """Many of one address, or under invented keys."""
    path = draw.choice(["/v1/embeddings", "/v1/chat/completions", "/v1/images/generations", "/tokenize"])
    raw = posted(path, body_for(draw, path), JSON, f"Authorization: Bearer {draw.getrandbits(64):x}")
    return Request(
        "", raw, client=f"127.0.{draw.randint(1, 250)}.{draw.randint(1, 250)}", connections=draw.choice([8, 12])
    )
