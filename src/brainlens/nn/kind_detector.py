"""A small network that names what a crop of a picture shows: five convolutions and one linear map of all that is left."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

CROP = 40  # pixels of a crop of a picture of 64
WIDTHS = (32, 64, 96, 128, 128)


class KindDetectorNetwork(nn.Module):
    """Crops (B, 3, 40, 40) in [0, 1] -> scores (B, kinds).

        x_{l+1} = relu(norm(conv_l x_l)),   stride 1, 2, 2, 2, 1;      scores = W x_5 + b

    widths: channels of the convolutions; norm over the batch in training, by its running moments afterwards.
    """

    def __init__(self, kinds: int, widths: tuple[int, ...] = WIDTHS) -> None:
        super().__init__()
        channels = (3, *widths)
        strides = (1, 2, 2, 2, 1)
        self.convolutions = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=s, padding=1) for a, b, s in zip(channels[:-1], channels[1:], strides, strict=True)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(b) for b in widths)
        self.readout = nn.Linear(widths[-1] * (CROP // 8) ** 2, kinds)

    def forward(self, crops: Tensor) -> Tensor:
        x = crops * 2 - 1
        for convolution, norm in zip(self.convolutions, self.norms, strict=True):
            x = F.relu(norm(convolution(x)))
        return self.readout(x.flatten(1))
