"""A cache of recently encoded prompts: a prompt is encoded once for all its pictures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable

from models.engines.images_diffusers.denoising import Conditioning


class PromptCache:
    """
    Attributes:
        misses: how many prompts had to be encoded.
    """

    def __init__(self, most: int):
        self.most = most
        self.misses = 0
        self._kept: OrderedDict[Hashable, Conditioning] = OrderedDict()

    def get(self, key: Hashable, encode: Callable[[], Conditioning]) -> Conditioning:
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        self.misses += 1
        encoded = encode()
        self._kept[key] = encoded
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return encoded
