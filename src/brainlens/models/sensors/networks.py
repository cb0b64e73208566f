"""Aligners of EEG and MEG that are trained: NeuroAlign and the encoders that are compared with it, as estimators."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn

from brainlens.datasets.source import check_device
from brainlens.models.sensors.aligner import SensorAligner
from brainlens.models.sensors.checkpoint import PARTS, Checkpoint, checkpoint_for, flat_weights
from brainlens.models.sensors.decoder import (
    ATM_STYLE,
    SMALL,
    THINGS_EEG2,
    THINGS_MEG,
    SensorDecoder,
    SensorTraining,
    build,
    target_layer,
)
from brainlens.models.sensors.decoder import (
    NICE as NICE_TRAINING,
)
from brainlens.models.sensors.recordings import Epochs, Layout, Recorded, recorded
from brainlens.models.sensors.split import channel_scale, tensors
from brainlens.models.sensors.training import Progress, TrainingJob, train_decoder
from brainlens.subjects import held_out
from brainlens.types import DataError, Features, positions

FIELDS = tuple(field.name for field in fields(SensorTraining))


@dataclass
class Begun:
    """What `SensorNetwork.begin` hands to `finish`."""

    job: TrainingJob
    training: SensorTraining
    layout: Layout
    widths: tuple[int, int | None]
    started: float


class SensorNetwork(SensorAligner):
    """An encoder (channel, time) -> d that is trained by contrast; classes differ in the network and in their settings.

    L = - log exp(cos(e_i, v_i) / tau) / sum_j exp(cos(e_i, v_j) / tau), both ways, e = encoder(recording), v = image embedding.
    `options` are settings of `SensorTraining` that the class does not name (betas, temperature, norms, ...).
    """

    encoder: ClassVar[str]
    recipe: ClassVar[SensorTraining]
    max_epochs: int
    options: dict[str, Any] | None
    random_state: int
    device: str

    def fit(
        self,
        epochs: Epochs,
        images: Any,
        texts: Any = None,
        *,
        ids: Iterable[str] | None = None,
        times: Any = None,
        sfreq: float | None = None,
        info: Mapping[str, Any] | None = None,
        start_from: Any = None,
    ) -> Self:
        """Trains on recordings and the embeddings of the images that were seen.

        epochs: mne.Epochs, or an array (trial, channel, time) with times (s) or sfreq (Hz), and info (see `recordings.recorded`).
        images, texts: embeddings (trial, d) row by row, or {id: (d,)} or Features with the image of each row in `ids`.
        start_from: a fitted model of this class, or its folder, whose weights the training goes on from.
        Raises DataError for what cannot be one recording, integer ids, fewer than 10 images, NaN, flat channels.
        """
        found = recorded(epochs, ids=ids, times=times, sfreq=sfreq, info=info)
        return self._fit(found, images, texts, start=None if start_from is None else self.started_from(start_from))

    @classmethod
    def paper(cls, **changed: Any) -> Self:
        """The recipe of the method's paper; its constants stand in the docstring of the class."""
        return cls(**changed)

    @classmethod
    def small(cls, **changed: Any) -> Self:
        """The paper's network and objective on a short schedule with early stopping, for about a thousand images on a laptop."""
        model = cls.from_training(replace(cls.recipe, **SMALL))
        return model.set_params(**changed)

    @classmethod
    def from_training(cls, training: SensorTraining, *, random_state: int = 0, device: str = "cpu") -> Self:
        """The model with these settings."""
        named = {name: getattr(training, name) for name in FIELDS if name in cls._get_param_names()}
        other = {k: v for k, v in asdict(training).items() if k not in {*named, "epochs"} and v != getattr(cls.recipe, k)}
        return cls(training.epochs, **named, options=other or None, random_state=random_state, device=device)

    @property
    def training(self) -> SensorTraining:
        """All settings of the training. Raises DataError for an option that does not exist, and for values out of range."""
        named = {name: getattr(self, name) for name in FIELDS if name in self._get_param_names()}
        options = dict(self.options or {})
        free = [name for name in FIELDS if name not in {*named, "epochs"}]
        unknown = [name for name in options if name not in free]
        if unknown:
            raise DataError(f"{type(self).__name__}: option {unknown[0]!r} is not one of {free}")
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
        chosen = replace(self.recipe, epochs=self.max_epochs, **named, **options)
        for name, value, least in (
            ("max_epochs", chosen.epochs, 1),
            ("batch", chosen.batch, 2),
            ("validation", chosen.validation, 2),
        ):
            if not isinstance(value, (int, np.integer)) or value < least:
                raise DataError(f"{type(self).__name__}: {name} {value!r} must be a whole number of at least {least}")
        return chosen

    def begin(
        self,
        train: Recorded,
        images: Features,
        texts: Features | None = None,
        *,
        checkpoint: Checkpoint | str | Path | None = None,
        start: SensorAligner | None = None,
    ) -> Begun:
        training = self._training(texts)
        check_device(self.device)
        rows, layout = train.responses, train.layout
        if start is not None:
            rows = train.matched(start.layout_)
            layout = replace(start.layout_, unit=layout.unit or start.layout_.unit, size=layout.size)
        ids, row = np.unique(rows.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
        image = self._table(images, target_layer(images, self.network, training), ids, "images")
        text = None if texts is None else self._table(texts, "text", ids, "texts")
        widths = (image.shape[1], None if text is None else text.shape[1])
        held = held_out(len(ids), training.validation, self.random_state)
        scale = channel_scale(rows.data, np.flatnonzero(~held[row]))
        started = time.perf_counter()
        with _seeded(self.random_state, self.device):
            decoder = build(
                self.network, layout.shape, widths, training=training, seed=self.random_state, device=self.device, scale=scale
            )
            generator = torch.get_rng_state()
        if start is not None:
            _take_over(decoder, start, widths)
        parts = [
            tensors(
                rows.data, np.flatnonzero(keep[row]), row,
                model=decoder.model, scale=scale, device=self.device, precision=training.precision,
            )
            for keep in (~held, held)
        ]  # fmt: skip
        targets = (image, text) if start is None else (image, text, flat_weights(start.decoder_))
        kept = checkpoint_for(checkpoint, decoder, rows, targets=targets, training=training, seed=self.random_state)
        job = TrainingJob(decoder, parts[0], parts[1], image, text, generator, kept)
        return Begun(job, training, layout, widths, started)

    def finish(self, job: Begun, *, progress: Progress | None = None) -> Self:
        with _seeded(self.random_state, self.device):  # dropout draws from the global generator, which is put back afterwards
            torch.set_rng_state(job.job.generator)
            train_decoder(job.job, job.training, self.random_state, progress=progress)
        self.decoder_, self.layout_, self.widths_ = job.job.decoder, job.layout, job.widths
        self.decoder_.seconds += time.perf_counter() - job.started  # what a killed process took is in it already
        return self

    def started_from(self, where: Any) -> SensorAligner:
        """The model to start from: fitted, of this class, or read from its folder."""
        where = type(self).load(where) if isinstance(where, (str, Path)) else where
        if type(where) is not type(self):
            raise DataError(f"start_from: {type(self).__name__} starts from its own kind, got a {type(where).__name__}")
        where._check_fitted()
        return where

    @property
    def network(self) -> str | nn.Module:
        """The network's name in `nn.sensor_baselines`, or the module itself."""
        return self.encoder

    def _training(self, texts: Features | None) -> SensorTraining:
        """Settings of a fit with or without texts."""
        if texts is not None:
            raise DataError(f"{type(self).__name__} is trained on images alone; leave texts out, or take NeuroAlign")
        return self.training

    def _layer(self, images: Features) -> str:
        return target_layer(images, self.network, self.training)

    def _table(self, features: Features, layer: str, ids: np.ndarray, what: str) -> Tensor:
        return torch.as_tensor(np.asarray(features[layer][positions(ids, features.ids, what)], np.float32)).to(self.device)

    def _build(self, shape: tuple[int, int], widths: tuple[int, int | None], state: dict[str, Any]) -> SensorDecoder:
        scale, device = (state["scale"][0], state["scale"][1]), self.device if _there(self.device) else "cpu"
        decoder = build(self.network, shape, widths, training=self.training, seed=0, device=device, scale=scale)
        for part in PARTS:
            getattr(decoder, part).load_state_dict(state["weights"][part])
        return decoder


class NeuroAlign(SensorNetwork):
    """NeuroAlign: recordings into the space of images and captions, with the captions as a guide.

    min w1 L(brain, image) + w2 L(image, text) + w3 KL(brain-image || image-text), weights by gradient (eqs. 4-9); TSConv encoder
    and projection heads to 256 numbers. Without texts the first loss is left alone. The defaults are the paper's for EEG
    (Table 3): 200 epochs, batch 256, AdamW 2e-4 (.5, .999), weight decay 1e-3 and 5e-3, temperature .07, dropout .2, 740
    validation images; its text says batch 1000 and Adam (A.3.4).
    The paper's target is the embedding of the saliency-filtered picture: give those as `images` (`stimuli.saliency`).
    """

    encoder, recipe = "neuroalign", THINGS_EEG2

    def __init__(
        self,
        max_epochs: int = 200,
        *,
        batch: int = 256,
        lr: float = 2e-4,
        guidance: bool = True,
        adjustment: bool = True,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.max_epochs, self.batch, self.lr = max_epochs, batch, lr
        self.guidance, self.adjustment, self.options = guidance, adjustment, options
        self.random_state, self.device = random_state, device

    @classmethod
    def paper(cls, modality: str = "eeg", **changed: Any) -> Self:
        """Table 3 of the paper: for "eeg" (THINGS-EEG2) or "meg" (THINGS-MEG, 100 epochs)."""
        if modality not in ("eeg", "meg"):
            raise DataError(f"modality {modality!r} is not one of ['eeg', 'meg']")
        return cls.from_training(THINGS_EEG2 if modality == "eeg" else THINGS_MEG).set_params(**changed)

    def _training(self, texts: Features | None) -> SensorTraining:
        return self.training if texts is not None else replace(self.training, guidance=False)


class NICE(SensorNetwork):
    """NICE: the TSConv encoder into the space of the image embeddings as they are (Song et al. 2024).

    attention: None, "spatial" (NICE-SA, self-attention over channels) or "graph" (NICE-GA, graph attention over all channels).
    The defaults are the paper's: 200 epochs, batch 1000, Adam 2e-4 (.5, .999), temperature .07, dropout .5, 740 validation
    images.
    """

    recipe = NICE_TRAINING

    def __init__(
        self,
        max_epochs: int = 200,
        *,
        attention: str | None = None,
        batch: int = 1000,
        lr: float = 2e-4,
        patience: int | None = None,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.max_epochs, self.attention, self.batch, self.lr = max_epochs, attention, batch, lr
        self.patience, self.options, self.random_state, self.device = patience, options, random_state, device

    @property
    def network(self) -> str:
        kinds = {None: "nice", "spatial": "nice_sa", "graph": "nice_ga"}
        if self.attention not in kinds:
            raise DataError(f"NICE: attention {self.attention!r} is not one of {list(kinds)}")
        return kinds[self.attention]


class ComparedNetwork(SensorNetwork):
    """The settings of the encoders that have none of their own."""

    def __init__(
        self,
        max_epochs: int = 200,
        *,
        batch: int = 1000,
        lr: float = 2e-4,
        patience: int | None = None,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.max_epochs, self.batch, self.lr, self.patience = max_epochs, batch, lr, patience
        self.options, self.random_state, self.device = options, random_state, device


class ATM(ComparedNetwork):
    """An ATM-style encoder: one transformer block over channels in front of the TSConv (after Li et al. 2024).

    | | ATM's code | here |
    |---|---|---|
    | loss | .99 image + .01 text, embeddings not normalised | image alone, by cosine |
    | epoch kept | the best on the test images | the least validation loss |
    | schedule | 40 epochs, batch 64, AdamW 3e-4 | `paper()` the same; the default is NICE's, for comparison on one footing |
    """

    encoder, recipe = "atm", NICE_TRAINING

    @classmethod
    def paper(cls, **changed: Any) -> Self:
        """The schedule of ATM's retrieval script; the table of the class says what is other than there."""
        return cls.from_training(ATM_STYLE).set_params(**changed)


class EEGNet(ComparedNetwork):
    """EEGNet (Lawhern et al. 2018) with a projection head, trained by contrast on NICE's schedule, as NICE compares it."""

    encoder, recipe = "eegnet", NICE_TRAINING


class SensorLinear(ComparedNetwork):
    """One matrix on all samples, with dropout, trained by contrast on NICE's schedule: what networks must be better than."""

    encoder, recipe = "linear", NICE_TRAINING


class OwnNetwork(ComparedNetwork):
    """A module (B, channel, time) -> (B, d) of the user, trained as NICE is, against image embeddings (n, d).

    Raises DataError where it does not give (B, d), and in `save`: a class of yours cannot be stored; save its state_dict.
    """

    recipe = NICE_TRAINING

    def __init__(
        self,
        module: Any = None,
        max_epochs: int = 200,
        *,
        batch: int = 1000,
        lr: float = 2e-4,
        patience: int | None = None,
        options: dict[str, Any] | None = None,
        random_state: int = 0,
        device: str = "cpu",
    ) -> None:
        self.module = module
        super().__init__(
            max_epochs, batch=batch, lr=lr, patience=patience, options=options, random_state=random_state, device=device
        )

    @property
    def network(self) -> nn.Module:
        if not isinstance(self.module, nn.Module):
            raise DataError(f"OwnNetwork takes a torch module (B, channel, time) -> (B, d), got {type(self.module).__name__}")
        return self.module

    def _pack(self) -> dict[str, Any]:
        raise DataError("OwnNetwork cannot be saved, since its module is not the library's; save module.state_dict()")


NETWORKS: dict[str, tuple[type[SensorNetwork], dict[str, Any]]] = {
    "neuroalign": (NeuroAlign, {}),
    "nice": (NICE, {}),
    "nice_sa": (NICE, {"attention": "spatial"}),
    "nice_ga": (NICE, {"attention": "graph"}),
    "atm": (ATM, {}),
    "eegnet": (EEGNet, {}),
    "linear": (SensorLinear, {}),
}  # by the names of `nn.sensor_baselines`


@contextmanager
def _seeded(seed: int, device: str) -> Iterator[None]:
    """The global generators seeded inside, and put back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if device.startswith("cuda") else []):
        torch.manual_seed(seed)
        yield


def _there(device: str) -> bool:
    try:
        check_device(device)
    except DataError:
        return False
    return True


def _take_over(decoder: SensorDecoder, start: SensorAligner, widths: tuple[int, int | None]) -> None:
    """Puts the weights of a fitted model into a new decoder."""
    if start.widths_ != widths:
        raise DataError(f"start_from was fitted to embeddings of {start.widths_} numbers (image, text), these have {widths}")
    for part in PARTS:
        mine, its = getattr(decoder, part), getattr(start.decoder_, part).state_dict()
        shapes = [{k: tuple(v.shape) for k, v in state.items()} for state in (mine.state_dict(), its)]
        if shapes[0] != shapes[1]:
            raise DataError("start_from has another network than these settings give; take its settings (width, attention)")
        mine.load_state_dict(its)
