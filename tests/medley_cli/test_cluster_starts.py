"""How Ray is started here, with a program in its place that writes down what it was started with."""

import json
import os
import re
import socket
import stat
import sys
from types import SimpleNamespace

import psutil
import pytest
import typer

from medley import main
from medley.local import cluster, run_folder
from medley.local.cluster import ClusterError
from medley.local.home import auth_token_file

RAY = f"""#!{sys.executable}
import json, os, pathlib, sys
told = {{"arguments": sys.argv[1:], "session": os.getsid(0), "environment": dict(os.environ)}}
pathlib.Path(__file__).with_name("told.json").write_text(json.dumps(told))
sys.exit(os.environ.get("RAY_ENDS_WITH"))
"""


@pytest.fixture
def started(tmp_path, monkeypatch):
    """Starts it, and gives what it was started with."""
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(run_folder, "RUN", tmp_path / "run")
    ray = tmp_path / "ray"
    ray.write_text(RAY)
    ray.chmod(0o755)
    monkeypatch.setattr(cluster, "sys", SimpleNamespace(executable=str(tmp_path / "python")))

    def start(cpus=None):
        cluster.start_ray(cpus)
        return SimpleNamespace(**json.loads((tmp_path / "told.json").read_text()))

    return start


def test_it_outlives_the_terminal(started):
    """What a terminal ends with Ctrl+C is its session."""
    assert started().session != os.getsid(0)


def test_it_listens_to_this_machine_only(started):
    told = started().arguments
    hosts = [value for name, _, value in (word.partition("=") for word in told) if re.search("host|ip-address", name)]
    assert hosts
    assert set(hosts) == {"127.0.0.1"}


def test_it_asks_for_a_token_that_its_owner_alone_can_read(started):
    told = started().environment
    assert told["RAY_AUTH_MODE"] == "token"
    assert told["RAY_AUTH_TOKEN_PATH"] == str(auth_token_file())
    assert len(auth_token_file().read_text()) >= 32
    assert stat.S_IMODE(auth_token_file().stat().st_mode) == 0o600


def test_what_it_keeps_is_for_its_owner_alone(started, tmp_path):
    told = started()
    folder = tmp_path / "run"
    assert f"--temp-dir={folder}/ray" in told.arguments
    kept = {
        name: value for name, value in told.environment.items() if re.search("HAPROXY.*(LOC|PATH|BASE|FILE)$", name)
    }
    del kept["RAY_SERVE_HAPROXY_BINARY_PATH"]
    assert len(kept) == 5
    assert all(value.startswith(f"{folder}/edge") for value in kept.values())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_ray_says_what_is_free(started):
    """A deploy decides by it whether a new version fits beside the old one. Ray's monitor tells it."""
    assert "--no-monitor" not in started().arguments


@pytest.mark.parametrize("harm", ["others may enter", "a link", "a file"])
def test_a_folder_that_is_not_ours_alone_is_refused(started, tmp_path, harm):
    folder = tmp_path / "run"
    if harm == "a link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(tmp_path / "elsewhere")
    elif harm == "a file":
        folder.touch(0o600)
    else:
        folder.mkdir()
        folder.chmod(0o701)
    with pytest.raises(ClusterError, match=f"{folder}"):
        started()


def test_what_listens_for_other_machines_is_told(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)), socket.create_server(("0.0.0.0", 0)) as exposed:
        monkeypatch.setattr(cluster, "processes", lambda: [psutil.Process()])
        assert cluster.open_to_others() == {exposed.getsockname()[1]: psutil.Process().name()}


def test_it_counts_on_as_many_cpus_as_it_is_told(started):
    assert "--num-cpus=3" in started(3).arguments
    assert not [word for word in started().arguments if word.startswith("--num-cpus")]


def test_why_it_did_not_start_is_told(started, monkeypatch):
    monkeypatch.setenv("RAY_ENDS_WITH", "no room")
    with pytest.raises(ClusterError, match="no room"):
        started()


@pytest.mark.parametrize("error", [ClusterError("a model does not come up"), KeyboardInterrupt()])
def test_a_cluster_that_does_not_come_up_is_stopped_again(monkeypatch, error):
    calls = []

    def breaks(*_):
        calls.append("deploy")
        raise error

    monkeypatch.setattr(main.cluster, "start_ray", lambda cpus: calls.append("start"))
    monkeypatch.setattr(main.cluster, "stop", lambda: calls.append("stop"))
    monkeypatch.setattr(main, "start", breaks)
    with pytest.raises(typer.Exit):
        main.bring_up(SimpleNamespace(), 1, None)  # type: ignore[arg-type]
    assert calls == ["start", "deploy", "stop"]
