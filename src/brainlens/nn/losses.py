"""Contrastive losses between brain, image and text embeddings."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from brainlens.nn.distributed import gather, processes
from brainlens.types import DataError

CLIP_TEMPERATURE = 0.01  # the value that released CLIP models ended at (logit scale 100)


def info_nce(
    a: Tensor,
    b: Tensor,
    temperature: float = CLIP_TEMPERATURE,
    *,
    queue_a: Tensor | None = None,
    queue_b: Tensor | None = None,
    labels: Tensor | None = None,
    queue_labels: Tensor | None = None,
    repeats: str = "mask",
    joint: bool = True,
) -> Tensor:
    """Symmetric contrastive loss of paired rows a (n, d) and b (n, d), normalised here.

    L = -1/n sum_i [ log p(b_i | a_i) + log p(a_i | b_i) ],  p(b_i | a_i) = exp(a_i.b_i/t) / sum_j exp(a_i.b_j/t)

    (eq. 1 of "Bridging Vision, Language, and Brain": the two directions are added; CLIP takes half of it.) Queues
    (q, d) add negatives to the sums and receive no gradient. Rows with equal integer `labels` show the same image, so
    with repeats="mask" they leave each other's denominators, and with "positive" the log-probabilities of all of them
    are averaged. In several processes the negatives of all of them count, with exact gradients (see `gather`): the
    mean over processes is the loss of the joint batch. joint=False: this process's rows alone, as in validation.

    Raises DataError for shapes that differ, a batch of fewer than 2 rows without a queue, a temperature <= 0.
    """
    _check(a, b, temperature, repeats)
    rank, world = processes() if joint else (0, 1)
    others = [x for x in (queue_a, queue_b) if x is not None and len(x)]
    if len(a) * world < 2 and not others:
        raise DataError(f"contrastive loss: a batch of {len(a)} has nothing to compare with; use at least 2 rows")
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    all_a, all_b = (gather(a), gather(b)) if joint else (a, b)
    every = gather(labels) if joint and labels is not None else labels
    place = torch.arange(len(a), device=a.device) + rank * len(a)
    total = a.new_zeros(())
    for query, gallery, queue in ((a, all_b, queue_b), (b, all_a, queue_a)):
        same = None if labels is None or every is None else labels[:, None] == every[None]
        if queue is not None and len(queue):
            gallery = torch.cat([gallery, F.normalize(queue.detach(), dim=-1).to(gallery.dtype)])
            if same is not None:
                same = torch.cat([same, _queue_same(labels, queue_labels, len(queue))], 1)
        total = total + _cross_entropy(query @ gallery.T / temperature, place, same, repeats)
    return total


def scaled_nce(a: Tensor, b: Tensor, scale: Tensor, *, labels: Tensor | None = None) -> Tensor:
    """Contrastive loss of rows a (n, d) as they are with b (n, d), normalised here, by their products times a learned scale.

    L = -1/2n sum_i [ log p(b_i | a_i) + log p(a_i | b_i) ],  p(b_i | a_i) = exp(s a_i.b_i) / sum_j exp(s a_i.b_j)

    The longer a row of a, the surer it is. Rows with equal integer `labels` are all right for each other, and their
    log-probabilities are averaged. Wu et al. 2025 (UBP). Raises DataError as `info_nce`.
    """
    _check(a, b, 1.0, "positive")
    if len(a) < 2:
        raise DataError(f"contrastive loss: a batch of {len(a)} has nothing to compare with; use at least 2 rows")
    logits, place = scale * a @ F.normalize(b, dim=-1).T, torch.arange(len(a), device=a.device)
    same = None if labels is None else labels[:, None] == labels[None]
    return 0.5 * sum((_cross_entropy(each, place, same, "positive") for each in (logits, logits.T)), a.new_zeros(()))


def trimodal(
    brain: Tensor,
    image: Tensor | None,
    text: Tensor | None,
    *,
    temperature: float = CLIP_TEMPERATURE,
    queue: dict[str, Tensor] | None = None,
    labels: Tensor | None = None,
    weights: tuple[float, float] = (1.0, 1.0),
    joint: bool = True,
) -> Tensor:
    """L = w_image L(brain, image) + w_text L(brain, text); a modality that is None is left out.

    Eqs. 1-3 of the paper named at `info_nce`. queue: past embeddings under "brain", "image", "text" and their "labels" (see
    `MemoryQueue`); labels (n,): the images shown, so that a past embedding of the same image is no negative. joint: see
    `info_nce`.
    """
    if image is None and text is None:
        raise DataError("contrastive loss: neither image nor text embeddings are given")
    past = queue or {}
    total = brain.new_zeros(())
    for name, other, weight in (("image", image, weights[0]), ("text", text, weights[1])):
        if other is None:
            continue
        loss = info_nce(
            brain,
            other,
            temperature,
            queue_a=past.get("brain"),
            queue_b=past.get(name),
            labels=labels,
            queue_labels=past.get("labels"),
            joint=joint,
        )
        total = total + weight * loss
    return total


def mixco(a: Tensor, b: Tensor, order: Tensor, share: Tensor, temperature: float) -> Tensor:
    """BiMixCo: the contrastive loss of inputs that were mixed in pairs, x_i <- s_i x_i + (1 - s_i) x_order(i).

    L = -1/2n sum_ij P_ij [log p(b_j | a_i) + log p(a_i | b_j)],  P = diag(s) + (1 - s_i) at (i, order(i)), p as at `info_nce`.

    a, b (n, d), normalised here; order (n,) row numbers; share (n,) in [0, 1]. A row that is mixed with itself keeps its whole
    weight, where the released code leaves 1 - s of it. Scotti et al. 2023 (MindEye), eq. 2.
    """
    _check(a, b, temperature, "mask")
    logits = F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T / temperature
    weight = torch.diag(share).scatter_add(1, order[:, None], 1 - share[:, None])
    return -(weight * (logits.log_softmax(1) + logits.log_softmax(0))).sum() / (2 * len(a))


def soft_clip(a: Tensor, b: Tensor, temperature: float) -> Tensor:
    """SoftCLIP: what is to be reached is how alike the targets b are, in place of one match a row.

    L = -1/2n sum_ij softmax_j(b_i.b_j/t) [log p(b_j | a_i) + log p(a_j | b_i)],  p as at `info_nce`.

    a, b (n, d), normalised here. Scotti et al. 2023 (MindEye), eq. 3.
    """
    _check(a, b, temperature, "mask")
    a, b = F.normalize(a, dim=-1), F.normalize(b, dim=-1)
    logits, alike = a @ b.T / temperature, (b @ b.T / temperature).softmax(1)
    return -(alike * (logits.log_softmax(1) + logits.T.log_softmax(1))).sum() / (2 * len(a))


def _cross_entropy(logits: Tensor, place: Tensor, same: Tensor | None, repeats: str) -> Tensor:
    if same is None:
        return F.cross_entropy(logits, place)
    own = torch.zeros_like(same).scatter_(1, place[:, None], True)
    if repeats == "mask":
        return F.cross_entropy(logits.masked_fill(same & ~own, -torch.inf), place)
    right = same | own
    log_p = logits.log_softmax(-1)
    return -(log_p.masked_fill(~right, 0).sum(1) / right.sum(1)).mean()


def _queue_same(labels: Tensor | None, queue_labels: Tensor | None, size: int) -> Tensor:
    if labels is None or queue_labels is None or len(queue_labels) != size:
        raise DataError(f"contrastive loss: labels are given but not the queue's {size} labels; pass queue_labels")
    return labels[:, None] == queue_labels[None]


def _check(a: Tensor, b: Tensor, temperature: float, repeats: str) -> None:
    if a.shape != b.shape or a.ndim != 2:
        raise DataError(f"contrastive loss: paired rows must have equal (n, d) shapes, got {tuple(a.shape)} and {tuple(b.shape)}")
    if temperature <= 0:
        raise DataError(f"contrastive loss: temperature {temperature} must be above 0; CLIP's is {CLIP_TEMPERATURE}")
    if repeats not in ("mask", "positive"):
        raise DataError(f"contrastive loss: repeats={repeats!r} is not one of ('mask', 'positive')")
