"""An encoder of EEG or MEG that is trained, as an estimator: settings, the rows it is trained on, and its weights."""

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
from brainlens.models.sensors.decoder import SMALL, SensorDecoder, SensorTraining, build, target_layer
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
        """All settings of the training. Raises DataError for an option that is not known, and for values out of range."""
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
        whitened = not training.rescale and layout.unit == "z"
        scale = channel_scale(rows.data, np.flatnonzero(~held[row]), whitened=whitened)
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
        blurred = self._blurred(images, ids)
        targets = (
            image,
            text,
            *(() if blurred is None else (blurred,)),
            *(() if start is None else (flat_weights(start.decoder_),)),
        )
        kept = checkpoint_for(checkpoint, decoder, rows, targets=targets, training=training, seed=self.random_state)
        job = TrainingJob(decoder, parts[0], parts[1], image, text, generator, kept, blurred)
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
        where._check_fitted("decoder_")
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

    def _blurred(self, images: Features, ids: np.ndarray) -> Tensor | None:
        """Targets (level, image, d) of a training with a blur prior."""
        return None

    def _table(self, features: Features, layer: str, ids: np.ndarray, what: str) -> Tensor:
        return torch.as_tensor(np.asarray(features[layer][positions(ids, features.ids, what)], np.float32)).to(self.device)

    def _build(self, shape: tuple[int, int], widths: tuple[int, int | None], state: dict[str, Any]) -> SensorDecoder:
        scale, device = (state["scale"][0], state["scale"][1]), self.device if _there(self.device) else "cpu"
        decoder = build(self.network, shape, widths, training=self.training, seed=0, device=device, scale=scale)
        for part in PARTS:
            getattr(decoder, part).load_state_dict(state["weights"][part])
        return decoder


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
