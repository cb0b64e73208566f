"""Encoding models that read layers of tokens and are trained: FactorTopy, and class token, patch token and GNet beside it.

One fit for all: images are held back, tokens and responses are standardised on the others, the network is trained (training.py)
and its channel weights are solved by ridge (readout.py). The networks are in `nn.factortopy` and `nn.encoding_baselines`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from sklearn.base import MultiOutputMixin, RegressorMixin
from torch import Tensor

from brainlens.metrics.selectors import confidence
from brainlens.models.encoding.layered import Form, Layers, as_features, check_form, layer_form, numbers, responses_of, rows_of
from brainlens.models.encoding.readout import refit_readout
from brainlens.models.encoding.shards import Shard
from brainlens.models.encoding.tables import BLOCKS, EncodingPart, HeldBack, LayerTokens, Statistics, held_back, usable_layers
from brainlens.models.encoding.training import PAPER, EncodingTraining, Progress, predict_rows, train
from brainlens.models.estimator import Model, check_device
from brainlens.nn.encoding_baselines import BaselineNetwork, ClassTokenNetwork, GNetNetwork, PatchTokenNetwork
from brainlens.nn.factortopy import FactorTopyNetwork
from brainlens.types import DataError

EVIDENCE = "evidence"  # the layer of the common reading is the one with the most
BLOCK = 512  # images whose tokens are standardised at once in a prediction
PUBLISHED: dict[str, Any] = {"refit": False, "standardise": False, "layers": BLOCKS}  # what text and code have in common
RELEASED = {"shared_bottleneck": False, "padding": "zeros", "zero_start": True, "readout": "linear"}  # the released form
CODE = EncodingTraining(epoch=1000, patience=20, searched_start=False, selector_rate=1.0, decay_steps=2000)


class TrainedReader(MultiOutputMixin, RegressorMixin, Model):
    """What the four share.

    width: channels D; layers: names, None for all with spatial tokens, or "blocks" for these without what enters the first
    block; standardise: scale the channels of the tokens by their training statistics (the paper: no); training: changes to
    the recipe, by the fields of `EncodingTraining`, such as {"steps": 500}; refit: solve the channel weights by ridge at the
    end; seed: of all that is drawn; device: "cpu", "cuda" or "cuda:N"; a model saved from a device that is missing here is read
    onto the CPU.

    layer_names_; channel_weights_ (unit, D); training_log_, one dict an epoch; network_, the torch module.
    """

    version: ClassVar[int] = 1

    def __init__(
        self,
        width: int = 128,
        layers: Sequence[str] | str | None = None,
        *,
        training: Mapping[str, Any] | None = None,
        refit: bool = True,
        standardise: bool = True,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        self.width = width
        self.standardise = standardise
        self.layers = layers
        self.training = training
        self.refit = refit
        self.seed = seed
        self.device = device

    @classmethod
    def paper(cls, **settings: Any) -> Self:
        """The recipe of Brain Decodes Deep Nets, appendix E.3: raw tokens, random start, epochs of 1,000 steps, no ridge.

        settings: further parameters, such as device. The checkpoints of the soup are chosen on images held back; the paper chose
        on its test set.
        """
        return cls(**{"training": recipe_changes(PAPER), **PUBLISHED, **settings})

    def fit(
        self,
        features: Layers,
        Y: Any,
        coordinates: Any = None,
        *,
        rows: Any = None,
        validation: Any = None,
        scored: Any = None,
        folder: Path | None = None,
        progress: Progress | None = None,
    ) -> Self:
        """Fits on the images of `features`, of which a tenth is held back to decide when to stop.

        features: as `as_features` takes them; Y (image, unit): one row an image, repeats averaged; coordinates (unit, 3) in mm,
        read by FactorTopy alone. rows: of the features, in the order of Y (None: all); validation (image,): True for images to
        hold back, in place of the tenth; scored (unit,): True for units whose mean R2 decides (None: all); folder: for
        checkpoints, from which a second call goes on; progress(step, record): called after every epoch.
        In several processes (`models.processes.joined`) each gives the same arrays and trains its share of the units; all end
        with the whole model.
        Raises DataError for NaN, other images than Y's, layers without spatial tokens, and fewer than 4 images.
        """
        check_device(self.device)
        recipe = recipe_of(self.training)
        given = as_features(features)
        chosen = rows_of(rows, len(given))
        y = responses_of(Y, len(chosen))
        places = self._places(coordinates, y.shape[1])
        held = _held(validation, given.ids[chosen], self.seed)
        names = usable_layers(given, self.layers)
        at = np.flatnonzero(~held), np.flatnonzero(held)
        tokens = LayerTokens(given, names, at[0], self.device, rows=chosen, standardise=self.standardise)
        shard = Shard.of(y.shape[1])
        mean, spread, parts = _standardised(y[:, shard.rows], *at)
        network = self._made(y.shape[1], tokens.channels, places)
        own = shard.cut(network)
        units = np.ones(y.shape[1], bool) if scored is None else np.asarray(scored, dtype=bool)
        log = train(
            own, parts, tokens, recipe, units=units[shard.rows], seed=self.seed, common=self._common(names), folder=folder,
            progress=progress, shard=shard,
        )  # fmt: skip
        if self.refit:
            refit_readout(own, [parts.train, parts.validation], tokens)
        network.load_state_dict(shard.join(own.state_dict()))
        mean, spread = (shard.whole(torch.from_numpy(value)).numpy() for value in (mean, spread))
        self.layer_names_, self.channels_ = names, tokens.channels
        self.forms_: dict[str, Form] = {name: layer_form(given, name) for name in names}
        self.statistics_: Statistics = {name: tuple(value.cpu() for value in tokens.statistics[name]) for name in names}
        self.y_mean_, self.y_scale_, self.coordinates_, self.training_log_ = mean, spread, places, log
        self._take(network)
        return self

    def predict(self, features: Layers, *, rows: Any = None) -> np.ndarray:
        """Responses (image, unit) to the images of `features`, or to those at `rows`; float32, in the units of Y.

        Raises DataError where a layer is missing or has other channels than in the fit.
        """
        self._check_fitted("network_")
        given = as_features(features)
        chosen = rows_of(rows, len(given))
        parts = []
        for start in range(0, len(chosen), BLOCK):
            tokens = self.tokens(given, rows=chosen[start : start + BLOCK])
            parts.append(predict_rows(self.network_.to(self.device), np.arange(len(tokens)), tokens))
        return np.concatenate(parts) * self.y_scale_ + self.y_mean_

    def tokens(self, features: Layers, *, rows: Any = None) -> LayerTokens:
        """The tokens that the network reads, standardised as in the fit."""
        self._check_fitted("network_")
        given = as_features(features)
        for name in self.layer_names_:
            check_form(given, name, self.forms_[name])
        return LayerTokens(
            given, self.layer_names_, device=self.device, rows=rows_of(rows, len(given)), statistics=self.statistics_
        )

    def _places(self, coordinates: Any, units: int) -> np.ndarray | None:
        """Where the units are, for a model that reads it."""
        return None

    def _common(self, layers: Sequence[str]) -> str | None:
        """The layer of the reading that all units share, for a model that is told one."""
        return None

    def _network(self, units: int, channels: Mapping[str, int], places: np.ndarray | None) -> FactorTopyNetwork | BaselineNetwork:
        raise NotImplementedError

    def _made(self, units: int, channels: Mapping[str, int], places: np.ndarray | None) -> FactorTopyNetwork | BaselineNetwork:
        """The untrained network; the same seed gives the same weights whatever was drawn before."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            return self._network(units, channels, places).to(self.device)

    def _take(self, network: FactorTopyNetwork | BaselineNetwork) -> None:
        """Takes a trained network over, and reads off it what a person looks at."""
        self.network_ = network
        self.channel_weights_ = network.readout.detach().cpu().numpy().copy()

    def _pack(self) -> dict[str, Any]:
        if not hasattr(self, "network_"):
            return {}
        names = ("layer_names_", "channels_", "forms_", "statistics_", "y_mean_", "y_scale_", "coordinates_", "training_log_")
        weights = {name: value.detach().cpu() for name, value in self.network_.state_dict().items()}
        return {name: getattr(self, name) for name in names} | {"weights": weights}

    def _unpack(self, state: dict[str, Any]) -> None:
        weights: dict[str, Tensor] = state.pop("weights")
        super()._unpack(state)
        try:
            check_device(self.device)
        except DataError:
            self.device = "cpu"
        network = self._made(len(self.y_mean_), self.channels_, self.coordinates_)
        network.load_state_dict(weights)
        self._take(network)


