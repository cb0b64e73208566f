"""One optimisation step: the loss sees the joint batch however it is cut into pieces and spread over processes.

The joint batch of a step is cut into `processes x accumulate` pieces of equal size. A contrastive loss does not add up
over pieces, so with more than one piece a process goes twice over its own: first without a graph to get all embeddings,
then, with the gradient of the joint loss in these embeddings at hand, through each piece with its graph. Two processes
therefore do what one process does with two pieces, and both what one piece does, dropout apart, which is drawn from
(seed, step, piece).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.choices import MODALITIES
from brainlens.models.processes import average, average_gradients
from brainlens.models.volume.split import AlignmentPart, gather_mean
from brainlens.nn.decoding_baselines import embedded
from brainlens.nn.distributed import gather, processes
from brainlens.nn.losses import mixco, soft_clip, trimodal
from brainlens.nn.memory_queue import MemoryQueue
from brainlens.types import DataError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MIXING = 1 / 3  # of a training by MindEye's objective
APART = 1 << 40  # between the dropout seeds of two pieces of a step


@dataclass(frozen=True)
class Drawn:
    """The joint batch of a step: item numbers (B,), their trial rows and weights (B, R), subject (number, name), the seed."""

    items: Tensor
    rows: Tensor
    weights: Tensor
    subject: int
    seed: int
    name: str = ""

    def __len__(self) -> int:
        return len(self.items)


@dataclass(frozen=True)
class MindEyeStep:
    """What a step of MindEye's objective does: BiMixCo with an order and shares of mixing, SoftCLIP without."""

    temperature: float
    order: Tensor | None = None
    share: Tensor | None = None

    def mixed(self, x: Tensor) -> Tensor:
        """The rows x (n, V) as the encoder sees them."""
        if self.order is None or self.share is None:
            return x
        share = self.share.to(x)[:, None]
        return share * x + (1 - share) * x[self.order.to(x.device)]

    def loss(self, brain: Tensor, image: Tensor | None, text: Tensor | None) -> Tensor:
        """The sum, a scalar, of the losses of brain (n, d) against image (n, d) and text (n, d)."""
        total = brain.new_zeros(())
        for target in (one for one in (image, text) if one is not None):
            if self.order is None or self.share is None:
                total = total + soft_clip(brain, target, self.temperature)
            else:
                order, share = self.order.to(brain.device), self.share.to(brain)
                total = total + mixco(brain, target, order, share, self.temperature)
        return total


def mindeye_step(step: int, steps: int, rows: int, seed: int) -> MindEyeStep:
    """Step `step` of `steps` with `rows` in the batch: BiMixCo for a third of the training, then SoftCLIP.

    BiMixCo at temperature .006 mixes half of the rows with shares from Beta(.15, .15); SoftCLIP's temperature goes from .004 to
    .0075 by half a cosine (Scotti et al. 2023, section 3 and released code).
    """
    mixing = round(MIXING * steps)
    if step < mixing:
        rng = np.random.default_rng([seed, 1])
        share = np.where(rng.random(rows) <= 0.5, rng.beta(0.15, 0.15, rows), 1.0)
        return MindEyeStep(0.006, torch.from_numpy(rng.permutation(rows)), torch.from_numpy(share).float())
    done = (step - mixing) / max(1, steps - mixing - 1)
    return MindEyeStep(0.004 + 0.0035 * (1 - math.cos(math.pi * done)) / 2)


def targets(part: AlignmentPart, items: Tensor, modality: str) -> tuple[Tensor | None, Tensor | None]:
    """Image and text targets (n, d) of items (n,); a modality that is switched off, or missing, is None."""
    if modality not in MODALITIES:
        raise DataError(f"modality {modality!r} is not one of {', '.join(MODALITIES)}")
    if modality == "text" and part.text is None:
        raise DataError("modality 'text' needs captions, and this recording has none; choose image")
    image = part.image[items] if modality != "text" else None
    return image, None if part.text is None or modality == "image" else part.text[items]


