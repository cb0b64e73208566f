"""The brain encoder that chooses among candidates: responses of parcels predicted from image tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from brainlens.models.estimator import Model, check_device
from brainlens.models.volume.arrays import as_array
from brainlens.nn.parcel_predictor import ParcelPredictorNetwork, choose
from brainlens.parcels import Parcels
from brainlens.subjects import held_out
from brainlens.types import DataError


@dataclass(frozen=True)
class PredictorTraining:
    """AdamW on the mean squared error of z-scored responses; the state with the lowest error on held-back images is kept, and
    training stops after `patience` epochs without a lower one."""

    epochs: int = 60
    batch: int = 32
    lr: float = 1e-3
    weight_decay: float = 1e-2
    patience: int = 8
    width: int = 64
    depth: int = 1
    heads: int = 4


class ParcelPredictor(Model):
    """Responses (image, unit) of parcels from image tokens (image, token, channel), one query a parcel.

        y_p = W_p decoder(q_p, tokens) + b_p,     min mean |y - z-scored response|^2

    Tokens are z-scored by channel and responses by unit, on training images. Units in no parcel are predicted as their mean.
    Trained on training images alone, it chooses among the candidates of a NeuroAdapter: `choose`. Adeli et al. 2025 (a query for
    each parcel on DINOv2 tokens, 16 models combined; here one, at width 64). training: changed fields of `PredictorTraining`.
    """

    def __init__(self, *, training: Mapping[str, Any] | None = None, seed: int = 0, device: str = "cpu") -> None:
        self.training = training
        self.seed = seed
        self.device = device

    def fit(self, tokens: Any, Y: Any, parcels: Parcels) -> Self:
        """Fits on the tokens (image, token, channel) of training images and their mean responses Y (image, unit)."""
        check_device(self.device)
        recipe = self._recipe()
        x, y = _tokens(tokens), as_array(Y, "Y")
        if len(x) != len(y):
            raise DataError(f"tokens of {len(x)} images, Y of {len(y)}; give one row of Y for every image")
        if parcels.label.shape != (y.shape[1],):
            raise DataError(
                f"Y has {y.shape[1]} units, the parcels are of {len(parcels.label)}; make them from the same recording"
            )
        held = held_out(len(y), 0.1, self.seed)
        self.token_mean_, self.token_scale_ = _moments(x[~held], (0, 1))
        self.mean_, self.scale_ = _moments(y[~held], (0,))
        self.members_, self.units_ = parcels.members, np.flatnonzero(parcels.label >= 0)
        network = self._new(recipe).to(self.device)
        z = torch.from_numpy((y - self.mean_) / self.scale_)
        inputs = torch.from_numpy((x - self.token_mean_) / self.token_scale_)
        self.history_ = self._train(network, inputs, z, held, recipe)
        self.network_ = {name: value.detach().cpu() for name, value in network.state_dict().items()}
        return self

    def predict(self, tokens: Any, *, batch: int = 64) -> np.ndarray:
        """Responses (image, unit) float32 in the units of Y."""
        self._check_fitted("network_")
        x = _tokens(tokens)
        if x.shape[2] != len(self.token_mean_):
            raise DataError(
                f"tokens have {x.shape[2]} channels, the model was fitted on {len(self.token_mean_)}; use the same network"
            )
        network = self._new(self._recipe())
        network.load_state_dict(self.network_)
        network.to(self.device).eval()
        parts = []
        with torch.no_grad():
            for part in torch.from_numpy((x - self.token_mean_) / self.token_scale_).split(batch):
                parts.append(network(part.to(self.device)).cpu().numpy())
        return np.asarray(np.concatenate(parts) * self.scale_ + self.mean_, dtype=np.float32)

    def choose(self, tokens: Any, Y: Any) -> tuple[np.ndarray, np.ndarray]:
        """The best candidate of each trial and all correlations: tokens (trial, candidate, token, channel), Y (trial, unit).

        Pearson over the units of the parcels, predicted and measured both z-scored by the training images.
        """
        self._check_fitted("network_")
        given = np.asarray(tokens.detach().cpu() if hasattr(tokens, "detach") else tokens)
        y = as_array(Y, "Y")
        if given.ndim != 4 or len(given) != len(y) or y.shape[1] != len(self.mean_):
            wanted = f"(trial, candidate, token, channel) and (trial, {len(self.mean_)})"
            raise DataError(f"tokens {given.shape} and Y {y.shape} should be {wanted}")
        predicted = self.predict(given.reshape(-1, *given.shape[2:])).reshape(*given.shape[:2], -1)
        z = [((part - self.mean_) / self.scale_)[..., self.units_] for part in (predicted, y)]
        return choose(*z)

    def _recipe(self) -> PredictorTraining:
        known = set(asdict(PredictorTraining()))
        unknown = sorted(set(self.training or {}) - known)
        if unknown:
            raise DataError(f"training has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
        return replace(PredictorTraining(), **dict(self.training or {}))

    def _new(self, recipe: PredictorTraining) -> ParcelPredictorNetwork:
        size = {"width": recipe.width, "depth": recipe.depth, "heads": recipe.heads}
        return ParcelPredictorNetwork(self.members_, len(self.token_mean_), len(self.mean_), seed=self.seed, **size)

    def _train(
        self, network: ParcelPredictorNetwork, x: Tensor, z: Tensor, held: np.ndarray, recipe: PredictorTraining
    ) -> list[dict[str, float]]:
        optimiser = torch.optim.AdamW(network.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay)
        draw = torch.Generator().manual_seed(self.seed)
        train, validation = (torch.from_numpy(np.flatnonzero(part)) for part in (~held, held))
        units = torch.from_numpy(self.units_)

        def error(rows: Tensor) -> Tensor:
            return (network(x[rows].to(self.device)) - z[rows].to(self.device))[:, units].square().mean()

        log: list[dict[str, float]] = []
        best, state, waited = np.inf, network.state_dict(), 0
        for epoch in range(recipe.epochs):
            network.train()
            losses = []
            for rows in train[torch.randperm(len(train), generator=draw)].split(recipe.batch):
                loss = error(rows)
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
            network.eval()
            with torch.no_grad():
                found = float(sum(error(rows) * len(rows) for rows in validation.split(recipe.batch)) / len(validation))
            log.append({"epoch": float(epoch), "loss": float(np.mean(losses)), "validation": found})
            if not np.isfinite(found):
                raise DataError(
                    f"the loss of the parcel predictor is {found} in epoch {epoch}; use a smaller lr than {recipe.lr}"
                )
            waited = 0 if found < best else waited + 1
            if found < best:
                best, state = found, {k: v.detach().clone() for k, v in network.state_dict().items()}
            if waited >= recipe.patience:
                break
        network.load_state_dict(state)
        return log


def _tokens(tokens: Any) -> np.ndarray:
    x = np.asarray(tokens.detach().cpu() if hasattr(tokens, "detach") else tokens)
    if x.ndim != 3 or x.dtype.kind not in "iuf" or not len(x):
        raise DataError(f"tokens are (image, token, channel) numbers, got {x.dtype} of shape {x.shape}")
    if not np.isfinite(x).all():
        raise DataError("tokens hold NaN or infinity; check the network that they come from")
    return x.astype(np.float32, copy=False)


def _moments(x: np.ndarray, axes: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation, 1 where nothing varies; float32."""
    mean, spread = x.mean(axis=axes, dtype=np.float64), x.std(axis=axes, dtype=np.float64)
    return mean.astype(np.float32), np.where(spread > 0, spread, 1).astype(np.float32)
