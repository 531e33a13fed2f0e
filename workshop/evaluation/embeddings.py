"""Embeddings: whether vectors have the same directions, and find the same documents for a question.

The set is `embeddings.txt`: questions, documents that answer them or only seem to, and unusual texts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from models.registry import engine_class
from models.specs import ModelSpec, VariantSpec
from models.tasks.embeddings import EmbeddingEngine
from workshop.evaluation.evaluation import Answers, Evaluation, Fraction, Measure

TEXTS = Path(__file__).with_suffix(".txt")
MOST_TOKENS = 256
# Long enough to be typical of searched texts, and similar to each other, so that turns of `work` are comparable.
WORKED = (120, 400)
BATCH = 8


@dataclass(frozen=True, slots=True)
class Retrieval:
    """
    Attributes:
        grades: how well a document answers a question: 2 well, 1 same subject, 0 not at all. (questions, documents)
    """

    questions: list[str]
    documents: list[str]
    grades: np.ndarray


@cache
def retrieval() -> Retrieval:
    questions, documents, marks = [], [], []
    for line in TEXTS.read_text().splitlines():
        kind, _, text = line.partition(" ")
        if kind == "?":
            questions.append(text)
        elif kind in ("0", "1", "2"):
            documents.append(text)
            marks.append((len(questions) - 1, int(kind)))
    grades = np.zeros((len(questions), len(documents)), int)
    for document, (question, grade) in enumerate(marks):
        grades[question, document] = grade
    return Retrieval(questions, documents, grades)


class EmbeddingsSubject:
    def __init__(self, engine: EmbeddingEngine):
        self.engine = engine

    def answers(self, fraction: Fraction) -> Answers:
        """Vectors of `questions` and `documents`, in batches that mix long and short texts; and of some documents
        `alone`."""
        texts = retrieval()
        every = [*texts.questions, *texts.documents]
        vectors = []
        for first in range(0, len(every), BATCH):
            vectors.append(self._embed(every[first : first + BATCH]))
            fraction(first / len(every))
        questions, documents = np.split(np.concatenate(vectors), [len(texts.questions)])
        alone = np.concatenate([self._embed([text]) for text in texts.documents[::BATCH]])
        return {"questions": questions, "documents": documents, "alone": alone}

    def work(self, batch: int, turn: int) -> Mapping[str, float]:
        least, most = WORKED
        texts = [text for text in retrieval().documents if least <= len(text) <= most]
        self._embed([texts[(turn * batch + item) % len(texts)] for item in range(batch)])
        return {}

    def close(self) -> None:
        pass

    def _embed(self, texts: list[str]) -> np.ndarray:
        return self.engine.embed([self.engine.truncate(tokens, MOST_TOKENS) for tokens in self.engine.encode(texts)])


def open_variant(spec: ModelSpec, variant: VariantSpec, weights: Path) -> EmbeddingsSubject:
    return EmbeddingsSubject(engine_class(spec.task, variant.backend).load(spec, variant, weights))


def compare(reference: Answers, variant: Answers) -> dict[str, float]:
    cosines = np.concatenate([cosine(reference[name], variant[name]) for name in ("questions", "documents")])
    wanted, found = (answers["questions"] @ answers["documents"].T for answers in (reference, variant))
    grades = retrieval().grades
    return {
        "cosine": float(cosines.mean()),
        "cosine_worst": float(np.quantile(cosines, 0.01)),
        "rank_correlation": rank_correlation(wanted, found),
        "top5": overlap(wanted, found, 5),
        "ndcg_kept": ndcg(grades, found) / ndcg(grades, wanted),
        "alone": float(cosine(variant["alone"], variant["documents"][::BATCH]).min()),
    }


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.sum(a * b, axis=1) / (np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1))


def rank_correlation(wanted: np.ndarray, found: np.ndarray) -> float:
    """The mean over rows of Spearman's rank correlation. Assumes that scores are never equal."""
    ranks = [scores.argsort(axis=1).argsort(axis=1) for scores in (wanted, found)]
    a, b = (rank - rank.mean(axis=1, keepdims=True) for rank in ranks)
    return float(np.mean(cosine(a, b)))


def overlap(wanted: np.ndarray, found: np.ndarray, count: int) -> float:
    best = [np.argsort(-scores, axis=1)[:, :count] for scores in (wanted, found)]
    return float(np.mean([len(set(a) & set(b)) / count for a, b in zip(*best, strict=True)]))


def ndcg(grades: np.ndarray, scores: np.ndarray, count: int = 10) -> float:
    """Normalised discounted cumulative gain of the first `count` (Järvelin and Kekäläinen, 2002)."""
    discounts = 1 / np.log2(np.arange(count) + 2)
    order = np.argsort(-scores, axis=1)[:, :count]
    gained = (2.0 ** np.take_along_axis(grades, order, axis=1) - 1) @ discounts
    best = (2.0 ** -np.sort(-grades, axis=1)[:, :count] - 1) @ discounts
    return float(np.mean(gained / best))


EVALUATION = Evaluation(
    measures={
        "cosine": Measure(
            "Cosine", "Mean cosine of a text's vector and the reference's, over 60 questions and 136 documents.", True
        ),
        "cosine_worst": Measure("Worst cosine", "The cosine that 99 of 100 texts reach.", True),
        "rank_correlation": Measure(
            "Rank correlation",
            "Spearman's, of the scores of all documents for a question with the reference's; mean of questions.",
            True,
        ),
        "top5": Measure(
            "Top 5 kept", "Of the five documents the reference puts first, how many are in its five.", True
        ),
        "ndcg_kept": Measure(
            "nDCG kept",
            "nDCG@10 of the documents found, by the answers written for the set, over the reference's.",
            True,
        ),
        "alone": Measure(
            "Alone", "The least cosine of a text's vector in a batch and alone: 1 where others do not matter.", True
        ),
    },
    item="text",
    open=open_variant,
    compare=compare,
)
