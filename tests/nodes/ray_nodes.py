"""A Ray cluster of several machines, as KubeRay runs one: a head, a group of CPU nodes for the routers, and a group of
GPU nodes that Ray's autoscaler asks for and gives back. The GPUs exist only in Ray's books."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import node_provider
import yaml
from namespaces import NETWORK, OUTSIDE, Machine, until

from deployments.model import SINGLE_LOOP

ROOT = Path(__file__).parents[2]
MODEL, ROUTER = "all-minilm-l6-v2", "router"
HEAD = f"{NETWORK}.2"
GROUP_LABEL = "ray.io/node-group"
GROUPS = {"cpu": {"CPU": 1}, "gpu": {"CPU": 1, "GPU": 1}}
IDLE_S = 15
# Shorter than Ray's, so that tests are: how long what leaves waits for a load balancer that has not noticed.
DRAINING_S = 8
STOP_GRACE_S = 5
COMMANDS = (
    "initialization_commands", "setup_commands", "head_setup_commands", "worker_setup_commands",
    "head_start_ray_commands", "worker_start_ray_commands",
)  # fmt: skip
Replica = tuple[str, int]


class Cluster:
    """
    Args:
        redis: host and port of the store that Ray's head keeps its state in; None for its own memory.
    """

    def __init__(self, folder: Path, redis: str | None):
        self.folder = folder
        self.wanted = folder / "wanted"
        self.wanted.mkdir()
        self.token = secrets.token_hex(32)
        self.redis = redis
        self.machines: dict[str, Machine] = {}
        self.release = "1"
        self._numbers = iter(range(3, 250))
        self._closed = threading.Event()
        self._rest = httpx.Client(
            base_url=f"http://{HEAD}:8265",
            headers={"Authorization": f"Bearer {self.token}"},
            timeout=30,
            trust_env=False,
        )
        (folder / "autoscaler.yaml").write_text(yaml.safe_dump(self._autoscaler()))
        self._watcher = threading.Thread(target=self._start_and_end_what_is_wanted)
        self._watcher.start()
        try:
            self.start_head()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End every process of every machine."""
        self._closed.set()
        self._watcher.join()
        for machine in self.machines.values():
            machine.kill()
        self._rest.close()

    # Machines

    def start_head(self) -> None:
        """Start Ray's head, at the address it had before."""
        options = [
            "--head", f"--node-ip-address={HEAD}", "--port=6379", "--num-cpus=0", "--num-gpus=0",
            "--dashboard-host=0.0.0.0", f"--autoscaling-config={self.folder / 'autoscaler.yaml'}",
        ]  # fmt: skip
        node_provider.write(self.wanted, "head", node_provider.tags_of("head", "head"))
        # `ray start` gives its processes half a minute, which is not always enough; Kubernetes starts it again as well.
        for last_try in (False, False, True):
            self._start("head", 2, options)
            try:
                self.wait("the head answers", lambda: self._rest.get("/api/serve/applications/").is_success)
            except AssertionError:
                if last_try or self.machines["head"].alive:
                    raise
            else:
                return

    def add(self, group: str) -> Machine:
        """A node of a group that the autoscaler has not asked for."""
        name = f"{group}-{secrets.token_hex(2)}"
        node_provider.write(self.wanted, name, node_provider.tags_of("worker", group))
        self.wait(f"{name} starts", lambda: name in self.machines)
        return self.machines[name]

    def nodes(self, group: str) -> list[Machine]:
        return [one for name, one in list(self.machines.items()) if name.startswith(group) and one.alive]

    def workers(self) -> list[Machine]:
        return [one for group in GROUPS for one in self.nodes(group)]

    def node_at(self, address: str) -> Machine:
        (found,) = [one for one in self.machines.values() if one.address == address and one.alive]
        return found

    def kill(self, machine: Machine) -> None:
        """End all its processes at once, and forget it."""
        machine.kill()
        if machine.name != "head":  # which comes back
            (self.wanted / f"{machine.name}.json").unlink(missing_ok=True)

    def drain(self, machine: Machine, deadline_s: float) -> str:
        """The preStop hook. Returns what it said."""
        hook = (sys.executable, "-m", "medley.node.drain", f"--deadline={deadline_s}")
        done = machine.run(*hook, timeout=deadline_s + 60)
        assert done.returncode == 0, done.stderr
        return done.stderr.strip()

    def stop(self, machine: Machine) -> None:
        """What comes after the hook: SIGTERM, a grace, SIGKILL."""
        machine.terminate(STOP_GRACE_S)
        self.kill(machine)

    def _start_worker(self, name: str) -> None:
        group, number = name.partition("-")[0], next(self._numbers)
        options = [
            f"--address={HEAD}:6379", f"--node-ip-address={NETWORK}.{number}", f"--labels={GROUP_LABEL}={group}",
            f"--num-cpus={GROUPS[group]['CPU']}", f"--num-gpus={GROUPS[group].get('GPU', 0)}",
        ]  # fmt: skip
        self._start(name, number, options)

    def _start(self, name: str, number: int, options: list[str]) -> None:
        common = ["--object-store-memory=100000000", "--include-log-monitor=false", "--disable-usage-stats", "--block"]
        command = shlex.join([str(Path(sys.executable).parent / "ray"), "start", *options, *common])
        folder = self.folder / "machines"
        if (folder / name).exists():  # a head that comes back
            (folder / name).rename(folder / f"{name}-{time.time_ns()}")
        group = name.partition("-")[0]
        self.machines[name] = Machine(name, number, command, self._environment(name, group), folder)

    def _environment(self, name: str, group: str) -> dict[str, str]:
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}",
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": self.token,
            "RAY_CLOUD_INSTANCE_ID": name,
            "RAY_NODE_TYPE_NAME": group,
            "RAY_enable_autoscaler_v2": "1",
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            # As KubeRay sets them where the head keeps its state in Redis.
            "RAY_gcs_rpc_server_reconnect_timeout_s": "600",
            "RAY_gcs_server_request_timeout_seconds": "5",
            "RAY_SERVE_KV_TIMEOUT_S": "5",
            "RAY_SERVE_PROXY_MIN_DRAINING_PERIOD_S": str(DRAINING_S),
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": str(DRAINING_S),
            **controller_options()["runtime_env"]["env_vars"],
        }
        environment.pop("RAY_ADDRESS", None)
        if self.redis and name == "head":
            environment["RAY_REDIS_ADDRESS"] = self.redis
        return environment

    def _autoscaler(self) -> dict[str, Any]:
        head = {"resources": {}, "node_config": {}, "min_workers": 0, "max_workers": 0}
        groups = {
            name: {
                "resources": resources,
                "labels": {GROUP_LABEL: name},
                "node_config": {},
                "min_workers": 2 if name == "cpu" else 0,
                "max_workers": 6,
            }
            for name, resources in GROUPS.items()
        }
        return {
            "cluster_name": "nodes",
            "max_workers": 12,
            "upscaling_speed": 100,
            "idle_timeout_minutes": IDLE_S / 60,
            "provider": {
                "type": "external",
                "module": "node_provider.FolderNodeProvider",
                "folder": str(self.wanted),
                "disable_node_updaters": True,
                "disable_launch_config_check": True,
            },
            "head_node_type": "head",
            "available_node_types": {"head": head, **groups},
            # What every provider but KubeRay's must have, and nobody here runs.
            "auth": {},
            "file_mounts": {},
            "cluster_synced_files": [],
            **{each: [] for each in COMMANDS},
        }

    def _start_and_end_what_is_wanted(self) -> None:
        """What Kubernetes does with pods that are created and deleted."""
        while not self._closed.wait(0.2):
            for name, machine in node_provider.read(self.wanted).items():
                if name == "head":
                    continue
                if machine["wanted"] and name not in self.machines:
                    self._start_worker(name)
                elif name in self.machines and (not machine["wanted"] or not self.machines[name].alive):
                    self.machines[name].terminate(STOP_GRACE_S)
                    (self.wanted / f"{name}.json").unlink(missing_ok=True)

    # Serve

    def deploy(self, document: dict[str, Any]) -> None:
        """As KubeRay's operator does. Returns at once."""
        self._rest.put("/api/serve/applications/", json=document).raise_for_status()

    def applications(self) -> dict[str, Any]:
        """What Serve says; empty while it does not answer."""
        try:
            answer = self._rest.get("/api/serve/applications/")
        except httpx.HTTPError:
            return {}
        return answer.json().get("applications", {}) if answer.is_success else {}

    def replicas(self, application: str) -> list[Replica]:
        """Address of the node and process id there, of each replica that takes requests."""
        app = self.applications().get(application, {})
        found = [
            (replica["node_ip"], replica["pid"])
            for deployment in app.get("deployments", {}).values()
            for replica in deployment["replicas"]
            if replica["state"] == "RUNNING"
        ]
        return sorted(found)

    def wait_until_whole(self, ready: Callable[[], Sequence[str]]) -> None:
        """Until both applications run as they should, and `ready` has every node of theirs and none that is gone."""

        def holds() -> bool:
            model, router = self.replicas(MODEL), self.replicas(ROUTER)
            running = [app["status"] for app in self.applications().values()] == ["RUNNING", "RUNNING"]
            addresses, alive = {address for address, _ in [*model, *router]}, {one.address for one in self.workers()}
            return running and len(model) == len(router) == 2 and addresses <= set(ready()) <= alive

        self.wait("the cluster is whole", holds, 180)

    def wait(self, what: str, holds: Callable[[], Any], patience_s: float = 120) -> float:
        """Returns the seconds it took. Raises AssertionError with what there is instead."""
        began = time.monotonic()

        def tolerant() -> bool:
            assert "head" not in self.machines or self.machines["head"].alive, f"the head ended\n{self.described()}"
            try:
                return bool(holds())
            except httpx.HTTPError:
                return False

        try:
            until(tolerant, patience_s)
        except TimeoutError:
            raise AssertionError(f"not within {patience_s:g} s: {what}\n{self.described()}") from None
        return time.monotonic() - began

    def described(self) -> str:
        parts = [json.dumps(self.applications(), indent=1, default=str)[:6000]]
        for machine in self.machines.values():
            tail = "\n".join(machine.output().splitlines()[-8:])
            parts.append(f"--- {machine.name} {'alive' if machine.alive else 'ended'}\n{tail}")
        return "\n".join(parts)


