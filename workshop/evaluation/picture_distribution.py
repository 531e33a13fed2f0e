"""How far a set of pictures is from another as a whole: in colours, edges and fineness, not picture by picture.

A Fréchet distance as in Heusel et al., "GANs Trained by a Two Time-Scale Update Rule", 2017, over hand-made features of
parts of pictures in place of those of an Inception network. It is not the FID and not comparable with it: it sees
noise, blur, colour casts and pictures that became all alike, and knows nothing of what they show.
"""

from __future__ import annotations

import numpy as np

PARTS = 2  # along a side: more samples for the covariances
BLOCK = 8
ORIENTATIONS = 8
INVISIBLE = 1.0  # energy at each frequency of noise as strong as the least difference people see, one unit of Lab
WEIGHT_OF_OWN = 0.05  # shrinks covariances to their diagonal, which few samples estimate well


def distance(first: np.ndarray, second: np.ndarray, scale: np.ndarray) -> float:
    """
    Args:
        first, second: features (parts of pictures, features).
        scale: of each feature, the same wherever distances are compared.
    """
    means, covariances = [], []
    for features in (first / scale, second / scale):
        means.append(features.mean(axis=0))
        covariance = np.cov(features, rowvar=False)
        own = np.diag(np.diag(covariance) + 1e-6)
        covariances.append((1 - WEIGHT_OF_OWN) * covariance + WEIGHT_OF_OWN * own)
    root = square_root(covariances[0])
    together = square_root(root @ covariances[1] @ root)
    apart = np.sum((means[0] - means[1]) ** 2)
    return float(max(0.0, apart + np.trace(covariances[0] + covariances[1] - 2 * together)))


def square_root(matrix: np.ndarray) -> np.ndarray:
    """Of a symmetric matrix without negative eigenvalues, but for what was rounded."""
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def features_of(pictures: np.ndarray) -> np.ndarray:
    """uint8 (pictures, height, width, 3), sides at least 32 -> (pictures * PARTS**2, features)."""
    return np.stack([features_of_part(part) for picture in pictures for part in parts_of(picture)])


def parts_of(picture: np.ndarray) -> list[np.ndarray]:
    height, width = (side // PARTS // BLOCK * BLOCK for side in picture.shape[:2])
    return [
        picture[row * height : (row + 1) * height, column * width : (column + 1) * width]
        for row in range(PARTS)
        for column in range(PARTS)
    ]


def features_of_part(part: np.ndarray) -> np.ndarray:
    """Colours, edges and fineness of uint8 (height, width, 3), sides multiples of BLOCK."""
    import cv2

    lab = cv2.cvtColor(part.astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
    return np.concatenate([colours(lab), edges(lab[..., 0]), *(fineness(lab[..., channel]) for channel in range(3))])


def colours(lab: np.ndarray) -> np.ndarray:
    """Mean, spread and skew of each channel, and how two go together: 12 numbers."""
    flat = lab.reshape(-1, 3)
    centred = flat - flat.mean(axis=0)
    spread = centred.std(axis=0)
    skew = np.cbrt((centred**3).mean(axis=0))
    together = (centred.T @ centred / len(flat))[np.triu_indices(3, k=1)]
    return np.concatenate([flat.mean(axis=0), spread, skew, np.sign(together) * np.sqrt(np.abs(together))])


def edges(lightness: np.ndarray) -> np.ndarray:
    """How steep edges are, by their direction, and quantiles of that: 13 numbers."""
    down, right = np.gradient(lightness)
    steepness = np.hypot(down, right)
    turn = (np.arctan2(down, right) % np.pi) / np.pi * ORIENTATIONS
    by_turn = np.bincount(turn.astype(int).ravel() % ORIENTATIONS, steepness.ravel(), ORIENTATIONS) / steepness.size
    return np.concatenate([by_turn, np.quantile(steepness, (0.25, 0.5, 0.75, 0.9, 0.99))])


def fineness(channel: np.ndarray) -> np.ndarray:
    """Energy of the cosine transform of BLOCK x BLOCK blocks by frequency, in logarithms: 14 numbers."""
    transform = cosine_transform()
    height, width = channel.shape
    blocks = channel.reshape(height // BLOCK, BLOCK, width // BLOCK, BLOCK).swapaxes(1, 2)
    energy = ((transform @ blocks @ transform.T) ** 2).mean(axis=(0, 1))
    frequency = np.add.outer(np.arange(BLOCK), np.arange(BLOCK)).ravel()
    banded = np.bincount(frequency, energy.ravel()) / np.bincount(frequency)
    return np.log(banded[1:] + INVISIBLE)  # without the mean, which `colours` has


def cosine_transform() -> np.ndarray:
    """The orthonormal DCT-II as a matrix."""
    turns = np.outer(np.arange(BLOCK), 2 * np.arange(BLOCK) + 1) * np.pi / (2 * BLOCK)
    matrix = np.cos(turns) * np.sqrt(2 / BLOCK)
    matrix[0] /= np.sqrt(2)
    return matrix