class FactorTopy(TrainedReader):
    """Which place, layer, scale and channels of a network each unit reads; neighbours on the cortex read alike.

        y_i = < sum_l omega_il ((1 - alpha_i) Interp(u_i; B_l V_l) + alpha_i B_l g_l), w_i > / D + b_i          (eq. 1)

    V_l, g_l: spatial tokens on 8 x 8 places and global token of layer l; u (space), omega (layer), alpha (scale) from networks on
    the units' coordinates in mm; w_i free. Yang, Gee, Shi 2024 (Brain Decodes Deep Nets).
    Here, and not in the paper, + <B_s g_s, z_i> / D stands beside it: what every unit reads of the scene as a whole, from the
    global token of one layer s, z_i free. training={"search_beside": True} searches selectors for what a unit reads beyond that.

    common: "evidence" (s is the layer with the most evidence over all units, and validation images decide whether it is read),
    the name of a layer, or None for eq. 1 alone; samples: places a unit (their mean); variant: options of form, {"use":
    selectors that are on, "topological": False frees the selectors of each unit, "shared_bottleneck", "padding", "reduce",
    "zero_start", "readout"}, see `nn.factortopy.FactorTopyNetwork`; the others as in `TrainedReader`. fit(features, Y,
    coordinates=xyz).
    layer_weights_ (unit, layer), omega; space_ (unit, sample, 2), u as (x, y) in [-1, 1]; scale_ (unit,), alpha; confidence_
    (unit,), 1 - H(omega) / log L (eq. 2); common_layer_, the name of s, and common_weights_ (unit, D), z, both None without; and
    those of `TrainedReader`.

    | | here | `paper()` | `released()` |
    |---|---|---|---|
    | tokens | standardised | raw | raw |
    | layers | all with spatial tokens | outputs of blocks | outputs of blocks |
    | start of the selectors | searched by evidence | random | centre, uniform, 1/2 |
    | start of the channel weights | ridge | N(0, 1) | U(+-1/sqrt(D)) |
    | steps | epochs of 250, patience 4 | 1,000, patience 20 | 1,000, patience 20 |
    | rate of the selectors | a tenth | as the others | as the others |
    | penalty | layers and scale, 6,000 steps | layers, 6,000 steps | layers and scale, 2,000 steps |
    | bottlenecks a layer | 1 | 1 | 2 |
    | beyond the edge | the edge token | the edge token | zeros |
    | beside eq. 1 | the common reading | nothing | nothing |
    | channel weights at the end | closing ridge | as trained | as trained |

    The paper's text leaves the start of the channel weights open and has no scale term; without the term the scale of every
    unit ends at the global token within 200 steps. With the code's form the same training finds places, layers and scales.
    """

    def __init__(
        self,
        width: int = 128,
        samples: int = 1,
        layers: Sequence[str] | str | None = None,
        *,
        common: str | None = "evidence",
        variant: Mapping[str, Any] | None = None,
        training: Mapping[str, Any] | None = None,
        refit: bool = True,
        standardise: bool = True,
        seed: int = 0,
        device: str = "cpu",
    ) -> None:
        super().__init__(width, layers, training=training, refit=refit, standardise=standardise, seed=seed, device=device)
        self.samples = samples
        self.common = common
        self.variant = variant

    @classmethod
    def paper(cls, **settings: Any) -> Self:
        """The recipe of the paper's text, appendix E.3, see the table; settings: further parameters, such as device."""
        return super().paper(**{"common": None, **settings})

    @classmethod
    def released(cls, **settings: Any) -> Self:
        """The recipe of the released code as far as it differs from the paper, see the table; settings as in `paper`."""
        form = {"common": None, "variant": dict(RELEASED), "training": recipe_changes(CODE), **PUBLISHED}
        return cls(**{**form, **settings})

    def _common(self, layers: Sequence[str]) -> str | None:
        if self.common in (None, EVIDENCE):
            return None
        if self.common not in layers:
            raise DataError(
                f"common layer {self.common!r} is not one that is read, {', '.join(layers)}; or {EVIDENCE!r}, or None"
            )
        return self.common

    def _places(self, coordinates: Any, units: int) -> np.ndarray:
        if coordinates is None:
            raise DataError("FactorTopy needs coordinates=(unit, 3) in mm; ClassToken, PatchToken, GNet and ridge do without")
        places = numbers(coordinates, "coordinates").astype(np.float64)
        if places.shape != (units, 3):
            raise DataError(f"coordinates are (unit, 3) in mm, here ({units}, 3), got {places.shape}")
        return places

    def _network(self, units: int, channels: Mapping[str, int], places: np.ndarray | None) -> FactorTopyNetwork:
        assert places is not None
        form = dict(self.variant or {})
        own = {name: form.pop(name) for name in ("use", "topological") if name in form}
        return FactorTopyNetwork(
            torch.from_numpy(places.copy()), channels, width=self.width, samples=self.samples, common=self.common is not None,
            variant=form, **own,
        )  # fmt: skip

    def _take(self, network: FactorTopyNetwork | BaselineNetwork) -> None:
        super()._take(network)
        assert isinstance(network, FactorTopyNetwork)
        with torch.no_grad():
            space, omega, alpha = (value.cpu().numpy() for value in network.select())
        self.space_, self.layer_weights_, self.scale_ = space, omega, alpha
        self.confidence_ = confidence(omega).astype(np.float32)
        shared = network.reads_common
        self.common_layer_ = network.layers[int(network.common_layer)] if shared else None
        self.common_weights_ = network.common_readout.detach().cpu().numpy().copy() if shared else None

    def _unpack(self, state: dict[str, Any]) -> None:
        if "common_readout" not in state.get("weights", {}):
            self.common = None  # a model that was saved before there was a common reading does not name it
        super()._unpack(state)


