"""Cards for tests: figures as round as they can be."""

import datetime

from models.cards import Batch, Card, Spread, VariantCard
from models.catalog import load_catalog
from models.choice import made_as
from models.hardware import this_hardware

MODEL = "all-minilm-l6-v2"
FLOORS = {"cosine": 0.99}


def spread(value: float) -> Spread:
    return Spread.of([value], 0.1)


def variant_card(variant: str, cpu_s: float, **changes) -> VariantCard:
    spec = load_catalog()[MODEL]
    row = spec.variant(variant)
    batches = {
        batch: Batch(
            requests=10,
            p50_s=cpu_s * batch,
            p95_s=cpu_s * batch * 1.2,
            items_per_s=spread(1 / cpu_s),
            against_reference=spread(0.01 / cpu_s),
            cpu_s_per_item=cpu_s,
        )
        for batch in (1, 8)
    }
    facts = {
        "variant": variant,
        "backend": row.backend,
        "precision": row.precision,
        "gpus": row.needs.gpus,
        "threads": 1,
        "made_as": made_as(spec, variant),
        "disk_bytes": 90_000_000,
        "memory_bytes": 300_000_000,
        "load_s": 1.5,
        "batches": batches,
        "fidelity": {"cosine": 0.9999},
    }
    return VariantCard.model_validate({**facts, **changes})


def card(*variants: VariantCard, **changes) -> Card:
    facts = {
        "model": MODEL,
        "task": "embeddings",
        "item": "text",
        "reference": "torch",
        "floors": FLOORS,
        "measured": datetime.date(2026, 11, 21),
        "hardware": this_hardware(),
        "versions": {"torch": "2.13.0"},
        "rounds": 5,
        "command": "medley variant verify all-minilm-l6-v2",
        "variants": variants,
    }
    return Card.model_validate({**facts, **changes})
