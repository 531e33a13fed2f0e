"""The locks hold what their inputs and pyproject.toml ask for, for each Python, and nothing that must not be there."""

import importlib.metadata
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
REQUIREMENTS = ROOT / "requirements"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LINE = re.compile(r'([a-z0-9-]+)==(\S+)( ; python_version in "[\d. ]+")?((?: --hash=sha256:[0-9a-f]{64})+)')


def load_lock_py():
    specification = importlib.util.spec_from_file_location("lock", REQUIREMENTS / "lock.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


lock = load_lock_py()


def read(name: str) -> dict[str, tuple[str, list[str]]]:
    """Version and hashes by name. Every line must be one."""
    lines = [line for line in (REQUIREMENTS / name).read_text().splitlines() if not line.startswith("#")]
    found = [LINE.fullmatch(line) for line in lines]
    assert None not in found, lines[found.index(None)]
    assert len({match[1] for match in found}) == len(found)
    return {match[1]: (match[2], match[4].split()) for match in found}


def requirements(name: str) -> list[Requirement]:
    lines = [line.split("#")[0].strip() for line in (REQUIREMENTS / name).read_text().splitlines()]
    return [Requirement(line) for line in lines if line]


CPU, DEV, GPU = read("cpu.txt"), read("dev.txt"), read("gpu.txt")


def lacking(wanted: list[Requirement], *locks: dict[str, tuple[str, list[str]]]) -> list[str]:
    versions = {name: version for each in locks for name, (version, _) in each.items()}
    wanted_and_locked = [(one, versions.get(canonicalize_name(one.name))) for one in wanted]
    return [
        f"{requirement}, locked: {version}"
        for requirement, version in wanted_and_locked
        if version is None or not requirement.specifier.contains(version, prereleases=True)
    ]


@pytest.mark.parametrize(
    ("source", "locks"), [("cpu.in", [CPU]), ("dev.in", [CPU, DEV]), ("gpu.in", [GPU])], ids=["cpu", "dev", "gpu"]
)
def test_a_lock_satisfies_its_input(source, locks):
    assert lacking(requirements(source), *locks) == []


def test_the_locks_satisfy_the_project():
    extras = {name: [Requirement(line) for line in lines] for name, lines in PROJECT["optional-dependencies"].items()}
    always = [Requirement(line) for line in PROJECT["dependencies"]]
    assert lacking(always, CPU) == []
    assert lacking(always, GPU) == []
    assert lacking([each for each in extras["cpu"] if each.name != "torch"], CPU) == []
    assert lacking(extras["gpu"], GPU) == []
    assert lacking(extras["dev"] + extras["loadtest"], CPU, DEV) == []


def test_the_tests_change_nothing_that_is_served():
    assert CPU.keys() & DEV.keys() == set()


def test_neither_torch_nor_cuda_is_in_the_locks_for_cpus():
    unwanted = re.compile(r"torch|torchvision|torchaudio|torchcodec|triton|(nvidia|cuda)-.*")
    assert [name for name in CPU | DEV if unwanted.fullmatch(name)] == []


def test_a_package_that_is_built_for_each_python_has_a_wheel_for_each():
    """The names of compiled modules tell, of what is installed here: those for one Python have it in their names."""
    one_python = f".{sys.implementation.cache_tag}-"
    seen = 0
    for name, (_, hashes) in (CPU | DEV).items():
        try:
            record = importlib.metadata.distribution(name).read_text("RECORD") or ""
        except importlib.metadata.PackageNotFoundError:
            continue
        if re.search(rf"{re.escape(one_python)}[\w-]+\.so,", record):
            seen += 1
            assert len(hashes) > 1, name
    assert seen > 10


def test_every_place_names_the_same_pythons():
    minors = [int(python.split(".")[1]) for python in lock.PYTHONS]
    allowed = SpecifierSet(PROJECT["requires-python"])
    assert [minor for minor in range(30) if allowed.contains(f"3.{minor}.1")] == minors
    for name in ("cpu.txt", "dev.txt"):
        assert f"CPython {', '.join(lock.PYTHONS)}." in (REQUIREMENTS / name).read_text().splitlines()[0]
    venv = (REQUIREMENTS / "venv.sh").read_text()
    assert {int(minor) for minor in re.findall(r"\(3, (\d+)\)", venv)} == set(minors)
    assert {int(minor) for minor in re.findall(r"python3\.(\d+)", venv)} == set(minors)
    preflight = (ROOT / "medley" / "local" / "preflight.py").read_text()
    low, high = re.search(r"\(3, (\d+)\) <= sys.version_info\[:2\] <= \(3, (\d+)\)", preflight).groups()
    assert [int(low), int(high)] == [minors[0], minors[-1]]


class Pip:
    """Answers in pip's place: what each Python would install."""

    def __init__(self, monkeypatch, **packages: list[tuple[str, str, str]]):
        self.packages = packages
        self.pins: list[dict[str, str]] = []
        monkeypatch.setattr(lock.Locking, "_ask_pip", self.ask)

    def ask(self, python, arguments, env) -> list[dict]:
        return [
            {
                "metadata": {"name": name, "version": version},
                "download_info": {"archive_info": {"hashes": {"sha256": sha * 64}}},
            }
            for name, version, sha in self.packages["py" + python.replace(".", "")]
        ]


def test_a_lock_has_one_version_and_all_wheels(monkeypatch, tmp_path):
    compiled, pure, older, cuda = "Com_piled", "pure", "back.port", "nvidia-cublas"
    Pip(
        monkeypatch,
        py311=[(compiled, "2", "a"), (pure, "1", "c"), (older, "3", "d"), ("torch", "2+cpu", "e")],
        py313=[(compiled, "2", "b"), (pure, "1", "c"), (cuda, "13", "e"), ("torch", "2", "f")],
    )
    locking = lock.Locking(["3.11", "3.13"], {}, lock.LEFT_OUT)
    locking.write(tmp_path / "cpu.txt", locking.resolve("anything"))
    assert [line for line in (tmp_path / "cpu.txt").read_text().splitlines() if not line.startswith("#")] == [
        f'back-port==3 ; python_version in "3.11" --hash=sha256:{"d" * 64}',
        f"com-piled==2 --hash=sha256:{'a' * 64} --hash=sha256:{'b' * 64}",
        f"pure==1 --hash=sha256:{'c' * 64}",
    ]
    assert locking.pins == {"com-piled": "2", "pure": "1", "back-port": "3"}, "torch is another build for each"