class ClassToken(TrainedReader):
    """The global tokens alone: y_i = <mean_l B_l g_l, w_i> / D + b_i. Brain Decodes Deep Nets, app. F.1; see `TrainedReader`."""

    def _network(self, units: int, channels: Mapping[str, int], places: np.ndarray | None) -> BaselineNetwork:
        return ClassTokenNetwork(units, channels, width=self.width)


class PatchToken(TrainedReader):
    """All patches: y_i = <mean_l MLP_l(V_l), w_i> / D + b_i. Appendix F.1, after Lahner et al. 2023; see `TrainedReader`."""

    def _network(self, units: int, channels: Mapping[str, int], places: np.ndarray | None) -> BaselineNetwork:
        return PatchTokenNetwork(units, channels, width=self.width)


class GNet(TrainedReader):
    """A pooling field per unit and layer: y_i = <mean_l sum_p softmax_p(m_il) B_l V_lp, w_i> / D + b_i. See `TrainedReader`.

    Appendix F.1, after St-Yves and Naselaris (GNet; Allen et al. 2022).
    """

    def _network(self, units: int, channels: Mapping[str, int], places: np.ndarray | None) -> BaselineNetwork:
        return GNetNetwork(units, channels, width=self.width)


def recipe_of(changes: Mapping[str, Any] | None) -> EncodingTraining:
    """The default recipe with these changes. Raises DataError for a name that it does not have."""
    known = [f.name for f in fields(EncodingTraining)]
    unknown = [name for name in changes or {} if name not in known]
    if unknown:
        raise DataError(f"training has no setting {unknown[0]!r}; it has {', '.join(known)}")
    return EncodingTraining(**(changes or {}))


