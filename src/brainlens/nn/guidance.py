"""Semantic guidance of a brain-image alignment by image-text similarity, and the dynamic weighting of its losses.

Both are from NeuroAlign: semantic guidance eqs. 4-6 and Algorithm 1 (lines 14-16), dynamic loss adjustment eqs. 7-9.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.types import DataError

GUIDANCE_FORMS = ("softmax", "diagonal")
NORM_FORMS = ("share", "relative", "literal")


def semantic_guidance(
    brain: Tensor,
    image: Tensor,
    text: Tensor,
    *,
    temperature: float = 0.07,
    form: str = "softmax",
    reduction: str = "mean",
    teacher_gradient: bool = False,
) -> Tensor:
    """KL divergence of brain-image similarity from image-text similarity over a batch.

    L = 1/N sum_i sum_j Q_ij log(Q_ij / P_ij), Q_i = softmax_j(e_i . v_j / t), P_i = softmax_j(v_i . t_j / t)

    brain e, image v, text t are (N, d), normalised here. Source: NeuroAlign eqs. 4-6 and Algorithm 1.
    form: "softmax" is Algorithm 1. Eqs. 4 and 5 print a 1 on the diagonal of P and Q ("diagonal"): the rows are then no
    distributions and the diagonal, where the pairs are, adds nothing to the divergence, so it is an option only.
    reduction: "mean" divides by N (Algorithm 1), "sum" does not (eq. 6). P is the teacher and passes no gradient unless
    `teacher_gradient`, or the text would be pulled towards the brain.
    Raises DataError for unequal shapes, a temperature <= 0, or an unknown form or reduction.
    """
    if not brain.shape == image.shape == text.shape or brain.ndim != 2:
        raise DataError(f"guidance: rows must have equal (n, d) shapes, got {[tuple(x.shape) for x in (brain, image, text)]}")
    if temperature <= 0:
        raise DataError(f"guidance: temperature {temperature} must be above 0; the paper's is 0.07")
    if form not in GUIDANCE_FORMS or reduction not in ("mean", "sum"):
        raise DataError(f"guidance: form {form!r}, reduction {reduction!r}; they are {list(GUIDANCE_FORMS)} and ['mean', 'sum']")
    e, v, t = (F.normalize(x, dim=-1) for x in (brain, image, text))
    log_q = (e @ v.T / temperature).log_softmax(-1)
    log_p = (v @ t.T / temperature).log_softmax(-1)
    log_p = log_p if teacher_gradient else log_p.detach()
    terms = log_q.exp() * (log_q - log_p)
    if form == "diagonal":
        terms = terms - torch.diag_embed(terms.diagonal())
    return terms.sum() / (len(e) if reduction == "mean" else 1)


@dataclass
class LossAdjustment:
    """Weights of several losses from the norms of their gradients, and the step's gradient made from the same gradients.

    w_k = softmax_k(g_k (1 + r_k) / T),  g_k = |dL_k / d theta_k|,  r_k = |g_k - g_k'| / (g_k' + eps)

    with g_k' the norm of the step before. Source: NeuroAlign eqs. 7-9, T = .07, eps = 1e-8. theta_k are the parameters that
    loss k reaches among those that `backward` is given.

    norms: with T = .07 the printed form ("literal") is one-hot as soon as two norms differ by more than about .3. "share"
    (default) divides each score g_k (1 + r_k) by their sum. All three losses are cross entropies of softmaxes over one batch at
    one temperature, through heads of one kind, so their norms are comparable as they are: the guidance begins small, because
    P and Q are both uniform then, and grows as the captions are learned, and the weights run as in Fig. 8 (w1 first, then w3).
    "relative" divides each norm by its own mean over the first `settle` steps before that; the guidance, which has almost none
    there, then takes .95 of the weight for good. `smooth` is the decay of a moving average over steps (0 in the literal form),
    because r_k between two batches of random images is mostly noise.
    """

    temperature: float = 0.07
    norms: str = "share"
    epsilon: float = 1e-8
    smooth: float = 0.95
    settle: int = 20
    _now: Tensor | None = None
    _base: Tensor | None = None
    _steps: int = 0

    def __post_init__(self) -> None:
        if self.norms not in NORM_FORMS or self.temperature <= 0:
            raise DataError(
                f"loss adjustment: norms {self.norms!r} is not one of {list(NORM_FORMS)}, or T {self.temperature} <= 0"
            )

    def weights(self, norms: Tensor) -> Tensor:
        """Weights (k,) that sum to 1 from this step's gradient norms (k,); keeps what the next step needs."""
        norms = norms.detach().double()
        if not torch.isfinite(norms).all():
            raise DataError(f"loss adjustment: gradient norms {norms.tolist()} are not finite; lower the learning rate")
        before, keep = self._now, 0.0 if self.norms == "literal" else self.smooth
        now = norms if before is None else keep * before + (1 - keep) * norms
        velocity = torch.zeros_like(now) if before is None else (now - before).abs() / (before + self.epsilon)
        if self._steps < self.settle:
            base = torch.zeros_like(now) if self._base is None else self._base
            self._base = base + (norms - base) / (self._steps + 1)
        self._now, self._steps = now, self._steps + 1
        score = now * (1 + velocity)
        if self.norms == "relative" and self._base is not None:
            score = score / (self._base + self.epsilon)
        if self.norms != "literal":
            score = score / (score.sum() + self.epsilon)
        return (score / self.temperature).softmax(0)

    def backward(self, losses: Sequence[Tensor], parameters: Sequence[nn.Parameter], leaf: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the gradient of sum_k w_k L_k to `parameters`; (w (k,), gradient with respect to `leaf`).

        `leaf` is the detached output of the encoder on which heads and losses were computed. Every loss is differentiated
        once down to it, the norms are taken there over the heads, and the caller carries the weighted gradient through the
        encoder in one pass: `hidden.backward(gradient)`. Nothing is computed twice, so a step costs little more than with
        fixed weights.
        """
        wanted = [leaf, *parameters]
        gradients = [torch.autograd.grad(loss, wanted, retain_graph=True, allow_unused=True) for loss in losses]
        norms = torch.stack([_norm(each[1:], leaf) for each in gradients])
        weights = self.weights(norms)
        for i, parameter in enumerate(parameters):
            total = _combine([each[i + 1] for each in gradients], weights)
            if total is not None:
                parameter.grad = total if parameter.grad is None else parameter.grad + total
        back = _combine([each[0] for each in gradients], weights)
        return weights, torch.zeros_like(leaf) if back is None else back


def _norm(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor:
    parts = [g for g in gradients if g is not None]
    return torch.stack(torch._foreach_norm(parts)).norm() if parts else like.new_zeros(())


def _combine(gradients: Sequence[Tensor | None], weights: Tensor) -> Tensor | None:
    total = None
    for gradient, weight in zip(gradients, weights.tolist(), strict=True):
        if gradient is not None:
            total = gradient * weight if total is None else total.add_(gradient, alpha=weight)
    return total
