"""buildah, with images in a folder of its own and the machine's package settings lent to a build, not baked in."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

BASE = os.environ.get("MEDLEY_IMAGE_BASE")  # one that can be pulled; otherwise a Debian is made
FREE_GB = 15
DEBIAN = ["python3.11", "python3.11-venv", "ca-certificates"]
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
PIP_SETTINGS = Path("/etc/pip.conf")


def missing(folder: Path) -> str:
    """Why no image can be built here; empty if one can."""
    if os.geteuid() != 0:
        return "an image is built as root here"
    lacking = [tool for tool in ("buildah", *([] if BASE else ["debootstrap"])) if not shutil.which(tool)]
    if lacking:
        return f"an image cannot be built without {', '.join(lacking)} (Debian packages of that name)"
    free = shutil.disk_usage(folder).free / 1e9
    return f"an image takes {FREE_GB} GB of disk while it is built, and {free:.0f} are free" if free < FREE_GB else ""


def wheel_folders() -> list[Path]:
    """A machine that cannot reach PyTorch's own index may have torch's wheel in a folder, and pip told of it."""
    return [Path(place) for place in os.environ.get("PIP_FIND_LINKS", "").split() if Path(place).is_dir()]


def lent() -> list[str]:
    """What the machine lends a build or a container so that it reaches a package index. Empty files stay of it."""
    places = [*(file for file in (CERTIFICATES, PIP_SETTINGS) if file.exists()), *wheel_folders()]
    return [word for place in places for word in ("--volume", f"{place}:{place}:ro")]


class Builder:
    """
    Args:
        folder: images and containers lie there.
        context: what is built, with docker/Dockerfile in it.
    """

    def __init__(self, folder: Path, context: Path):
        self.folder = folder
        self.context = context
        self.store = ["--root", str(folder / "images"), "--runroot", str(folder / "run")]

    def buildah(self, command: str, *arguments: str, timeout: float = 600) -> str:
        """Raises AssertionError: it failed; with the end of what it said."""
        done = subprocess.run(
            ["buildah", *self.store, command, *arguments],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        assert done.returncode == 0, f"buildah {command}: {done.stdout[-2000:]}{done.stderr[-4000:]}"
        return done.stdout.strip()

    def base(self) -> str:
        """A base with Python 3.11: the one that is named, or Debian's smallest."""
        if BASE:
            return BASE
        root = self.folder / "debian"
        command = ["debootstrap", "--variant=minbase", "bookworm", str(root)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=900)
        assert done.returncode == 0, done.stdout[-2000:]
        container = self.buildah("from", "scratch")
        self.buildah("add", "--quiet", container, str(root), "/")
        shutil.rmtree(root)
        install = ["apt-get", "install", "-y", "--no-install-recommends", *DEBIAN]
        self.buildah("run", "--isolation", "chroot", container, "--", *install)
        self.buildah("commit", "--quiet", "--rm", container, "localhost/base:bookworm")
        return "localhost/base:bookworm"

    def build(self, target: str, name: str, base: str) -> None:
        arguments = [f"BASE={base}", "REVISION=test"]
        if wheels := wheel_folders():
            arguments.append("TORCH_OPTIONS=" + " ".join(f"--find-links {place}" for place in wheels))
        self.buildah(
            "bud",
            *("--isolation", "chroot", "--quiet", "--target", target, "--tag", name, *lent()),
            *(word for argument in arguments for word in ("--build-arg", argument)),
            *("--file", str(self.context / "docker" / "Dockerfile"), str(self.context)),
            timeout=2400,
        )

    def run(self, container: str, *command: str, timeout: float = 300) -> str:
        """Run a command in a container, as its user."""
        return self.buildah("run", "--isolation", "chroot", *lent(), container, "--", *command, timeout=timeout)

    def inspect(self, name: str) -> dict[str, Any]:
        return json.loads(self.buildah("inspect", "--type", "image", name))["OCIv1"]["config"]

    def close(self) -> None:
        subprocess.run(["buildah", *self.store, "rm", "--all"], capture_output=True, check=False)
        subprocess.run(["buildah", *self.store, "rmi", "--all", "--force"], capture_output=True, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)
