"""A program that tries to compile grammars, each in a process of its own that dies if it takes too long.

    python -P compiling.py    reads documents of JSON, one a line; writes one for each

The first line is the vocabulary, as xgrammar writes it. Each other line is a trial: {"id", "kind", "text", "seconds"}.
`kind` is json or tag: what `text` is, a JSON schema or a structural tag. An answer is {"id", "verdict", "seconds",
"bytes"}, with a verdict of Verdict's in trials.py.

The trial is a fork: xgrammar is imported and the vocabulary read once. Its CPU time is limited by a timer that kills
it, because a call into xgrammar cannot be interrupted, and its memory by the kernel. This file is run by its path and
imports nothing of Medley: xgrammar alone, without torch, is 60 MB instead of 270.
"""

from __future__ import annotations

import json
import os
import random
import resource
import select
import signal
import sys
import time
import types
from typing import Any

# CPU seconds for the part of a compilation that vLLM does where it answers all requests.
READING_S = 0.5
# Tokens that are chosen to see that an answer can go on, and the CPU seconds for it: masks are made between two steps
# of the model, for all its requests.
STEPS = 64
WALK_S = 1.0
# Of address space beyond that of the program itself.
MEMORY_BYTES = 1 << 30
# vLLM keeps a grammar while a request uses it. 64 requests may use 64 of them.
LARGEST_GRAMMAR_BYTES = 16 << 20


def main() -> None:
    xgrammar = import_xgrammar()
    vocabulary: Any = None
    under_way: dict[int, Any] = {}
    # A child that ends writes to this pipe, by Python's own handler of signals.
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    lines = b""
    while True:
        ready, _, _ = select.select([0, woken], [], [])
        if woken in ready:
            os.read(woken, 4096)
            bury(under_way)
        if 0 in ready:
            read = os.read(0, 1 << 16)
            if not read:
                return
            *whole, lines = (lines + read).split(b"\n")
            for line in whole:
                if vocabulary is None:
                    vocabulary = xgrammar.TokenizerInfo.deserialize_json(line.decode())
                    continue
                trial = json.loads(line)
                under_way[begin(trial, xgrammar, vocabulary)] = trial["id"]


def import_xgrammar() -> Any:
    """xgrammar, without the libraries that only other parts of it need."""
    sys.modules["torch"] = None  # type: ignore[assignment] - tvm_ffi does without it if it is missing
    import tvm_ffi  # noqa: F401

    for name in ("torch", "transformers"):
        sys.modules[name] = Anything(name)
    import xgrammar

    return xgrammar


class Anything(types.ModuleType):
    """A module whose attributes exist and do nothing."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {"__init__": lambda *_, **__: None})


def begin(trial: dict[str, Any], xgrammar: Any, vocabulary: Any) -> int:
    """Start a trial. Returns the process id."""
    process = os.fork()
    if process:
        return process
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        limit_memory()
        answer(trial["id"], *tried(trial, xgrammar, vocabulary))
        os._exit(0)
    except MemoryError:
        os._exit(2)
    finally:
        os._exit(3)


def tried(trial: dict[str, Any], xgrammar: Any, vocabulary: Any) -> tuple[str, float, int]:
    text = trial["text"]
    limit_cpu(READING_S)
    try:
        if trial["kind"] == "tag":
            xgrammar.Grammar.from_structural_tag(text)
        else:
            xgrammar.Grammar.from_json_schema(text)
        limit_cpu(trial["seconds"])
        before = time.process_time()
        # With its cache, as engines have it: xgrammar 0.2 fails on some patterns only then, such as .{0,1000}.
        compiler = xgrammar.GrammarCompiler(vocabulary, max_threads=1, cache_enabled=True)
        compile_ = compiler.compile_structural_tag if trial["kind"] == "tag" else compiler.compile_json_schema
        grammar = compile_(text)
    except Exception:
        return "invalid", 0, 0
    seconds = time.process_time() - before
    size = grammar.memory_size_bytes
    if size > LARGEST_GRAMMAR_BYTES:
        return "complex", seconds, size
    limit_cpu(WALK_S)
    return ("accepted" if goes_on(xgrammar, grammar, vocabulary) else "impossible"), seconds, size


def goes_on(xgrammar: Any, grammar: Any, vocabulary: Any) -> bool:
    """Whether there is a token to go on with, after each of some tokens chosen at random."""
    import numpy as np

    matcher = xgrammar.GrammarMatcher(grammar)
    size = vocabulary.vocab_size
    mask = np.zeros((1, (size + 31) // 32), np.int32)
    chance = random.Random(0)
    for _ in range(STEPS):
        matcher.fill_next_token_bitmask(mask)
        allowed = np.flatnonzero(np.unpackbits(mask.view(np.uint8), bitorder="little")[:size])
        if not len(allowed):
            return False
        if not matcher.accept_token(int(allowed[chance.randrange(len(allowed))])) or matcher.is_terminated():
            return True
    return True


def limit_cpu(seconds: float) -> None:
    """Die after this much more CPU time, of all threads."""
    signal.setitimer(signal.ITIMER_PROF, seconds)


def limit_memory() -> None:
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def bury(under_way: dict[int, Any]) -> None:
    """Answer for those who died without an answer."""
    while under_way:
        process, status = os.waitpid(-1, os.WNOHANG)
        if not process:
            return
        trial = under_way.pop(process)
        if status:
            too_long = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGPROF
            answer(trial, "slow" if too_long else "complex")


def answer(trial: Any, verdict: str, seconds: float = 0, size: int = 0) -> None:
    """Write an answer, in one piece: several processes write to this pipe."""
    line = json.dumps({"id": trial, "verdict": verdict, "seconds": seconds, "bytes": size}) + "\n"
    os.write(1, line.encode())


if __name__ == "__main__":
    main()