def own_pieces(drawn: Drawn, accumulate: int) -> list[Tensor]:
    """Positions (n,) in the joint batch of the pieces of this process, all of one size; what does not fit is left out.

    Raises DataError when the batch has fewer rows than pieces, or fewer than two rows.
    """
    rank, world = processes()
    count = world * accumulate
    size = len(drawn) // count
    if size < 1 or size * count < 2:
        raise DataError(
            f"align: a batch of {len(drawn)} in {world} processes x {accumulate} pieces is too small for a contrastive loss; "
            "give a larger batch or fewer pieces"
        )
    return [torch.arange(size) + size * (rank * accumulate + k) for k in range(accumulate)]


def joint_gradients(
    module: nn.Module,
    part: AlignmentPart,
    drawn: Drawn,
    *,
    accumulate: int = 1,
    precision: str = "float32",
    modality: str = "both",
    temperature: float = 0.07,
    queue: MemoryQueue | None = None,
    scale: Callable[[Tensor], Tensor] | None = None,
    mindeye: MindEyeStep | None = None,
) -> tuple[Tensor, Tensor]:
    """The loss of the joint batch, a scalar, and this process's embeddings (n, d); its gradients are left in the parameters.

    scale: multiplies the loss before it goes backward (float16). With a loss that is not finite no gradient is computed.
    mindeye: its loss in place of InfoNCE, for one piece without a queue.
    """
    pieces, first = own_pieces(drawn, accumulate), processes()[0] * accumulate
    device = part.x.device
    inputs = [gather_mean(part.x, drawn.rows[at], drawn.weights[at]) for at in pieces]
    inputs = inputs if mindeye is None else [mindeye.mixed(inputs[0])]

    def embed(k: int) -> Tensor:
        torch.manual_seed(drawn.seed + APART * (first + k))
        with torch.autocast(device.type, PRECISIONS[precision], enabled=precision != "float32"):
            return embedded(module, inputs[k], drawn.name).float()

    items = drawn.items[torch.cat(pieces)]
    once = accumulate == 1
    with torch.set_grad_enabled(once):
        z = torch.cat([embed(k) for k in range(accumulate)])
    if not once:
        z.requires_grad_()
    past = None if queue is None else queue.content(subject=drawn.subject)
    labels = None if queue is None else items.to(device)
    if mindeye is not None:
        loss = mindeye.loss(z, *targets(part, items, modality))
    else:
        loss = trimodal(z, *targets(part, items, modality), temperature=temperature, queue=past, labels=labels)
    joint = average(loss.detach())
    if not torch.isfinite(joint):
        return joint, z.detach()
    (loss if scale is None else scale(loss)).backward()
    if not once:
        assert z.grad is not None
        for k, gradient in enumerate(z.grad.split(len(pieces[0]))):
            embed(k).backward(gradient)
    average_gradients(module.parameters())
    return joint, z.detach()


def remember(queue: MemoryQueue, part: AlignmentPart, drawn: Drawn, z: Tensor, *, accumulate: int, modality: str) -> None:
    """Puts the joint batch into the queue of every process, in the same order.

    z (n, d): this process's embeddings, in the order of its pieces.
    """
    items = drawn.items[torch.cat(own_pieces(drawn, accumulate))]
    image, text = targets(part, items, modality)
    present = {"brain": z} | ({} if image is None else {"image": image}) | ({} if text is None else {"text": text})
    with torch.no_grad():
        rows = {name: gather(value) for name, value in present.items() if name in queue.names}
        queue.push(rows, gather(items.to(z.device)), subject=drawn.subject)


def wrong_items(module: nn.Module, z: Tensor, drawn: Drawn, accumulate: int) -> Tensor:
    """Items (k,) of this process whose embedding in z (n, d) is not finite; all of its batch where every one is finite."""
    items = drawn.items[torch.cat(own_pieces(drawn, accumulate))]
    bad = ~torch.isfinite(z).all(1).cpu()
    return items[bad] if bad.any() else items
