"""The hardware that speed depends on. Measurements are valid only on hardware like that they were made on."""

from __future__ import annotations

import platform
import subprocess
from functools import cache
from pathlib import Path

import psutil

from models.sources import Spec

# Instruction sets that kernels choose between. Two CPUs that differ in one are different hardware, whatever their name.
FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16")


class Hardware(Spec):
    """
    Attributes:
        cpu: its name and the instruction sets that matter here. cores: those that this process may use.
        memory_gib: shown to people only. gpus: names.
    """

    cpu: str
    cores: int
    memory_gib: int
    gpus: tuple[str, ...] = ()

    def is_like(self, other: Hardware) -> bool:
        return (self.cpu, self.cores, self.gpus) == (other.cpu, other.cores, other.gpus)

    def __str__(self) -> str:
        return f"{self.cores} cores of {self.cpu}, {self.memory_gib} GiB" + "".join(f", {gpu}" for gpu in self.gpus)


@cache
def this_hardware() -> Hardware:
    name, flags = _cpu()
    return Hardware(
        cpu=" ".join([name, *(flag for flag in FLAGS if flag in flags)]),
        cores=len(psutil.Process().cpu_affinity() or ()) or psutil.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        gpus=tuple(gpus()),
    )


def gpus() -> list[str]:
    """The names of this machine's GPUs, from the driver's own tool, which needs no library. Empty without a driver."""
    try:
        command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []


def _cpu() -> tuple[str, frozenset[str]]:
    """Name and flags from /proc/cpuinfo on Linux; elsewhere what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = facts.get("flags") or facts.get("Features") or ""
    return facts.get("model name") or platform.machine(), frozenset(flags.split())
