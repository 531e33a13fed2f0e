"""The two networks of Real-ESRGAN (Wang and others, 2021, https://arxiv.org/abs/2107.10833).

Parameters have upstream's names, so its checkpoints load unchanged. Both networks map RGB from 0 to 1, shape
(batch, 3, height, width), to (batch, 3, height * 4, width * 4), in two parts:

    trunk   works at the picture's own size and sees far
    draw    works at the size of the result, takes most of the memory and sees near

Each states its reach in pixels of the picture. Pixels beyond it do not change the 8-bit result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional

SCALE = 4


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, kernel_size=3, padding=1)


class DenseBlock(nn.Module):
    """Five convolutions. Each gets the results of all before it; the last is added to the input."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.conv1 = conv(features, growth)
        self.conv2 = conv(features + growth, growth)
        self.conv3 = conv(features + 2 * growth, growth)
        self.conv4 = conv(features + 3 * growth, growth)
        self.conv5 = conv(features + 4 * growth, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = x
        for layer in (self.conv1, self.conv2, self.conv3, self.conv4):
            seen = torch.cat((seen, functional.leaky_relu(layer(seen), 0.2, inplace=True)), dim=1)
        return x + 0.2 * self.conv5(seen)


class ResidualDenseBlock(nn.Module):
    """Three dense blocks, added to the input."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.rdb1 = DenseBlock(features, growth)
        self.rdb2 = DenseBlock(features, growth)
        self.rdb3 = DenseBlock(features, growth)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(nn.Module):
    """Residual-in-residual dense blocks, then two doublings. 23 blocks for photographs, 6 for drawings."""

    draw_reach = 2

    def __init__(self, blocks: int, features: int = 64, growth: int = 32):
        super().__init__()
        # The convolutions reach 15 pixels per block and one at each end: 92 for 6 blocks, 347 for 23. But each block
        # scales its result by a fifth twice, and pixels beyond 112 changed no value by more than one in 255.
        self.trunk_reach = min(15 * blocks + 2, 112)
        self.conv_first = conv(3, features)
        self.body = nn.Sequential(*(ResidualDenseBlock(features, growth) for _ in range(blocks)))
        self.conv_body = conv(features, features)
        self.conv_up1 = conv(features, features)
        self.conv_up2 = conv(features, features)
        self.conv_hr = conv(features, features)
        self.conv_last = conv(features, 3)

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv_first(x)
        return x + self.conv_body(self.body(x))

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        for layer in (self.conv_up1, self.conv_up2):
            x = functional.leaky_relu(layer(functional.interpolate(x, scale_factor=2)), 0.2, inplace=True)
        return self.conv_last(functional.leaky_relu(self.conv_hr(x), 0.2, inplace=True))


class SRVGGNetCompact(nn.Module):
    """A chain of convolutions. The last makes 16 pixels from each, which are added to the enlarged picture.
    It has no trunk, and does about 27 times less work than an RRDBNet of 23 blocks."""

    trunk_reach = 0

    def __init__(self, convolutions: int, features: int = 64):
        super().__init__()
        self.draw_reach = convolutions + 2
        layers: list[nn.Module] = [conv(3, features), nn.PReLU(features)]
        for _ in range(convolutions):
            layers += [conv(features, features), nn.PReLU(features)]
        self.body = nn.Sequential(*layers, conv(features, 3 * SCALE * SCALE))

    def trunk(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def draw(self, x: torch.Tensor) -> torch.Tensor:
        return functional.pixel_shuffle(self.body(x), SCALE) + functional.interpolate(x, scale_factor=SCALE)


def build(config: dict[str, Any]) -> RRDBNet | SRVGGNetCompact:
    """Build the network that a config.json describes, without weights.

    Raises:
        ValueError: the architecture is not one of these two.
    """
    match config:
        case {"architecture": "RRDBNet", "blocks": int(blocks)}:
            return RRDBNet(blocks)
        case {"architecture": "SRVGGNetCompact", "convolutions": int(convolutions)}:
            return SRVGGNetCompact(convolutions)
    raise ValueError(f"an upscaler is an RRDBNet with `blocks` or an SRVGGNetCompact with `convolutions`, not {config}")
