"""A variant in a separate process, to run and measure it from outside."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

from models.specs import ModelSpec, VariantSpec
from workshop.evaluation.evaluation import Answers, Fraction

ENDS_WITHIN_S = 20


class TrialFailed(RuntimeError):
    """A variant could not be loaded, or died. The message, for operators, has the end of its process's output."""


@dataclass(frozen=True, slots=True)
class Work:
    """
    Attributes:
        cpu_seconds: of all processes of the variant. within: times that only the engine knows, in seconds by name.
    """

    seconds: float
    cpu_seconds: float
    within: Mapping[str, float]


class Trial:
    """
    Attributes:
        load_s: from the start of the process until it could answer.
    """

    def __init__(self, spec: ModelSpec, variant: VariantSpec, weights: Path):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed by `close`
        began = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "workshop.evaluation.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=environment_of(variant),
            start_new_session=True,  # so that the whole process group can be ended
        )
        self._tree = psutil.Process(self._process.pid)
        try:
            load = {"spec": as_json(spec), "variant": as_json(variant), "weights": str(weights)}
            self._ask(load, lambda done: None)
        except BaseException:
            self.close()
            raise
        self.load_s = time.monotonic() - began

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def answers(self, fraction: Fraction = lambda done: None) -> Answers:
        """The variant's answers to the evaluation set.

        Raises:
            TrialFailed
        """
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "answers.npz"
            self._ask({"do": "answers", "to": str(file)}, fraction)
            with np.load(file) as saved:
                return {name: saved[name] for name in saved.files}

    def work(self, batch: int, turn: int) -> Work:
        """One request with this many items. Raises TrialFailed."""
        before = self._cpu_seconds()
        answer = self._ask({"do": "work", "batch": batch, "turn": turn}, lambda done: None)
        return Work(answer["seconds"], self._cpu_seconds() - before, answer["within"])

    def peak_memory(self) -> int:
        """The sum of the peak resident bytes of all processes."""
        return sum(highest_resident(process.pid) for process in self._processes())

    def device_memory(self) -> int | None:
        return self._ask({"do": "device_memory"}, lambda done: None)["bytes"]

    def close(self) -> None:
        """End the process and all its children."""
        if self._process.stdin:
            self._process.stdin.close()
        try:
            self._process.wait(ENDS_WITHIN_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._errors.close()

    def _ask(self, order: dict[str, Any], fraction: Fraction) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        try:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None
        for line in self._process.stdout:
            answer = json.loads(line)
            if "done" in answer:
                return answer
            fraction(answer["fraction"])
        raise self._failure()

    def _failure(self) -> TrialFailed:
        self._errors.seek(0)
        lines = self._errors.read().strip().splitlines()
        return TrialFailed("\n".join(lines[-15:]) or "Its process ended without a word.")

    def _processes(self) -> list[psutil.Process]:
        try:
            return [self._tree, *self._tree.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _cpu_seconds(self) -> float:
        seconds = 0.0
        for process in self._processes():
            try:
                times = process.cpu_times()
            except psutil.NoSuchProcess:
                continue
            seconds += times.user + times.system
        return seconds


def environment_of(variant: VariantSpec) -> dict[str, str]:
    """A replica's environment: as many threads as CPUs, and the variables of its catalog row."""
    threads = str(max(1, round(variant.needs.cpus)))
    return {**os.environ, "OMP_NUM_THREADS": threads, "TOKENIZERS_PARALLELISM": "false", **variant.env}


def as_json(spec: ModelSpec | VariantSpec) -> dict[str, Any]:
    """In the form of a catalog row, in which a model has no name with a variant."""
    named = {"id": spec.row} if isinstance(spec, ModelSpec) else {}
    return {**spec.model_dump(mode="json"), **named}


def highest_resident(pid: int) -> int:
    """Bytes; 0 for a process that has ended. See VmHWM in proc(5)."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    lines = (line.split() for line in status.splitlines())
    return next((int(line[1]) * 1024 for line in lines if line and line[0] == "VmHWM:"), 0)
