"""The process that runs a variant under test: `python -m workshop.evaluation.worker`.

It reads each command as a line of JSON and answers with a line. Output of libraries goes to standard error. Each
variant has its own process, so that its memory and CPU time can be measured.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from models.specs import ModelSpec, VariantSpec
from workshop.evaluation.evaluation import Subject, evaluation_of


def main() -> None:
    tell = answering_alone()
    orders = (json.loads(line) for line in sys.stdin)
    load = next(orders)
    spec, variant = ModelSpec.model_validate(load["spec"]), VariantSpec.model_validate(load["variant"])
    subject = evaluation_of(spec.task).open(spec, variant, Path(load["weights"]))
    tell({"done": "load"})
    try:
        obey(subject, orders, tell)
    finally:
        subject.close()


def obey(subject: Subject, orders: Iterator[dict[str, Any]], tell: Callable[[dict[str, Any]], None]) -> None:
    for order in orders:
        match order["do"]:
            case "answers":
                answers = subject.answers(lambda done: tell({"fraction": done}))
                np.savez(order["to"], allow_pickle=False, **answers)
                tell({"done": "answers"})
            case "work":
                began = time.perf_counter()
                within = dict(subject.work(order["batch"], order["turn"]))
                tell({"done": "work", "seconds": time.perf_counter() - began, "within": within})
            case "device_memory":
                tell({"done": "device_memory", "bytes": device_memory()})


def answering_alone() -> Callable[[dict[str, Any]], None]:
    """Keep standard output for answers. All other output, also from C, goes to standard error from now on."""
    answers: TextIO = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda answer: print(json.dumps(answer), file=answers, flush=True)


def device_memory() -> int | None:
    """The peak bytes of GPU memory that torch held; None without a GPU."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return None
    return torch.cuda.max_memory_reserved()


if __name__ == "__main__":
    main()
