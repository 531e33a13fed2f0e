"""Ray's autoscaler asks for machines in a folder, one file each; the test that watches the folder starts and ends them.

Loaded by the autoscaler in the head, which sees the same folder. A machine that somebody else started is written there
too, as the operator's pods are listed to KubeRay's provider.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from pathlib import Path
from typing import Any

from ray.autoscaler.node_provider import NodeProvider
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE


def write(folder: Path, name: str, tags: dict[str, str], wanted: bool = True) -> None:
    """Written aside and moved in, so that it is never read half."""
    aside = folder / f".{name}"
    aside.write_text(json.dumps({"tags": tags, "wanted": wanted}))
    os.replace(aside, folder / f"{name}.json")


def read(folder: Path) -> dict[str, dict[str, Any]]:
    """Machines by name."""
    found = {}
    for file in sorted(folder.glob("*.json")):
        with contextlib.suppress(FileNotFoundError):  # ended meanwhile
            found[file.stem] = json.loads(file.read_text())
    return found


def tags_of(kind: str, group: str) -> dict[str, str]:
    return {TAG_RAY_NODE_KIND: kind, TAG_RAY_USER_NODE_TYPE: group}


class FolderNodeProvider(NodeProvider):
    @property
    def folder(self) -> Path:
        return Path(self.provider_config["folder"])

    def non_terminated_nodes(self, tag_filters: dict[str, str]) -> list[str]:
        return [
            name
            for name, machine in read(self.folder).items()
            if machine["wanted"] and tag_filters.items() <= machine["tags"].items()
        ]

    def is_running(self, node_id: str) -> bool:
        return node_id in read(self.folder)

    def is_terminated(self, node_id: str) -> bool:
        return not self.is_running(node_id)

    def node_tags(self, node_id: str) -> dict[str, str]:
        return read(self.folder).get(node_id, {"tags": {}})["tags"]

    def internal_ip(self, node_id: str) -> str:
        return node_id

    external_ip = internal_ip

    def create_node_with_resources_and_labels(self, node_config, tags, count, resources, labels):
        for _ in range(count):
            write(self.folder, f"{tags[TAG_RAY_USER_NODE_TYPE]}-{secrets.token_hex(2)}", dict(tags))

    def terminate_node(self, node_id: str) -> None:
        if machine := read(self.folder).get(node_id):
            write(self.folder, node_id, machine["tags"], wanted=False)

    @staticmethod
    def bootstrap_config(cluster_config):
        return cluster_config
