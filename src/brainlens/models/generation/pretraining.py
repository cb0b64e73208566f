"""What region tokens and the attention to them begin with: attention trained on image embeddings, where no brain is needed, and
ridge from each parcel to the tokens that such an embedding gives.

    e_j = W_j m + b_j,     j = 1..T tokens of an embedding m,     K, V, W, b trained as region tokens are
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from brainlens.models.estimator import check_device
from brainlens.models.generation.adapter_tables import (
    ALPHAS,
    caption_table,
    latents_of,
    match_images,
    open_pipeline,
)
from brainlens.models.generation.adapter_training import (
    DEFAULT,
    AdapterTable,
    AdapterTraining,
    Progress,
    embedding_prompts,
    empty_text,
    response_prompts,
    train_adapter,
)
from brainlens.nn.joint_tokens import JointTokens
from brainlens.nn.region_adapter import RegionAdapter, RegionTokens
from brainlens.solvers.ridge import RidgeFit, ridge_cv
from brainlens.subjects import held_out
from brainlens.types import DataError

TOKENS = 20  # of an embedding, about as many as words of a caption: attention to one token alone is the same at every place
TOKEN_MAP = ("tokens.weight", "tokens.bias")  # W (T, d, width), b (T, width) beside the attention layers


def pretrain_attention(
    pipeline: str | Path,
    images: Any,
    prompts: Any,
    *,
    captions: Sequence[str] | None = None,
    tokens: int = TOKENS,
    start: Mapping[str, Tensor] | None = None,
    training: AdapterTraining = DEFAULT,
    seed: int = 0,
    device: str = "cpu",
    folder: str | Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Tensor]:
    """The attention to tokens, trained on prompts that need no brain, for `NeuroAdapter.fit(before=...)`.

    images as in `fit`; prompts (image, d): embeddings, of which `tokens` tokens are learned (their map is given back beside the
    attention), or (image, token, width): tokens in the width of the network's text. captions: one for each image, to distil from;
    the learned tokens then start as ridge predictions of the states of its first words, which the network reads already.
    start: what an earlier call gave, to go on from (with as many tokens of as many channels).
    Tokens are dropped in training as regions are. Raises DataError for other widths, a start of another shape, and NaN.
    """
    check_device(device)
    diffusion = open_pipeline(pipeline, device)
    given = np.asarray(prompts.detach().cpu() if hasattr(prompts, "detach") else prompts, dtype=np.float32)
    width = int(diffusion.prompt.shape[-1])
    learned = given.ndim == 2
    if given.ndim not in (2, 3) or (not learned and given.shape[2] != width) or not np.isfinite(given).all():
        raise DataError(f"prompts of shape {given.shape} should be finite (image, tokens, {width}) or (image, channels)")
    if tokens < 1:
        raise DataError(f"prompts: {tokens} tokens of an embedding; ask for 1 or more")
    rows = match_images(images, None, len(given), None)
    held = held_out(rows.n, 0.1, seed)
    states = caption_table(diffusion, captions, rows, training.distil)
    tokens = tokens if states is None else min(tokens, states.shape[1])
    members = [np.arange(given.shape[1])] * tokens if learned else [np.zeros(1, np.int64)] * given.shape[1]
    adapter = RegionAdapter(diffusion.unet, members, scale=training.scale, seed=seed).to(device)
    if start is not None:
        _go_on(adapter, start, learned)
    elif learned and states is not None:
        _start_map(adapter, given, states, held)
    table = AdapterTable.of(latents_of(diffusion, rows), held, hashlib.sha256(given.tobytes()).hexdigest(), states)
    x, text = torch.from_numpy(given), empty_text(diffusion)
    adapter.tokens.requires_grad_(learned)
    prompt_of = response_prompts(adapter, x, text) if learned else embedding_prompts(adapter, x, text)
    place = None if folder is None else Path(folder)
    train_adapter(
        diffusion, adapter, table, prompt_of,
        training=training, regions=len(members), seed=seed, folder=place, progress=progress,
    )  # fmt: skip
    found = {name: value.detach().cpu() for name, value in adapter.layers.state_dict().items()}
    if learned:
        found |= dict(zip(TOKEN_MAP, (adapter.tokens.weight.detach().cpu(), adapter.tokens.bias.detach().cpu()), strict=True))
    return found


def _go_on(adapter: RegionAdapter, start: Mapping[str, Tensor], learned: bool) -> None:
    """The layers, and the map of the tokens where it is learned, as an earlier training left them."""
    goal = dict(adapter.layers.state_dict())
    if learned:
        goal |= dict(zip(TOKEN_MAP, (adapter.tokens.weight.data, adapter.tokens.bias.data), strict=True))
    for name, value in goal.items():
        if name not in start or start[name].shape != value.shape:
            there = tuple(start[name].shape) if name in start else "missing"
            raise DataError(f"start: {name} is {there}, this network and these prompts have {tuple(value.shape)}")
        value.copy_(start[name])


def _start_map(adapter: RegionAdapter, prompts: np.ndarray, states: Tensor, held: np.ndarray) -> None:
    """Token j starts as the ridge prediction of state j of the caption."""
    count, width = adapter.tokens.bias.shape
    fit = ridge_cv(prompts[~held], states[torch.from_numpy(~held), :count].float().flatten(1), ALPHAS)
    with torch.no_grad():
        adapter.tokens.weight.copy_(fit.weights.unflatten(1, (count, width)).transpose(0, 1))
        adapter.tokens.bias.copy_(fit.intercept.unflatten(0, (count, width)))


def token_targets(prompts: np.ndarray | None, before: Mapping[str, Tensor] | None) -> np.ndarray | None:
    """Tokens (image, T, width) of embeddings (image, d) by the map of a pretrained attention, or the embeddings as one token.

    Raises DataError for embeddings of another width than the map's.
    """
    if prompts is None or before is None or TOKEN_MAP[0] not in before:
        return None if prompts is None else prompts[:, None]
    weight, bias = (before[name].float().numpy() for name in TOKEN_MAP)
    if prompts.shape[1] != weight.shape[1]:
        raise DataError(f"prompts have {prompts.shape[1]} channels, the pretrained attention reads {weight.shape[1]}")
    return np.asarray(np.einsum("nd,tdw->ntw", prompts, weight) + bias, dtype=np.float32)


def start_tokens(adapter: RegionAdapter, x: np.ndarray, targets: np.ndarray | None, held: np.ndarray) -> None:
    """Every parcel starts as one of the T tokens of the prompt m, and those of one token predict it together.

        W, b = argmin |m_j - sum_p x_p W_p - b|^2 + a |W|^2 over the parcels p of token j;     W_p <- n_j W_p,     b_p <- b

    so that the mean of the n_j tokens is the ridge prediction. Parcels are given to tokens by how well each alone predicts them,
    about as many to each. targets (image, T, width); the penalty and the gift are chosen on training images.
    Raises DataError without prompts, for another width, and for tokens with a head, which would undo it.
    """
    if targets is None:
        raise DataError('start="ridge" needs prompts= in fit, an embedding of every image in the width of the text')
    if targets.shape[2] != adapter.width:
        raise DataError(
            f"prompts have {targets.shape[2]} channels, the network's text has {adapter.width}; use its own embeddings"
        )
    tokens = adapter.tokens
    assert isinstance(tokens, RegionTokens)  # joint ones start in `start_joint`
    if tokens.proj is not None:
        raise DataError('start="ridge" is for linear tokens; set training={"head": False}')
    members = [index[real > 0].numpy() for index, real in zip(tokens.index, tokens.real, strict=True)]
    x, targets = x[~held], targets[~held]
    given = _gifts(x, targets, members)
    with torch.no_grad():
        tokens.weight.zero_()
        for j in np.unique(given):
            parcels = np.flatnonzero(given == j)
            fit = ridge_cv(x[:, np.concatenate([members[p] for p in parcels])], targets[:, j], ALPHAS)
            parts = fit.weights.split([len(members[p]) for p in parcels])
            for p, part in zip(parcels, parts, strict=True):
                tokens.weight[p, : len(part)] = len(parcels) * part
                tokens.bias[p] = fit.intercept


def start_joint(
    adapter: RegionAdapter, x: np.ndarray, prompts: np.ndarray | None, before: Mapping[str, Tensor] | None, held: np.ndarray
) -> RidgeFit:
    """The code of joint tokens starts as the ridge prediction of the embeddings (image, d) from all parcels, and stays so; tokens
    are read from it by the map of the pretrained attention. Returns the ridge.

    The intercept goes into the tokens' biases. The penalty is chosen on training images. Raises DataError without embeddings,
    without such a map, and for one of other tokens or channels.
    """
    tokens = adapter.tokens
    assert isinstance(tokens, JointTokens)
    if prompts is None or before is None or TOKEN_MAP[0] not in before:
        raise DataError('joint tokens with start="ridge" need prompts= and, as before=, attention pretrained on such embeddings')
    weight, bias = (before[name].float() for name in TOKEN_MAP)
    if weight.shape != tokens.weight.shape or prompts.shape[1] != weight.shape[1]:
        raise DataError(
            f"the pretrained attention reads {weight.shape[1]} channels into {len(weight)} tokens; prompts have "
            f"{prompts.shape[1]} channels, joint={len(tokens.bias)}"
        )
    fit = ridge_cv(x[~held], prompts[~held], ALPHAS)
    tokens.set_code(fit.weights)
    with torch.no_grad():
        tokens.weight.copy_(weight)
        tokens.bias.copy_(bias + torch.einsum("d,tdw->tw", fit.intercept, weight))
    return fit


def _gifts(x: np.ndarray, targets: np.ndarray, members: Sequence[np.ndarray]) -> np.ndarray:
    """The token of each parcel (parcel,): the sum of validation R2 is highest among gifts of equal shares."""
    count = targets.shape[1]
    if count == 1:
        return np.zeros(len(members), np.int64)
    flat = np.ascontiguousarray(targets.reshape(len(targets), -1))
    size = flat.var(axis=0).reshape(count, -1).sum(1)
    explained = np.empty((len(members), count))
    for p, units in enumerate(members):
        loss = -ridge_cv(x[:, units], flat, ALPHAS).cv_score.numpy()
        explained[p] = 1 - loss.reshape(count, -1).sum(1) / np.maximum(size, np.finfo(np.float32).tiny)
    slots = np.repeat(np.arange(count), -(-len(members) // count))
    return np.asarray(slots[linear_sum_assignment(-explained[:, slots])[1]])
