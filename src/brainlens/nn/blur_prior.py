"""Uncertainty-aware blur prior (UBP): how blurred the picture is that a recording is to find, by how well it finds it.

    s_i <- share l_i + (1 - share) s_i,   m, d: mean and deviation (n - 1) of s over the batch,   z = Phi^-1(1 - alpha / 2)
    level_i = less blur where l_i > m + z d,   more where l_i < m - z d,   else medium

l_i: the logit of recording i and its own picture, s_i = 1 at the start, share = .3, alpha = .05. What a step finds holds from the
next epoch on; the first one is medium. A recording that is far better than the mean is certain and gets more detail.

Wu, H. et al. (2025), "Bridging the Vision-Brain Gap with an Uncertainty-Aware Blur Prior", CVPR; the rule as in the released code
(HaitaoWuTJU/Uncertainty-aware-Blur-Prior). There every forward pass moves s, also those over test rows, which write over the
training rows of the same numbers; here only training rows count.
"""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor

from brainlens.types import DataError

LESS, MEDIUM, MORE = 0, 1, 2  # the place of a level among the layers of blurred pictures


class BlurPrior:
    """The level of every training row in this epoch (`level`, int64) and in the next (`following`), and its running `similarity`.

    Raises DataError for a share outside (0, 1] and an alpha outside (0, 1).
    """

    def __init__(self, rows: int, *, share: float = 0.3, alpha: float = 0.05, device: str = "cpu") -> None:
        if not 0 < share <= 1 or not 0 < alpha < 1:
            raise DataError(f"blur prior: share {share} must be in (0, 1] and alpha {alpha} in (0, 1); published are .3 and .05")
        self.share, self.bound = share, NormalDist().inv_cdf(1 - alpha / 2)
        self.similarity = torch.ones(rows, dtype=torch.float64, device=device)
        self.level = torch.full((rows,), MEDIUM, device=device)
        self.following = self.level.clone()

    def observe(self, rows: Tensor, own: Tensor) -> None:
        """Takes the logits `own` (n,) of a batch's rows (n,) with their own pictures. Raises DataError for fewer than 2 rows."""
        if len(rows) < 2 or own.shape != rows.shape:
            raise DataError(f"blur prior: {len(rows)} rows and logits {tuple(own.shape)}; give one for each of at least 2 rows")
        own = own.detach().double()
        smooth = self.share * own + (1 - self.share) * self.similarity[rows]
        middle, reach = smooth.mean(), self.bound * smooth.std()
        level = torch.full_like(rows, MEDIUM)
        level[own > middle + reach] = LESS
        level[own < middle - reach] = MORE
        self.similarity[rows], self.following[rows] = smooth, level

    def advance(self) -> None:
        """Ends an epoch."""
        self.level = self.following.clone()

    def shares(self) -> dict[str, float]:
        """The share of training rows with each level in this epoch."""
        named = {"blur_low": LESS, "blur_medium": MEDIUM, "blur_high": MORE}
        return {name: float((self.level == level).double().mean()) for name, level in named.items()}
