"""What is said where the words of a command were probably meant for another, and of a token that cannot be trusted."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor

import pytest
from fake_serve import CHAT
from typer.testing import CliRunner

from medley.local import cluster
from medley.local.home import auth_token_file, make_home
from medley.main import app


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(cluster, "DASHBOARD_PORT", 1)
    return tmp_path / "home"


def run(*words):
    # A width at which no line is broken.
    return CliRunner().invoke(app, words, env={"COLUMNS": "400", "TERMINAL_WIDTH": "400"})


@pytest.mark.parametrize("words", [(CHAT,), ("status", CHAT), ("top", CHAT), ("down", f"{CHAT}@vllm-cpu")])
def test_a_model_named_to_a_command_that_takes_none_is_told_to_the_one_that_does(words):
    done = run(*words)
    assert done.exit_code == 2
    assert f"`medley doctor {words[-1]}`" in " ".join(done.output.split())


def test_another_slip_is_told_as_ever():
    done = run("status", "now")
    assert done.exit_code == 2
    assert "doctor" not in done.output


def test_the_token_is_made_on_first_use_in_a_folder_of_its_owner_alone(home):
    token = auth_token_file().read_text()
    assert len(token) == 64
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert stat.S_IMODE(auth_token_file().stat().st_mode) == 0o600
    assert auth_token_file().read_text() == token


def test_a_folder_that_was_there_stays_as_it_was(home):
    home.mkdir(mode=0o755)
    make_home()
    assert stat.S_IMODE(home.stat().st_mode) == 0o755


def test_two_first_uses_at_once_agree(home):
    with ThreadPoolExecutor(8) as pool:
        assert len({file.read_text() for file in pool.map(lambda _: auth_token_file(), range(32))}) == 1


UNSAFE = {
    "was open to other users (mode 0644)": lambda file: file.chmod(0o644),
    "was open to other users (mode 0620)": lambda file: file.chmod(0o620),
    "it is empty": lambda file: file.write_text(""),
    "holds 5 characters": lambda file: file.write_text("short"),
    "is a link": lambda file: file.rename(file.with_name("elsewhere")) and file.symlink_to("elsewhere"),
    "is not a plain file": lambda file: (file.unlink(), file.mkdir()),
}


@pytest.mark.parametrize("words", UNSAFE)
def test_a_token_that_others_may_know_is_refused_with_the_remedy(home, words):
    UNSAFE[words](auth_token_file())
    command = [("status",), ("env",), ("deploy", "serve_config.yaml"), ("top", "--once"), ("doctor",)][len(words) % 5]
    done = run(*command)
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert words in done.output
    assert "Remove it: a new one is made with the next use. If a cluster runs, `medley down` first" in done.output


def test_a_token_of_another_user_is_refused(home, monkeypatch):
    auth_token_file()
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    assert "belongs to another user" in run("env").output
