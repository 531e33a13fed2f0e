"""Machines made of namespaces: each has an address, processes, a /dev/shm and Ray's folders of its own.

They hang on one bridge in a network namespace of its own, so nothing here can reach, or be reached by, what else runs
on the real machine. Root is needed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

TOOLS = ("unshare", "nsenter", "ip", "setpriv", "mount")
NETWORK = "10.77.0"
OUTSIDE = f"{NETWORK}.1"
CLONE_NEWNET = 0x40000000
# What Ray and HAProxy write to by fixed names. Only these: a checkout may lie under /tmp.
PRIVATE = ("/tmp/ray", "/tmp/haproxy-serve", "/tmp/medley")
BOOT_S = 20

BOOT = """
until ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip link set lo up
ip address add {address}/24 dev eth0
ip link set eth0 up
mount -t tmpfs tmpfs /dev/shm
{mounts}
touch {ready}
{command}
exit $?
"""


def missing() -> str:
    """Why there can be no such machines here; empty if there can."""
    if os.geteuid() != 0:
        return "machines made of namespaces need root"
    lacking = [tool for tool in TOOLS if not shutil.which(tool)]
    if lacking:
        return f"machines made of namespaces need {', '.join(lacking)}"
    tried = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "--mount-proc", "sh", "-c", "mount -t tmpfs tmpfs /dev/shm"],
        capture_output=True,
        text=True,
        check=False,
    )
    return f"namespaces cannot be made here: {tried.stderr.strip()}" if tried.returncode else ""


class Lan:
    """The bridge. A thread that entered it, and what it starts, is outside the machines and can reach them."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._home = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._holder = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "sleep", "infinity"], start_new_session=True
        )
        until(lambda: os.readlink(f"/proc/{self._holder.pid}/ns/net") != os.readlink("/proc/self/ns/net"))
        self.enter()
        run("ip", "link", "set", "lo", "up")
        run("ip", "link", "add", "bridge", "type", "bridge")
        run("ip", "address", "add", f"{OUTSIDE}/24", "dev", "bridge")
        run("ip", "link", "set", "bridge", "up")

    def enter(self) -> None:
        """Bring this thread, and what it starts, into the network of the machines."""
        lan = os.open(f"/proc/{self._holder.pid}/ns/net", os.O_RDONLY)
        self._move(lan)
        os.close(lan)

    def leave(self) -> None:
        self._move(self._home)

    def close(self) -> None:
        self.leave()
        self._holder.kill()
        self._holder.wait()

    def _move(self, namespace: int) -> None:
        if self._libc.setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")


class Machine:
    """One machine, whose only task is a command; it ends with it.

    Args:
        number: its address is 10.77.0.<number>.
        folder: of the real machine, where its /tmp/ray and its output go, and stay.
        environment: of the command and of what `run` runs.
    """

    def __init__(self, name: str, number: int, command: str, environment: dict[str, str], folder: Path):
        self.name = name
        self.number = number
        self.address = f"{NETWORK}.{number}"
        self.environment = environment
        self.folder = folder / name
        self.folder.mkdir(parents=True)
        mounts = []
        for place in map(Path, PRIVATE):
            own = self.folder / place.name
            own.mkdir()
            place.mkdir(exist_ok=True)
            mounts.append(f"mount --bind {own} {place}")
        ready = self.folder / "booted"
        script = BOOT.format(address=self.address, mounts="\n".join(mounts), ready=ready, command=command)
        with (self.folder / "output").open("wb") as output:
            self._shell = subprocess.Popen(
                [
                    *("setpriv", "--pdeathsig", "KILL"),
                    *("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"),
                    *("bash", "-c", script),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(lambda: bool(self._children(self._shell.pid)))
        (self.init,) = self._children(self._shell.pid)
        # `unshare` makes the namespaces before it forks, so the child has them.
        # The card's address follows from the number: neighbours need not learn that a machine was started anew.
        card = ("peer", "name", "eth0", "address", f"02:00:00:00:00:{number:02x}", "netns", str(self.init))
        run("ip", "link", "add", f"v{number}", "type", "veth", *card)
        run("ip", "link", "set", f"v{number}", "master", "bridge", "up")
        until(ready.exists)

    @property
    def alive(self) -> bool:
        return self._shell.poll() is None

    def run(self, *command: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command on it, as `kubectl exec` does."""
        namespaces = ("nsenter", "--target", str(self.init), "--net", "--mount", "--pid", "--")
        return subprocess.run(
            [*namespaces, *command],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )

    def terminate(self, grace_s: float) -> float:
        """SIGTERM to its command, as Kubernetes does; SIGKILL to all after the grace. Returns the seconds it took."""
        began = time.monotonic()
        for command in self._children(self.init)[:1]:  # the oldest
            os.kill(command, signal.SIGTERM)
        while self.alive and time.monotonic() - began < grace_s:
            time.sleep(0.1)
        self.kill()
        return time.monotonic() - began

    def kill(self) -> None:
        """SIGKILL to every process at once: the kernel ends a namespace with its first process."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.init, signal.SIGKILL)
        self._shell.wait()
        # The kernel takes its card away some time later; the next machine of this number needs the name.
        subprocess.run(["ip", "link", "delete", f"v{self.number}"], check=False, capture_output=True)

    def cut(self) -> None:
        """Pull its cable: it goes on, and nobody hears of it. Without a word to those who wait for it."""
        run("ip", "link", "set", f"v{self.number}", "down")

    def output(self) -> str:
        return (self.folder / "output").read_text(errors="replace")

    @staticmethod
    def _children(pid: int) -> list[int]:
        try:
            return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except FileNotFoundError:
            return []


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def until(holds: Callable[[], bool], patience_s: float = BOOT_S) -> None:
    """Raises TimeoutError."""
    end = time.monotonic() + patience_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError
        time.sleep(0.02)
