"""What every aligner of EEG and MEG shares: recordings in, embeddings out, retrieval, and the folder it is kept in."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np

from brainlens.datasets.source import check_device
from brainlens.metrics.retrieval import neighbours, ranks
from brainlens.models.estimator import Model
from brainlens.models.sensors.checkpoint import PARTS, Checkpoint
from brainlens.models.sensors.decoder import SensorDecoder
from brainlens.models.sensors.recordings import Epochs, Layout, Recorded, embeddings, recorded, tables
from brainlens.models.sensors.training import Progress
from brainlens.signals.epochs import check_channels
from brainlens.types import DataError, Features, Responses

BLOCK = 256  # trials


class SensorAligner(Model):
    """An aligner: `fit`, `transform` (also `predict`), `gallery`, `retrieve`, `score`, `save`, `load`.

    `fit` takes training trials alone, in any number for an image, and averages nothing: `Responses.average()` does. It holds
    validation images back by `subjects.held_out`. Learned: decoder_ (the networks as functions of arrays), channels_, times_ (s),
    unit_, history_ (a dict for each epoch), best_epoch_.
    """

    decoder_: SensorDecoder
    layout_: Layout
    widths_: tuple[int, int | None]

    def transform(
        self, epochs: Epochs, *, times: Any = None, sfreq: float | None = None, info: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """Embeddings (n, d) float32 of new recordings, each row on its own.

        Channels are found by name where the recording has names, else they are those of the fit in their order. Raises DataError
        for other channels, another rate, window, unit or magnitude than in the fit, NaN, and before `fit`.
        """
        self._check_fitted("decoder_")
        return self._embed(self._rows(recorded(epochs, times=times, sfreq=sfreq, info=info)))

    def predict(
        self, epochs: Epochs, *, times: Any = None, sfreq: float | None = None, info: Mapping[str, Any] | None = None
    ) -> np.ndarray:
        """`transform`, (n, d), by the name that scikit-learn's cross-validation looks for."""
        return self.transform(epochs, times=times, sfreq=sfreq, info=info)

    def gallery(self, values: Any, modality: str = "image") -> np.ndarray:
        """Image or text embeddings (n, d), such as `fit` was given, in the space of `transform`: (n, width) float32.

        Raises DataError for embeddings of another width, an unknown modality, and texts where `fit` was given none.
        """
        self._check_fitted("decoder_")
        if modality not in ("image", "text"):
            raise DataError(f"modality {modality!r} is not one of ['image', 'text']")
        wanted = self.widths_[modality == "text"]
        if wanted is None:
            raise DataError(f"{type(self).__name__} was fitted without texts; retrieve images, or fit NeuroAlign with texts=")
        table = embeddings(values, f"{modality}s")
        if table.shape[1] != wanted:
            raise DataError(f"{modality}s of {table.shape[1]} numbers, fitted with {wanted}; embed them with the same network")
        return self.decoder_.gallery(table, text=modality == "text")

    def retrieve(
        self,
        epochs: Epochs,
        gallery: Any,
        k: int = 10,
        *,
        modality: str = "image",
        times: Any = None,
        sfreq: float | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> np.ndarray:
        """Rows of the gallery most similar to each recording by cosine, best first: (n, k) int64.

        gallery (m, d): embeddings of images (or texts), such as `fit` was given. Raises DataError as `transform` and `gallery`.
        """
        shown = self.gallery(gallery, modality)
        if not 1 <= k <= len(shown):
            raise DataError(f"k {k} is not within 1 and {len(shown)}, the size of the gallery")
        return neighbours(self.transform(epochs, times=times, sfreq=sfreq, info=info), shown, k)[0]

    def score(
        self,
        epochs: Epochs,
        images: Any,
        *,
        ids: Iterable[str] | None = None,
        times: Any = None,
        sfreq: float | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> float:
        """Share of recordings whose own image comes first among all distinct images given; ties count against. Chance 1 / images.

        images and ids as in `fit`.
        """
        self._check_fitted("decoder_")
        found = recorded(epochs, ids=ids, times=times, sfreq=sfreq, info=info)
        named, features, _ = self._tables(found, images)
        shown = np.unique(named.trials["stimulus"].to_numpy(dtype=str))
        row = {name: i for i, name in enumerate(shown)}
        truth = np.array([row[name] for name in named.trials["stimulus"]])
        where = {str(name): i for i, name in enumerate(features.ids)}
        gallery = self.gallery(features[self._layer(features)][[where[name] for name in shown]])
        return float((ranks(self._embed(self._rows(found)), gallery, truth) < 1).mean())

    def to(self, device: str) -> Self:
        """The model itself, with its networks on another device. Raises DataError for one that is not available."""
        self._check_fitted("decoder_")
        check_device(device)
        for part in PARTS:
            getattr(self.decoder_, part).to(device)
        self.decoder_.device = device
        return self

    @property
    def channels_(self) -> tuple[str, ...]:
        """Names of the channels that the model takes, in its order; () where none were given."""
        return self._known().channels

    @property
    def times_(self) -> np.ndarray | None:
        """Times (time,) of the samples in s, None where none were given."""
        return self._known().times

    @property
    def unit_(self) -> str:
        """Unit of the recordings, "" where none was given."""
        return self._known().unit

    @property
    def history_(self) -> list[dict[str, float]]:
        """What was recorded of each epoch of the training; of a closed form, what was chosen."""
        self._check_fitted("decoder_")
        return self.decoder_.log

    @property
    def best_epoch_(self) -> int:
        """The epoch whose weights were kept, counted from 1; 0 for a closed form."""
        self._check_fitted("decoder_")
        return self.decoder_.best_epoch

    @property
    @abstractmethod
    def network(self) -> Any:
        """The name by which the verb knows the network, or the module of a user."""

    @abstractmethod
    def begin(
        self,
        train: Recorded,
        images: Features,
        texts: Features | None = None,
        *,
        checkpoint: Checkpoint | str | Path | None = None,
        start: SensorAligner | None = None,
    ) -> Any:
        """All that `finish` needs; afterwards the rows themselves may be let go.

        images: layer "image" ("saliency" of filtered pictures, if there, for NeuroAlign with saliency); texts: layer "text".
        """

    @abstractmethod
    def finish(self, job: Any, *, progress: Progress | None = None) -> Self:
        """Fits what `begin` has laid out."""

    @abstractmethod
    def _build(self, shape: tuple[int, int], widths: tuple[int, int | None], state: dict[str, Any]) -> SensorDecoder:
        """The decoder of stored weights."""

    def _layer(self, images: Features) -> str:
        """The layer of the images that the model is fitted to find."""
        return "image"

    def _fit(self, found: Recorded, images: Any, texts: Any = None, *, start: SensorAligner | None = None) -> Self:
        """`begin` and `finish` on what a user gave."""
        rows, shown, said = self._tables(found, images, texts)
        check_channels(rows)
        job = self.begin(Recorded(rows, found.layout, True), shown, said, start=start)
        del found, rows
        return self.finish(job)

    def _tables(self, found: Recorded, images: Any, texts: Any = None) -> tuple[Responses, Features, Features | None]:
        """Rows named by their images, and the embeddings that a user gave by these names."""
        return tables(found, images, texts)

    def _known(self) -> Layout:
        self._check_fitted("decoder_")
        return self.layout_

    def _rows(self, found: Recorded) -> Responses:
        """Rows that the decoder takes. Raises DataError for others."""
        return found.matched(self._known())

    def _embed(self, rows: Responses) -> np.ndarray:
        for start in range(0, len(rows), BLOCK):
            bad = np.flatnonzero(~np.isfinite(np.asarray(rows.data[start : start + BLOCK])).all(axis=(1, 2)))
            if len(bad):
                raise DataError(f"trial {start + bad[0]} holds NaN or infinity; leave it out, or interpolate its channel")
        return self.decoder_.embed(rows.data)

    def _pack(self) -> dict[str, Any]:
        if not hasattr(self, "decoder_"):
            return {}
        decoder, layout = self.decoder_, self.layout_
        return {
            "weights": {part: dict(getattr(decoder, part).state_dict()) for part in PARTS},
            "scale": list(decoder.scale),
            "layout": dict(vars(layout)),
            "widths": self.widths_,
            "log": decoder.log,
            "best_epoch": decoder.best_epoch,
            "seconds": decoder.seconds,
        }

    def _unpack(self, state: dict[str, Any]) -> None:
        self.layout_, self.widths_ = Layout(**state["layout"]), state["widths"]
        self.decoder_ = self._build(self.layout_.shape, self.widths_, state)
        for name in ("log", "best_epoch", "seconds"):
            setattr(self.decoder_, name, state[name])
