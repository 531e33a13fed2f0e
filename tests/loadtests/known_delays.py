"""Servers with known delays in processes of their own."""

import contextlib
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from patience import wait_until

ROOT = Path(__file__).parents[2]


@dataclass
class Fake:
    address: str
    log: Path

    def truth(self):
        """What it did, by request id."""
        return {entry["id"]: entry for entry in map(json.loads, self.log.read_text().splitlines())}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serving(folder, **settings):
    port, log = free_port(), folder / f"truth-{time.monotonic_ns()}.jsonl"
    log.touch()
    server = str(Path(__file__).with_name("fake_server.py"))
    command = [sys.executable, server, str(port), str(log), json.dumps(settings)]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})

    def answers():
        assert process.poll() is None
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return True

    try:
        wait_until(answers, "the fake server starts")
        yield Fake(f"http://127.0.0.1:{port}", log)
    finally:
        process.kill()
        process.wait()
