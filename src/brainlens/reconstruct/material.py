"""What the steps of a reconstruction share: training trials and mean test responses of the kept parcels, and the pictures."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from torch import Tensor

from brainlens.backbones.diffusion import Diffusion
from brainlens.datasets.pictures import thumbnails
from brainlens.datasets.source import Opened, prepared, standardised
from brainlens.models.generation.adapter_tables import latents_of, match_images
from brainlens.parcels import Parcels
from brainlens.reconstruct.regions import Partition, partition, repeat_snr
from brainlens.types import DataError, Features, Responses, Space, Stimuli


@dataclass(frozen=True)
class Material:
    """train: trials of the kept units, z-scored by session; test: their means over repeats, one row an image.

    train_rows (trial,): the image of each trial among `train_stimuli`; pictures (image, side, side, 3) uint8; embeddings
    (image, d); columns: the kept units among `all_units`; parcels of the kept units; snr (parcel,) of the kept parcels, NaN where
    no image is repeated; layers of the network for the training images. test_trials: the single trials behind `test`.
    """

    train: Responses
    test: Responses
    train_stimuli: Stimuli
    test_stimuli: Stimuli
    train_rows: np.ndarray
    train_pictures: np.ndarray
    seen: np.ndarray
    train_embedding: np.ndarray
    parcels: Parcels
    columns: np.ndarray
    snr: np.ndarray
    all_units: pd.DataFrame
    space: Space | None
    train_layers: Features | None = None
    test_trials: Responses | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def train_names(self) -> list[str]:
        return [str(name) for name in self.train.trials["stimulus"]]

    @property
    def test_ids(self) -> np.ndarray:
        return self.test_stimuli.ids

    @property
    def repeated(self) -> bool:
        """Whether some training image was shown more than once."""
        return len(self.train_rows) > len(self.train_stimuli)

    def mean_responses(self) -> np.ndarray:
        """Mean over the repeats of each training image (image, unit) float32, in the order of `train_stimuli`."""
        out = np.zeros((len(self.train_stimuli), self.train.data.shape[1]))
        np.add.at(out, self.train_rows, np.asarray(self.train.data, dtype=np.float64))
        return (out / np.bincount(self.train_rows, minlength=len(out))[:, None]).astype(np.float32)

    def latents(self, diffusion: Diffusion) -> Tensor:
        """Latents (image, c, h, w) of the training pictures."""
        names = [str(name) for name in self.train_stimuli.ids]
        return latents_of(diffusion, match_images(self.train_pictures, names, len(names), None))

    def repetitions(self) -> tuple[np.ndarray, np.ndarray]:
        """Test images that were shown twice or more (n,), numbers of their rows, and their responses (repetition, n, unit).

        As many repetitions as all of them have. Raises DataError for fewer than 2 such images.
        """
        names = [] if self.test_trials is None else self.test_trials.trials["stimulus"].astype(str).to_numpy()
        at = [np.flatnonzero(names == str(name)) for name in self.test_ids]
        rows = np.array([i for i, own in enumerate(at) if len(own) > 1], dtype=np.int64)
        if self.test_trials is None or len(rows) < 2:
            raise DataError(
                f"reconstruct: {len(rows)} of {len(at)} test images have single trials of several repetitions, a repeat noise "
                "ceiling needs 2; leave --repeat-ceiling out"
            )
        count = min(len(at[i]) for i in rows)
        return rows, np.stack([np.asarray(self.test_trials.data)[[at[i][k] for i in rows]] for k in range(count)])

    def whole(self, values: np.ndarray) -> np.ndarray:
        """Values of the kept parcels (parcel,) at every unit of the recording (unit,), NaN elsewhere."""
        out = np.full(len(self.all_units), np.nan, dtype=np.float32)
        inside = self.parcels.label >= 0
        out[self.columns[inside]] = np.asarray(values)[self.parcels.label[inside]]
        return out


def material(
    recording: Opened, how: Partition, wanted: int, asked: bool, *, trials: int | None, size: int, most: int | None = None
) -> Material:
    """The material of a recording with a split: parcels made by `how`, the best `wanted` of them kept by signal-to-noise.

    asked: the number was asked for, so that fewer parcels are an error. Without repeats parcels cannot be ranked: all are kept.
    trials: test images (None: all); size: of the pictures. Signal-to-noise and z-scores come from training trials alone.
    Raises DataError for several subjects, a recording without split, and pictures that cannot be opened.
    """
    responses, counts = recording.responses.clean()
    _check(responses)
    standard = {"session", "split"} <= set(responses.trials.columns)
    parcels, snr = kept(responses, partition(responses, how), wanted, asked, standard)
    columns = np.flatnonzero(parcels.label >= 0)
    parcels = Parcels(parcels.names, parcels.label[columns], parcels.source)
    whole = standardised(responses.columns(columns))
    train, single = whole.where(split="train"), whole.where(split="test")
    test = single.average()
    test = test if trials is None else test.rows(np.arange(min(trials, len(test))))
    names, rows = np.unique(train.trials["stimulus"].to_numpy(dtype=str), return_inverse=True)
    train_stimuli = recording.stimuli.take([str(name) for name in names])
    test_stimuli = recording.stimuli.take([str(name) for name in test.trials["stimulus"]])
    pictures = [thumbnails(part, size) for part in (train_stimuli, test_stimuli)]
    if pictures[0] is None or pictures[1] is None:
        raise DataError("reconstruct: the pictures of this recording cannot be opened; name the folder that holds them")
    layers = None if recording.layers is None else recording.layers.take(train_stimuli.ids)
    dropped = _dropped(recording.responses, responses)
    return Material(
        train=train, test=test, train_stimuli=train_stimuli, test_stimuli=test_stimuli, train_rows=rows,
        train_pictures=pictures[0], seen=pictures[1], train_embedding=prepared(recording).take(train_stimuli.ids)["image"],
        parcels=parcels, columns=dropped[columns], snr=parcels.mean(snr[columns]), all_units=recording.responses.units,
        space=recording.responses.space, train_layers=layers, test_trials=single, counts=counts,
    )  # fmt: skip


def kept(responses: Responses, parcels: Parcels, wanted: int, asked: bool, standard: bool) -> tuple[Parcels, np.ndarray]:
    """The best parcels by the repeats of training images, and the signal-to-noise ratio (unit,)."""
    train = responses.trials["split"].astype(str).to_numpy() == "train"
    names = responses.trials["stimulus"].astype(str).to_numpy()[train]
    if len(np.unique(names)) == len(names):
        if asked:
            raise DataError("no training image is repeated, so parcels cannot be ranked; leave --regions out to keep all of them")
        return parcels, np.full(len(responses.units), np.nan)
    snr = repeat_snr(responses, standard)
    return parcels.best(snr, wanted if asked else min(wanted, int(np.isfinite(parcels.mean(snr)).sum()))), snr


def _check(responses: Responses) -> None:
    if "split" not in responses.trials.columns or not {"train", "test"} <= set(responses.trials["split"].astype(str)):
        raise DataError("reconstruct: the trials have no split into train and test; add a column 'split' to the recording")
    if "subject" in responses.trials.columns and responses.trials["subject"].nunique() > 1:
        raise DataError("reconstruct: a brain draws with its own voxels, so one subject at a time; give --subject once")
    if responses.data.ndim != 2:
        raise DataError(f"reconstruct: responses of shape {responses.data.shape} should be (trial, unit)")


def _dropped(before: Responses, after: Responses) -> np.ndarray:
    """Numbers of the units of `after` among those of `before`."""
    if len(before.units) == len(after.units):
        return np.arange(len(before.units))
    flat = np.isfinite(before.data).all(axis=0) & (np.ptp(before.data, axis=0) > 0)
    return np.flatnonzero(flat)
