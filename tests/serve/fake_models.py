"""Models that answer at once, or as slowly as is asked, served by a real cluster: catalog rows of our own
(MEDLEY_CATALOG), so that everything but the engine is as with any other model. A start takes seconds."""

import copy
from pathlib import Path
from typing import Any

import yaml
from local_cluster import application

FAKE_CHAT, PROMISED, SLEEPER, FAKE_EMBEDDINGS = "fake-chat", "fake-promised", "fake-sleeper", "fake-embeddings"
# A variant whose weights cannot be loaded.
DAMAGED = "damaged"
SECONDS_PER_WORD = 0.05
# Of an answer with so many words, in seconds.
WORDS_OF_A_SECOND = round(1 / SECONDS_PER_WORD)
# Requests that a fake chat model serves at once, and that wait for it.
AT_ONCE, QUEUE = 4, 4
PROMISED_S, MOST_REPLICAS = 2.5, 4


def asked(model: str, words: int, **more: Any) -> dict[str, Any]:
    """The body of a request for so many words; a fake says what it is told, a word at a time."""
    return {"model": model, "messages": [{"role": "user", "content": " ".join(["word"] * words)}]} | more


def write_catalog(folder: Path) -> Path:
    """The rows, in a folder of their own."""
    damaged = folder / "damaged-weights"
    damaged.mkdir()
    (damaged / "model.onnx").write_bytes(bytes(4096))
    needs = {"cpus": 0, "memory_gib": 0.1}
    chat = {
        **_row("chat", {"kind": "none"}),
        "default_variant": "fake",
        "variants": {
            "fake": {
                "backend": "fake",
                "precision": "fp32",
                "needs": needs,
                "engine": {"seconds_per_token": SECONDS_PER_WORD},
            }
        },
    }
    embeddings = {
        **_row("embeddings", {"kind": "folder", "path": str(damaged)}),
        "settings": {"dimensions": {"native": 8, "smallest": 2}},
        "default_variant": "fake",
        "variants": {
            "fake": {"backend": "fake", "precision": "fp32", "needs": needs},  # which reads no weights
            DAMAGED: {"backend": "onnx", "precision": "fp32", "needs": needs},
        },
    }
    rows = {
        "chat": [{"id": name, **chat} for name in (FAKE_CHAT, PROMISED, SLEEPER)],
        "embeddings": [{"id": FAKE_EMBEDDINGS, **embeddings}],
    }
    catalog = folder / "catalog"
    catalog.mkdir()
    for task, of_task in rows.items():
        (catalog / f"{task}.yaml").write_text(yaml.safe_dump({"models": of_task}))
    return catalog


def _row(task: str, source: dict[str, Any]) -> dict[str, Any]:
    limits = {"context_tokens": 100_000}
    return {"task": task, "title": "Fake", "owner": "nobody", "licence": "MIT", "source": source, "limits": limits}


def write_promises(folder: Path) -> Path:
    """Only one model has a promise that it can break: others are asked for more than a slow machine does in time."""
    anything = {"time_to_first_token_s": 3600, "good": 0.95, "availability": 0.95}
    profile = {"tasks": {"chat": anything}, "models": {PROMISED: {"time_to_first_token_s": PROMISED_S}}}
    file = folder / "slo.yaml"
    file.write_text(yaml.safe_dump({"profiles": {"tests": profile}}))
    return file


def with_fakes(starter: dict[str, Any]) -> dict[str, Any]:
    """The document with the fake models before the router."""
    document = copy.deepcopy(starter)
    narrow = {"max_ongoing_requests": AT_ONCE, "max_queued_requests": QUEUE}
    wide = {"max_ongoing_requests": AT_ONCE, "max_queued_requests": 500}
    apps = [
        # One replica in the other's place: those who ask meanwhile wait.
        _entry(FAKE_CHAT, narrow | {"max_surge_percent": 0}, _fixed()),
        _entry(PROMISED, wide | {"max_surge_percent": 100}, _fixed()),
        _entry(SLEEPER, wide, _following()),
        _entry(FAKE_EMBEDDINGS, wide | {"max_surge_percent": 100}, _fixed()),
    ]
    router = application(document, "router")
    document["applications"] = [*[one for one in document["applications"] if one is not router], *apps, router]
    return document


def _entry(name: str, options: dict[str, Any], scaling: dict[str, Any]) -> dict[str, Any]:
    times = {"metrics_interval_s": 1, "look_back_period_s": 2}
    return {
        "name": name,
        "route_prefix": None,
        "import_path": "deployments.model:build",
        "args": {"model": name, "release": "1"},
        "deployments": [
            {
                "name": "model",
                "backpressure_config": {"status_code": 429, "retry_after_s": 1},
                "graceful_shutdown_timeout_s": 900,
                **options,
                "autoscaling_config": times | scaling,
            }
        ],
    }


def _fixed() -> dict[str, Any]:
    policy = {"policy_function": "deployments.autoscaling:ConcurrencyPolicy"}
    return {"min_replicas": 1, "max_replicas": 1, "policy": policy | {"policy_kwargs": {"target_ongoing_requests": 4}}}


def _following() -> dict[str, Any]:
    """Sleeps until it is asked for, and gets as many replicas as keep a wait of a second."""
    kwargs = {"wait_s": 1.0, "concurrency": AT_ONCE, "service_s": 1.0}
    return {
        "min_replicas": 0,
        "max_replicas": MOST_REPLICAS,
        "upscale_delay_s": 1,
        "downscale_delay_s": 2,
        "downscale_to_zero_delay_s": 5,
        "policy": {"policy_function": "deployments.autoscaling:PromisePolicy", "policy_kwargs": kwargs},
    }
