"""Trial compilations, in the program that can be killed."""

import asyncio
import json
import os
import signal

import pytest
from patience import until

from models.errors import InvalidRequest, RateLimited
from models.grammars import trials
from models.grammars.trials import Trials

xgrammar = pytest.importorskip("xgrammar")

# Without a limit this takes minutes, with any vocabulary.
ENDLESS = {"type": "object", "properties": {f"p{number}": {"type": "string"} for number in range(4000)}}
FINE = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def vocabulary() -> str:
    letters = [chr(code) for code in range(128)]
    tokens = [*letters, *(a + b for a in letters[32:] for b in letters[32:])]
    return xgrammar.TokenizerInfo(tokens, vocab_size=len(tokens), stop_token_ids=[0]).serialize_json()


@pytest.fixture
async def tried():
    tried = Trials(vocabulary)
    yield tried
    await tried.close()


async def verdict(tried: Trials, schema: object, kind: trials.Kind = "json") -> str:
    """The first words of a refusal; nothing for a schema that is accepted."""
    try:
        await tried.check(kind, json.dumps(schema), "tools")
    except InvalidRequest as error:
        return error.message.partition(":")[0]
    return ""


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr(trials, "QUICK_S", 0.1)
    monkeypatch.setattr(trials, "SLOW_S", 0.3)


async def test_what_cannot_be_compiled_is_refused_and_the_rest_accepted(tried):
    assert await verdict(tried, FINE) == ""
    assert await verdict(tried, {"type": "string", "pattern": r"^\p{L}$"}) == "The schema cannot be compiled"
    assert await verdict(tried, {"$ref": "#"}) == "The schema is impossible"
    # Only with its cache, which engines have, does the compiler fail on this.
    assert await verdict(tried, {"type": "string", "pattern": "^.{0,600}$"}) == "The schema cannot be compiled"
    form = {"type": "tag", "begin": "<a>", "content": {"type": "json_schema", "json_schema": FINE}, "end": "</a>"}
    assert await verdict(tried, {"type": "structural_tag", "format": form}, "tag") == ""
    assert await verdict(tried, {"type": "structural_tag", "format": {"type": "x"}}, "tag")


async def test_what_takes_too_long_is_ended_and_holds_up_no_other(tried, short):
    assert await verdict(tried, FINE) == ""
    first = tried._program
    attacks = [asyncio.create_task(verdict(tried, {**ENDLESS, "title": str(number)})) for number in range(3)]
    await asyncio.sleep(0)
    assert await verdict(tried, {"enum": ["a", "b"]}) == ""
    assert not attacks[-1].done()
    assert await asyncio.gather(*attacks) == ["The schema is too complex"] * 3
    assert tried._program is first


async def test_a_slow_one_is_accepted_within_the_larger_limit(tried, monkeypatch):
    monkeypatch.setattr(trials, "QUICK_S", 0.001)
    assert await verdict(tried, {"type": "string", "maxLength": 300}) == ""
    assert next(iter(tried._found.values())).seconds > 0.001


async def test_what_was_found_is_remembered(tried, short):
    first = [await verdict(tried, schema) for schema in (ENDLESS, FINE)]
    assert tried._program is not None
    number = tried._program._number
    assert [await verdict(tried, schema) for schema in (ENDLESS, FINE)] == first == ["The schema is too complex", ""]
    assert tried._program._number == number


async def test_the_same_schema_at_the_same_time_is_tried_once(tried):
    assert await asyncio.gather(*(verdict(tried, FINE) for _ in range(50))) == [""] * 50
    assert tried._program is not None
    assert tried._program._number == 1


async def test_a_client_that_leaves_does_not_take_the_trial_from_others(tried):
    leaving, staying = (asyncio.create_task(verdict(tried, FINE)) for _ in range(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == ""


async def test_only_so_many_wait(tried, short):
    many = [asyncio.create_task(verdict(tried, {**FINE, "title": str(n)})) for n in range(trials.MOST_WAITING)]
    await asyncio.sleep(0)
    with pytest.raises(RateLimited) as refusal:
        await tried.check("json", json.dumps({**FINE, "title": "x"}), "tools")
    assert refusal.value.retry_after
    assert set(await asyncio.gather(*many)) == {""}


async def test_only_so_many_slow_ones_wait(tried, short, monkeypatch):
    monkeypatch.setattr(trials, "MOST_SLOW", 1)
    attacks = [asyncio.create_task(verdict(tried, {**ENDLESS, "title": str(n)})) for n in range(3)]
    found = await asyncio.gather(*attacks, return_exceptions=True)
    assert "The schema is too complex" in found
    assert any(isinstance(one, RateLimited) for one in found)
    assert await verdict(tried, FINE) == ""


async def test_too_much_memory_is_refused(tried, monkeypatch, tmp_path):
    program = tmp_path / "compiling.py"
    text = trials.PROGRAM.read_text()
    assert "LARGEST_GRAMMAR_BYTES = 16 << 20" in text
    program.write_text(text.replace("LARGEST_GRAMMAR_BYTES = 16 << 20", "LARGEST_GRAMMAR_BYTES = 1000"))
    monkeypatch.setattr(trials, "PROGRAM", program)
    assert await verdict(tried, FINE) == "The schema is too complex"


async def test_a_program_that_is_killed_is_replaced(tried):
    assert await verdict(tried, FINE) == ""
    first = tried._program
    assert first is not None
    os.kill(first._process.pid, signal.SIGKILL)
    assert await verdict(tried, {"enum": [1]}) == ""
    assert tried._program is not first


async def test_the_program_ends_with_its_parent(tried):
    assert await verdict(tried, FINE) == ""
    process = tried._program._process
    process.stdin.close()
    await until(lambda: process.returncode is not None, "the program ends")
