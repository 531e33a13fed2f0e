"""Vectors that sentence-transformers makes of a few texts with the same weights, kept in reference_vectors.json: no
test has to import torch. To make them again: `python tests/cluster/reference_vectors.py`."""

import base64
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_suffix(".json")
MODEL = "all-minilm-l6-v2"
TEXTS = ["Hi", "Ein Satz auf Deutsch.", "日本語のテキスト", "word " * 200, "The quick brown fox."]


def read() -> tuple[list[str], np.ndarray]:
    """The texts and their vectors, a row each."""
    rows = json.loads(FILE.read_text())["rows"]
    vectors = [np.frombuffer(base64.b64decode(row["float32"]), dtype="<f4") for row in rows]
    return [row["text"] for row in rows], np.array(vectors)


def write() -> None:
    import sentence_transformers
    import torch

    from models.catalog import load_catalog
    from models.weights import locate

    spec = load_catalog()[MODEL]
    reference = sentence_transformers.SentenceTransformer(str(locate(spec, spec.variants["torch"])), device="cpu")
    made_by = f"sentence-transformers {sentence_transformers.__version__}, torch {torch.__version__}"
    vectors = reference.encode(TEXTS).astype("<f4")
    rows = [
        {"text": text, "float32": base64.b64encode(vector.tobytes()).decode()}
        for text, vector in zip(TEXTS, vectors, strict=True)
    ]
    document = {"model": MODEL, "made_by": made_by, "rows": rows}
    FILE.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    write()
