"""A cluster's board, in Ray's key-value store."""

from __future__ import annotations

import json
from typing import Any

from ray.experimental import internal_kv

NAMESPACE = b"medley"


class RayBoard:
    """Each method calls Ray's head node, which takes about a millisecond."""

    def put(self, key: str, fact: dict[str, Any]) -> None:
        internal_kv._internal_kv_put(key, json.dumps(fact), namespace=NAMESPACE)

    def claim(self, key: str, fact: dict[str, Any]) -> dict[str, Any]:
        internal_kv._internal_kv_put(key, json.dumps(fact), overwrite=False, namespace=NAMESPACE)
        return self.get(key) or fact

    def get(self, key: str) -> dict[str, Any] | None:
        value = internal_kv._internal_kv_get(key, namespace=NAMESPACE)
        return json.loads(value) if value else None

    def remove(self, key: str) -> None:
        internal_kv._internal_kv_del(key, namespace=NAMESPACE)

    def all(self) -> dict[str, dict[str, Any]]:
        keys = [key.decode() for key in internal_kv._internal_kv_list("", namespace=NAMESPACE)]
        return {key: fact for key in keys if (fact := self.get(key))}