def controller_options() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "serve_config.yaml").read_text())["controller_options"]


def document(release: str = "1", replicas: int = 2) -> dict[str, Any]:
    """The starter config's router and embedding model, spread over nodes, and the model on GPU nodes."""
    starter = yaml.safe_load((ROOT / "serve_config.yaml").read_text())
    apps = {app["name"]: app for app in starter["applications"]}
    model, router = apps[MODEL], apps[ROUTER]
    model["args"]["release"] = release
    (options,) = model["deployments"]
    options["graceful_shutdown_timeout_s"] = 15
    # Whole, because Serve replaces it: the model runs on the CPU, but its place is where a GPU is.
    options["ray_actor_options"] = {"num_cpus": 0.2, "num_gpus": 1, "runtime_env": {"env_vars": SINGLE_LOOP}}
    options["autoscaling_config"] |= {
        "min_replicas": replicas,
        "max_replicas": 2,
        "downscale_delay_s": 5,
        "downscale_to_zero_delay_s": 5,
    }
    router["args"] = {"label_selector": {GROUP_LABEL: "cpu"}}
    (options,) = router["deployments"]
    options |= {"num_replicas": 2, "max_replicas_per_node": 1, "graceful_shutdown_timeout_s": 15}
    return {
        **starter,
        "proxy_location": "EveryNode",
        "http_options": starter["http_options"] | {"host": "0.0.0.0"},
        "applications": [model, router],
    }


class Redis:
    """The store of Ray's head, outside the machines."""

    @staticmethod
    def available() -> bool:
        return shutil.which("redis-server") is not None

    def __init__(self, folder: Path):
        self.address = f"{OUTSIDE}:6379"
        self._process = subprocess.Popen(
            [
                *("setpriv", "--pdeathsig", "KILL"),
                "redis-server", "--bind", OUTSIDE, "--port", "6379", "--protected-mode", "no",
                "--save", "", "--dir", str(folder),
            ],
            stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
