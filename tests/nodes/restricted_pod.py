"""What runs in the pod of test_restricted.py: Ray's head, Medley's router and two models, asked once each.

Prints what it saw as one line of JSON. Argument: the serve config.
"""

import errno
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import yaml

RAY = str(Path(sys.executable).parent / "ray")
MEDLEY = [sys.executable, "-m", "medley.main"]
PLACES = ("/", "/etc", "/home", "/models", "/opt", "/root", "/usr", "/var", "/tmp", "/dev/shm")
LOGS = Path("/tmp/ray/session_latest/logs")
REFUSED = re.compile(r"Read-only file system|Permission denied|Operation not permitted|Errno (?:1|13|30)\b")
PATIENCE_S = 240
QUESTION = {
    "model": "smollm2-135m-instruct",
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "temperature": 0,
}


def main(config: Path) -> None:
    seen: dict[str, Any] = {"process": process(), "writes": {place: write(place) for place in PLACES}}
    fetch = subprocess.run([*MEDLEY, "fetch", str(config), "--verify"], capture_output=True, text=True, check=False)
    seen["fetch"] = [fetch.returncode, fetch.stdout + fetch.stderr]
    began = time.monotonic()
    head = start_ray()
    try:
        dashboard = httpx.Client(
            base_url="http://127.0.0.1:8265",
            headers={"Authorization": f"Bearer {os.environ['RAY_AUTH_TOKEN']}"},
            timeout=30,
            trust_env=False,
        )
        wait(lambda: dashboard.get("/api/serve/applications/").is_success, head)
        seen["ray_s"] = time.monotonic() - began
        # As KubeRay's operator does it.
        dashboard.put("/api/serve/applications/", json=yaml.safe_load(config.read_text())).raise_for_status()
        router = httpx.Client(base_url="http://127.0.0.1:8000", timeout=60, trust_env=False)
        wait(lambda: router.get("/readyz").is_success, head)
        seen["ready_s"] = time.monotonic() - began
        answer = router.post("/v1/embeddings", json={"model": "all-minilm-l6-v2", "input": "Snow fell all night."})
        seen["embeddings"] = [answer.status_code, answer.json()]
        answer = router.post("/v1/chat/completions", json=QUESTION)
        seen["chat"] = [answer.status_code, answer.json()]
        seen["open_dashboard"] = httpx.get("http://127.0.0.1:8265/api/serve/applications/", trust_env=False).status_code
    except TimeoutError:
        seen["timed_out_after_s"] = time.monotonic() - began
    seen["refused"] = refusals()
    seen["home"] = sorted(str(file) for file in Path.home().rglob("*") if file.is_file())
    print(json.dumps(seen))


def process() -> dict[str, str]:
    """What the kernel says of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return {name: value.strip() for name, value in (line.split(":", 1) for line in lines)}


def write(place: str) -> str:
    """The name of the error that a new file there ends with; empty if there is none."""
    file = Path(place, "written")
    try:
        file.write_text("")
        file.unlink()
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""


def start_ray() -> subprocess.Popen[bytes]:
    with Path("/tmp/ray.out").open("wb") as output:
        return subprocess.Popen(
            [
                *(RAY, "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--dashboard-host=0.0.0.0"),
                *("--num-cpus=2", "--object-store-memory=100000000", "--include-log-monitor=false"),
            ],
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def wait(holds: Callable[[], bool], head: subprocess.Popen[bytes]) -> None:
    """Raises TimeoutError: it does not come true, or Ray has ended."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end and head.poll() is None:
        try:
            if holds():
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)
    raise TimeoutError


def refusals() -> list[str]:
    """Lines of logs that tell of something that was not allowed."""
    files = [Path("/tmp/ray.out"), *(file for file in LOGS.rglob("*") if file.is_file())]
    return [
        f"{file.name}: {line}"
        for file in files
        for line in file.read_text(errors="replace").splitlines()
        if REFUSED.search(line)
    ]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
