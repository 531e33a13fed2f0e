"""requirements/venv.sh on machines of every kind: commands that answer as theirs do, and nothing else on the PATH."""

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "requirements" / "venv.sh"

PYTHON = """
case "$*" in
--version) echo Python {version}.9 ;;
*version_info*) {locked} ;;
*ensurepip*) exit {lacks} ;;
"-m venv"*) echo "made with $0: $3" ;;
esac
"""


class Machine:
    def __init__(self, folder: Path):
        self.folder = folder
        (folder / "home").mkdir()

    def has(self, command: str, script: str = "") -> "Machine":
        file = self.folder / command
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        return self

    def has_python(self, command: str, version: str, lacks_venv: bool = False) -> "Machine":
        locked = f"echo {version}" if version in ("3.11", "3.12", "3.13") else ":"
        return self.has(command, PYTHON.format(version=version, locked=locked, lacks=int(lacks_venv)))

    def run(self, *arguments: str, user: int = 1000) -> tuple[int, str]:
        self.has("id", f"echo {user}")
        environment = {"PATH": str(self.folder), "HOME": str(self.folder / "home")}
        done = subprocess.run(
            ["/bin/sh", str(SCRIPT), "the-venv", *arguments],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout + done.stderr


@pytest.fixture
def machine(tmp_path) -> Machine:
    return Machine(tmp_path)


def made_with(machine: Machine, command: str) -> str:
    return f"made with {machine.folder / command}: the-venv"


def test_the_first_python_that_fits_is_taken(machine):
    machine.has_python("python3", "3.14").has_python("python3.13", "3.13").has_python("python3.12", "3.12")
    status, said = machine.run()
    assert status == 0
    assert "Making the virtual environment the-venv with Python 3.12" in said
    assert made_with(machine, "python3.12") in said


def test_a_python_that_only_its_own_name_gives_away_is_found(machine):
    machine.has_python("python3", "3.13")
    assert made_with(machine, "python3") in machine.run()[1]


def test_a_version_manager_s_command_that_only_fails_is_passed_over(machine):
    machine.has("python3.11", "echo no such version >&2; exit 127").has_python("python3.13", "3.13")
    status, said = machine.run()
    assert (status, "no such version" in said) == (0, False)
    assert made_with(machine, "python3.13") in said


def test_a_python_without_venv_is_passed_over(machine):
    machine.has_python("python3.11", "3.11", lacks_venv=True).has_python("python3.12", "3.12")
    assert made_with(machine, "python3.12") in machine.run()[1]


@pytest.mark.parametrize("place", ["uv", "home/.local/bin/uv"])
def test_uv_brings_a_python_where_none_fits(machine, place):
    machine.has_python("python3", "3.14").has_python("python3.13", "3.13", lacks_venv=True).has(place, 'echo "uv: $*"')
    status, said = machine.run()
    assert status == 0
    assert "uv: venv" in said
    assert "--seed" in said, "pip must be in it"
    assert said.rstrip().endswith("the-venv")


def test_uv_that_fails_fails(machine):
    assert machine.has("uv", "exit 2").run()[0] == 2


def test_uv_is_not_asked_where_a_python_fits(machine):
    machine.has("uv", "echo uv was asked").has_python("python3", "3.12")
    assert "uv was asked" not in machine.run()[1]


@pytest.mark.parametrize(("user", "command"), [(0, "Run: apt-get install"), (1000, "Run: sudo apt-get install")])
def test_debian_is_told_the_package_with_venv(machine, user, command):
    machine.has_python("python3", "3.13", lacks_venv=True).has("apt-get")
    status, said = machine.run(user=user)
    assert status == 1
    assert said.rstrip().endswith(f"{command} python3.13-venv")


def test_debian_without_a_python_is_told_one_that_it_has(machine):
    machine.has_python("python3", "3.10").has("apt-get").has("apt-cache", '[ "$2" = python3.12-venv ]')
    status, said = machine.run()
    assert status == 1
    assert said.rstrip().endswith("sudo apt-get install python3.12-venv")


def test_fedora_is_told_its_package(machine):
    status, said = machine.has_python("python3", "3.14").has("dnf").run()
    assert status == 1
    assert said.rstrip().endswith("sudo dnf install python3.12")


@pytest.mark.parametrize("lacks", [[], ["apt-get"]], ids=["another system", "Debian with too old a Python"])
def test_whoever_has_no_package_is_told_how_to_get_uv(machine, lacks):
    for command in lacks:
        machine.has(command).has("apt-cache", "exit 100")
    status, said = machine.run()
    assert status == 1
    assert said.rstrip().endswith("uv/install.sh | sh")
    assert machine.has("pipx").run()[1].rstrip().endswith("pipx install uv")


def test_the_named_python_is_taken_and_no_other(machine):
    machine.has_python("python3.11", "3.11").has_python("mine", "3.13").has_python("new", "3.14")
    assert made_with(machine, "mine") in machine.run("mine")[1]
    assert machine.run("new") == (1, "new is Python 3.14.9; the locked packages are for Python 3.11, 3.12 and 3.13.\n")
    assert machine.run("absent") == (1, "absent was not found.\n")
    status, said = machine.has_python("bare", "3.12", lacks_venv=True).run("bare")
    assert status == 1
    assert said.rstrip().endswith("sudo apt-get install python3.12-venv")


def test_this_machine_s_own_python_makes_one(tmp_path):
    """For real, but for pip, which takes a second to copy."""
    tried = tmp_path / "python"
    real = os.path.realpath(os.sys.executable)
    tried.write_text(f'#!/bin/sh\n[ "$2" = venv ] && set -- "$@" --without-pip\nexec {real} "$@"\n')
    tried.chmod(0o755)
    done = subprocess.run(["/bin/sh", SCRIPT, tmp_path / "made", tried], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made" / "bin" / "python").exists()
