"""Servers with known delays in processes of their own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


@dataclass
class Fake:
    address: str
    log: Path

    def truth(self):
        """What it wrote when, by request id."""
        return {entry["id"]: entry for entry in map(json.loads, self.log.read_text().splitlines())}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(folder, **settings):
    port, log = free_port(), folder / f"truth-{time.monotonic_ns()}.jsonl"
    log.touch()
    command = [
        sys.executable,
        str(Path(__file__).with_name("fake_server.py")),
        str(port),
        str(log),
        json.dumps(settings),
    ]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        wait_for(port, process)
        yield Fake(f"http://127.0.0.1:{port}", log)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def wait_for(port, process):
    for _ in range(200):
        assert process.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    raise AssertionError("the fake server did not start")
