"""What a prediction costs: multiply-adds and weights of a fitted encoding model (Brain Decodes Deep Nets, table 16).

The network that gives the tokens is left out: it is the same for every method.
"""

from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from brainlens.models.encoding.layered_models import TrainedReader
from brainlens.models.encoding.ridge import LayerwiseRidge
from brainlens.nn.factortopy import GRID, FactorTopyNetwork

BATCH = 8  # images of a forward pass, as the paper trains; the selector networks run once for all of them


def multiply_adds(model: LayerwiseRidge | TrainedReader) -> float:
    """Multiply-adds of all matrix products of a forward pass, for one image, counted while it runs.

    For ridge the number of weights that are read, sum_v F_l(v) over units v with F features in their layer. Sums, means and
    elementwise work are not counted. Of FactorTopy it is the count of the product per cell that is run here (see
    `nn.factortopy`), which is smaller than that of the paper's listing.
    """
    if isinstance(model, LayerwiseRidge):
        return float(parameters(model) - len(model.layer_))
    network, device = model.network_, model.network_.readout.device
    tokens = {name: torch.zeros(BATCH, GRID**2, channels, device=device) for name, channels in model.channels_.items()}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(tokens, {name: values[:, 0] for name, values in tokens.items()})
    return counter.get_total_flops() / 2 / BATCH


def parameters(model: LayerwiseRidge | TrainedReader) -> int:
    """Weights of the model: those trained, or for ridge those of each unit's layer and its intercept.

    Of FactorTopy without those of a common reading that held-back images left out.
    """
    if isinstance(model, LayerwiseRidge):
        return sum(held["weights"].size + held["intercept"].size for held in model.fits_ if len(held["units"]))
    unread = isinstance(model.network_, FactorTopyNetwork) and not model.network_.reads_common
    return sum(value.numel() for name, value in model.network_.named_parameters() if not (unread and name == "common_readout"))
