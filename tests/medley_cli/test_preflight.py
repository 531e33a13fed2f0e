"""What would stop the cluster from starting is said before anything starts, with the remedy."""

import dataclasses
import socket
from collections import namedtuple
from pathlib import Path

import pytest
import yaml

from medley.checks.config import read_config
from medley.local import preflight
from medley.local.home import auth_token_file
from models.specs import Backend

ROOT = Path(__file__).parents[2]
Memory = namedtuple("Memory", "available")


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def config(tmp_path, free_port, monkeypatch):
    """The starter config on ports that nobody uses, on a machine with room."""
    document = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    document["http_options"]["port"] = free_port
    file = tmp_path / "serve_config.yaml"
    file.write_text(yaml.safe_dump(document))
    monkeypatch.setenv("MEDLEY_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(preflight, "HEAD_PORT", free_port)
    monkeypatch.setattr(preflight, "DASHBOARD_PORT", free_port)
    monkeypatch.setattr(preflight, "LIBNUMA", "libc.so.6")  # is everywhere
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: Memory(32 << 30))
    return read_config(file)


def test_a_machine_with_room_has_no_problems(config):
    assert preflight.problems(config, cpus=2) == []


def test_a_port_in_use_is_named_with_who_uses_it(config, free_port):
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind(("127.0.0.1", free_port))
        taken.listen()
        problem, *_ = preflight.problems(config, cpus=2)
    assert problem.startswith(f"Port {free_port} is in use by ")
    assert problem.endswith("Stop that program or choose another port.")


def test_a_token_that_others_may_know_is_said_before_weights_are_fetched(config):
    auth_token_file().chmod(0o644)
    (problem,) = preflight.problems(config, cpus=2)
    assert "was open to other users (mode 0644)" in problem


def test_a_checkout_that_was_not_set_up_anew_is_told_to(config, monkeypatch, tmp_path):
    monkeypatch.setattr(preflight, "launcher", lambda: tmp_path / "medley-edge")
    (problem,) = preflight.problems(config, cpus=2)
    assert "Run `make setup`" in problem


def test_a_system_without_the_library_of_vllm_is_told_its_package(config, monkeypatch):
    monkeypatch.setattr(preflight, "LIBNUMA", "libnuma-that-is-nowhere.so.1")
    (problem,) = preflight.problems(config, cpus=2)
    assert problem.startswith("smollm2-135m-instruct: vLLM needs libnuma, which was not found.")
    assert "apt-get install libnuma1" in problem


@pytest.mark.parametrize("models", ["without vLLM", "on GPUs"])
def test_the_library_of_vllm_is_asked_for_only_where_vllm_runs_on_a_cpu(config, monkeypatch, models):
    monkeypatch.setattr(preflight, "LIBNUMA", "libnuma-that-is-nowhere.so.1")
    if models == "on GPUs":
        config = read_config(ROOT / "serve_config.gpu.yaml")
    else:
        rest = [model for model in config.models if model.variant.backend is not Backend.VLLM]
        config = dataclasses.replace(config, models=rest)
    assert not any("libnuma" in problem for problem in preflight.problems(config, cpus=64))


def test_too_little_memory_is_told_in_numbers(config, monkeypatch):
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: Memory(3 << 30))
    at_once = [model.variant.needs.memory_gib for model in config.models if not model.sleeps]
    assert len(at_once) < len(config.models)
    (problem,) = preflight.problems(config, cpus=2)
    assert problem == (
        f"{1.5 + sum(at_once):.1f} GiB of memory are needed and 3.0 GiB are free. "
        "Close something, or take a model out of serve_config.yaml."
    )


def test_too_few_cpus_are_told_in_numbers(config):
    needed = 0.2 + sum(model.variant.needs.cpus for model in config.models)
    (problem,) = preflight.problems(config, cpus=1)
    assert problem == f"{needed:g} CPUs are needed and the machine has 1. Take a model out of serve_config.yaml."


def test_models_that_need_all_cpus_to_the_last_tenth_fit(config):
    (tenth, *_) = [model for model in config.models if model.variant.needs.cpus == 0.1]
    assert preflight.problems(dataclasses.replace(config, models=[tenth] * 18), cpus=2) == []
    assert preflight.problems(dataclasses.replace(config, models=[tenth] * 19), cpus=2) != []


def test_a_gpu_config_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(preflight.psutil, "virtual_memory", lambda: Memory(512 << 30))
    found = preflight.problems(read_config(ROOT / "serve_config.gpu.yaml"), cpus=64)
    assert any("need a GPU and none was found" in problem for problem in found)