def recipe_changes(recipe: EncodingTraining) -> dict[str, Any]:
    """What a recipe changes in the default one."""
    default = asdict(EncodingTraining())
    return {name: value for name, value in asdict(recipe).items() if value != default[name]}


def _held(validation: Any, ids: np.ndarray, seed: int) -> np.ndarray:
    """Which images are held back (image,). Raises DataError where one of the two parts has fewer than two."""
    held = np.isin(ids, held_back(np.unique(ids), seed)) if validation is None else np.asarray(validation)
    if held.dtype != bool or held.shape != ids.shape:
        raise DataError(f"validation is True or False for each of {len(ids)} images, got {held.dtype} {held.shape}")
    if held.sum() < 2 or (~held).sum() < 2:
        raise DataError(
            f"{int((~held).sum())} images to train on and {int(held.sum())} held back: at least 2 of each; give more images"
        )
    return held


def _standardised(y: np.ndarray, train_at: np.ndarray, held_at: np.ndarray) -> tuple[np.ndarray, np.ndarray, HeldBack]:
    """Mean and deviation of the training images' responses (unit,) float32, and both parts in these units."""
    first, second = y[train_at].astype(np.float32), y[held_at].astype(np.float32)
    mean, spread = first.mean(axis=0), first.std(axis=0)
    spread = np.where(spread > 0, spread, np.float32(1))
    made = []
    for at, part in ((train_at, first), (held_at, second)):
        part -= mean
        part /= spread
        made.append(EncodingPart(at.astype(str), at, part, np.ones(len(at))))
    return mean, spread, HeldBack(*made)
