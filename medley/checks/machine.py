"""What this machine has in total, and which needs of a replica it can never meet."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass

import psutil

from models.specs import Needs

GIB = 1 << 30


@dataclass(frozen=True, slots=True)
class Machine:
    cpus: int
    gpus: int
    memory_gib: float


def this_machine() -> Machine:
    return Machine(psutil.cpu_count() or 1, _gpus(), psutil.virtual_memory().total / GIB)


def _gpus() -> int:
    with contextlib.suppress(Exception):
        from ray._private.accelerators import NvidiaGPUAcceleratorManager

        return NvidiaGPUAcceleratorManager.get_current_node_num_accelerators()
    return 0


def shortfalls(needs: Needs, machine: Machine) -> str:
    """Which needs of one replica exceed the machine: `4 of this machine's 2 CPUs, 1 of its 0 GPUs`. Empty if none."""
    amounts = [
        (needs.cpus, machine.cpus, "CPUs"),
        (needs.gpus, machine.gpus, "GPUs"),
        (needs.memory_gib, round(machine.memory_gib, 1), "GiB of memory"),
    ]
    short = [f"{need:g} of its {have:g} {what}" for need, have, what in amounts if need > have]
    return ", ".join(short).replace("its", "this machine's", 1)
