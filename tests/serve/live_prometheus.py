"""A real Prometheus on this machine, scraping the running cluster with the configuration that Medley writes."""

import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import httpx
import yaml
from patience import patience, wait_until

ROOT = Path(__file__).parents[2]
SCRAPE_S = 1


class Prometheus:
    """
    Args:
        folder: for its configuration and its data.
    """

    def __init__(self, folder: Path):
        config = yaml.safe_load((ROOT / "monitoring" / "prometheus.yml").read_text())
        config["global"] = {"scrape_interval": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"}
        (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
        shutil.copy(ROOT / "monitoring" / "rules.yml", folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.address = f"http://127.0.0.1:{port}"
        command = [
            str(shutil.which("prometheus")),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            "--log.level=warn",
        ]
        self.process = subprocess.Popen(command)
        self.http = httpx.Client(base_url=self.address, timeout=patience(), trust_env=False)
        wait_until(self._is_ready, "Prometheus to be ready", every=0.2)

    def _is_ready(self) -> bool:
        try:
            return self.http.get("/-/ready").is_success
        except httpx.TransportError:
            return False

    def ask(self, expr: str) -> list[dict[str, Any]]:
        """The answer to an instant query."""
        answer = self.http.get("/api/v1/query", params={"query": expr}).json()
        assert answer["status"] == "success", answer
        return answer["data"]["result"]

    def get(self, path: str) -> Any:
        return self.http.get(path).json()["data"]

    def stop(self) -> None:
        self.http.close()
        self.process.terminate()
        self.process.wait(20)
