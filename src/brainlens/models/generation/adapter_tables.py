"""What a NeuroAdapter learns from: responses of images in chosen parcels, latents of the images, and its closed-form starts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from brainlens import miniatures
from brainlens.backbones.diffusion import Diffusion, caption_states, encode, load_diffusion
from brainlens.metrics.encoding import noise_ceiling
from brainlens.models.volume.arrays import as_array
from brainlens.parcels import Parcels, reliability
from brainlens.solvers.ridge import ridge_cv
from brainlens.subjects import check_same_subjects
from brainlens.types import DataError, Responses, Stimuli, as_ids, positions

ALPHAS = tuple(float(a) for a in np.logspace(0, 6, 13))
SHIPPED = "miniatures/"
APART = 10.0  # root mean square of new responses in standard deviations of training; single trials of 40 repeats reach 6


@dataclass(frozen=True)
class ImageRows:
    """The images that were shown: group (row,) the number of each row's image, names (image,), and what is given of each:
    pictures[at[i]] (h, w, 3) uint8, read when asked for, or latents; prompts (image, width) or None; given: number of images."""

    group: np.ndarray
    names: np.ndarray
    pictures: Any
    at: np.ndarray
    latents: np.ndarray | None
    prompts: np.ndarray | None
    given: int

    @property
    def n(self) -> int:
        return len(self.names)


def subjects_of(Y: Any) -> list[str]:
    """Names of the subjects of `Responses`, sorted; none of an array, and of responses without a column `subject`."""
    named = isinstance(Y, Responses) and "subject" in Y.trials.columns
    return sorted(set(Y.trials["subject"].astype(str))) if named else []


def responses_array(Y: Any, known: Sequence[str] = ()) -> np.ndarray:
    """Numbers (row, unit) of an array or of `Responses`. Raises DataError for responses of another subject than the known ones,
    where both are named, and as `as_array`."""
    if isinstance(Y, Responses):
        check_same_subjects(Y, known, "NeuroAdapter", "fit one on these first")
    return as_array(Y.data if isinstance(Y, Responses) else Y, "Y")


def check_same_parcels(parcels: Parcels, own: Parcels, units: int, regions: int | None) -> None:
    """Raises DataError where the inputs of a model of `units` units and its own parcels cannot be read from other parcels."""
    known = dict(zip(parcels.names, parcels.members, strict=True)) if len(parcels.label) == units else {}
    pairs = zip(own.names, own.members, strict=True)
    same = all(name in known and np.array_equal(known[name], numbers) for name, numbers in pairs)
    if not same or (regions is not None and regions != len(own)):
        raise DataError("before: a NeuroAdapter of other parcels; give it the same ones, and regions=None or its number of them")


@dataclass(frozen=True)
class FitResponses:
    """x (image, chosen): mean responses of the units of the chosen parcels, z-scored and weighted: (y[:, units] - mean) * gain;
    members: numbers into these of each parcel; snr (unit,) of all units, NaN where nothing is repeated."""

    x: np.ndarray
    parcels: Parcels
    units: np.ndarray
    members: list[np.ndarray]
    mean: np.ndarray
    gain: np.ndarray
    snr: np.ndarray


def open_pipeline(pipeline: str | Path, device: str) -> Diffusion:
    """The diffusion model of a folder or name, frozen; "miniatures/NAME" is one that ships with the library."""
    shipped = str(pipeline).startswith(SHIPPED) and not Path(pipeline).is_dir()
    return load_diffusion(miniatures.folder(str(pipeline)[len(SHIPPED) :]) if shipped else pipeline, device=device, pictures=True)


def match_images(images: Any, ids: Sequence[str] | None, rows: int, prompts: Any) -> ImageRows:
    """The images of `rows` rows. Raises DataError for ids that are no strings, lengths that differ, other forms of pictures."""
    names = np.array([f"{row:09d}" for row in range(rows)]) if ids is None else as_ids(ids)
    if len(names) != rows:
        raise DataError(f"Y has {rows} rows, ids has {len(names)}; give one for every row of Y")
    unique, first, group = np.unique(names, return_index=True, return_inverse=True)
    given = _prompts(prompts)
    if isinstance(images, Stimuli):
        if ids is None:
            raise DataError("images are Stimuli, which are found by id; give ids=, one for every row of Y")
        at, count = positions(unique, images.ids), len(images)
        pictures: Any = images.images
    else:
        pictures = images.detach().cpu().numpy() if hasattr(images, "detach") else images
        at, count = first, len(pictures)
        if count != rows:
            raise DataError(f"Y has {rows} rows, images has {count}; give one for every row of Y, or Stimuli and ids")
        if isinstance(pictures, np.ndarray):
            _check_repeats(pictures, names, first[group])
    if given is not None and len(given) != count:
        raise DataError(f"there are {count} images, prompts has {len(given)}; give one for every image")
    chosen = None if given is None else given[at]
    if isinstance(pictures, np.ndarray) and pictures.dtype.kind == "f":
        if pictures.ndim == 4 and pictures.shape[-1] == 3:
            raise DataError(
                f"images are uint8 (row, height, width, 3), got {pictures.dtype} {pictures.shape}; multiply pictures of 0 to 1 "
                "by 255 and .astype('uint8')"
            )
        latents = pictures[at].astype(np.float32)
        if latents.ndim != 4 or not np.isfinite(latents).all():
            raise DataError(f"latents of shape {pictures.shape} should be finite (row, channel, height, width)")
        return ImageRows(group, unique, None, at, latents, chosen, count)
    for i in at[:1].tolist():
        if (
            np.asarray(pictures[i]).dtype != np.uint8
            or np.asarray(pictures[i]).shape[-1:] != (3,)
            or np.asarray(pictures[i]).ndim != 3
        ):
            shape = np.asarray(pictures[i]).shape
            raise DataError(f"images are (h, w, 3) uint8, got {np.asarray(pictures[i]).dtype} {shape}; or give latents as floats")
    return ImageRows(group, unique, pictures, at, None, chosen, count)


def check_parcels(parcels: Any, units: int) -> None:
    """Raises DataError for what is no Parcels, and for parcels of another number of units."""
    if not isinstance(parcels, Parcels):
        raise DataError(
            f"parcels are a Parcels, got {type(parcels).__name__}; make them by brainlens.parcels: label_parcels(labels, "
            "{value: name}) of one label a unit, or region_parcels(responses)"
        )
    if parcels.label.shape != (units,):
        raise DataError(f"Y has {units} units, the parcels are of {len(parcels.label)}; make them from the same recording")


def read_alike(y: np.ndarray, mean: np.ndarray, gain: np.ndarray) -> np.ndarray:
    """(y - mean) * gain of new responses y (row, unit), float32, of root mean square 1 on the training images.

    Units without gain say nothing. Raises DataError where the size shows that y was prepared in another way than for the fit.
    """
    x = np.asarray((y - mean) * gain, dtype=np.float32)
    size = float(np.sqrt(np.square(x[:, gain != 0], dtype=np.float64).mean())) if x.size and (gain != 0).any() else 1.0
    if not size <= APART:
        raise DataError(
            f"Y: responses lie {size:.2g} standard deviations of the training from its mean (root mean square), more than "
            f"{APART:g}; prepare them as those of the fit, e.g. z-scored by the same trials"
        )
    return x


def fit_responses(
    y: np.ndarray, rows: ImageRows, held: np.ndarray, parcels: Parcels, *, regions: int | None, weighted: bool
) -> FitResponses:
    """Responses of every image, with parcels, moments and weights from the images that are not held back.

    y (row, unit), held (image,) bool.
    Raises DataError where parcels are to be ranked or weighted and no training image is repeated.
    """
    trained = ~held[rows.group]
    counts = np.bincount(rows.group[trained], minlength=rows.n)[~held]
    snr = np.full(y.shape[1], np.nan)
    if regions is not None or weighted:
        if counts.max() < 2:
            wanted = "regions=None keeps all, reliability=False weighs none"
            raise DataError(f"no training image is repeated, so parcels cannot be ranked nor voxels weighted; {wanted}")
        snr = noise_ceiling(y[trained], rows.names[rows.group[trained]]).ncsnr
    kept = parcels if regions is None else parcels.best(snr, regions)
    units = np.flatnonzero(kept.label >= 0)
    place = np.full(y.shape[1], -1)
    place[units] = np.arange(len(units))
    mean_y = _mean_responses(y[:, units], rows)
    centre, spread = mean_y[~held].mean(axis=0), mean_y[~held].std(axis=0)
    gain = np.divide(1.0, spread, out=np.zeros_like(spread), where=spread > 1e-9 * np.maximum(np.abs(centre), 1e-12))
    if weighted:
        weight = reliability(snr[units], 1 / float((1 / counts).mean()))
        size = float(np.sqrt((weight**2).mean()))
        if size == 0:
            raise DataError(
                "no voxel of the chosen parcels is reliable; check that the ids name the repeats, or reliability=False"
            )
        gain = gain * weight / size  # on average of size 1, so that tokens keep their scale
    x = ((mean_y - centre) * gain).astype(np.float32)
    members = [place[group] for group in kept.members]
    return FitResponses(x, kept, units, members, centre, gain, snr)


def same_inputs(y: np.ndarray, rows: ImageRows, read: FitResponses) -> FitResponses:
    """Responses of every image, from y (row, unit), read as another fit reads them: its parcels, moments and weights."""
    x = ((_mean_responses(y[:, read.units], rows) - read.mean) * read.gain).astype(np.float32)
    return replace(read, x=x)


def _mean_responses(y: np.ndarray, rows: ImageRows) -> np.ndarray:
    """Mean over the repeats of each image (image, unit), float64."""
    order = np.argsort(rows.group, kind="stable")
    starts = np.searchsorted(rows.group[order], np.arange(rows.n))
    counts = np.bincount(rows.group, minlength=rows.n)
    return np.add.reduceat(y[order].astype(np.float64), starts, axis=0) / counts[:, None]


def latents_of(diffusion: Diffusion, rows: ImageRows, *, batch: int = 32) -> Tensor:
    """Latents (image, c, h, w) float32 on the CPU, encoded once. Raises DataError for latents of another shape."""
    config = diffusion.unet.config
    shape = (int(config.in_channels), int(config.sample_size), int(config.sample_size))
    if rows.latents is not None:
        if rows.latents.shape[1:] != shape:
            raise DataError(f"latents have the shape {rows.latents.shape[1:]}, those of {diffusion.name} have {shape}")
        return torch.from_numpy(rows.latents)
    out = torch.empty(rows.n, *shape)
    with torch.no_grad():
        for start in range(0, rows.n, batch):
            part = [rows.pictures[i] for i in rows.at[start : start + batch].tolist()]
            out[start : start + len(part)] = encode(diffusion, diffusion.preprocess.batch(part)).float().cpu()
    return out


def caption_table(diffusion: Diffusion, captions: Sequence[str] | None, rows: ImageRows, distil: float) -> Tensor | None:
    """States (image, token, channel) float16 of the captions of `rows`; None without captions or distillation.

    Raises DataError unless there is one caption, a text, for each image.
    """
    if captions is None or distil == 0:
        return None
    texts = list(captions)
    if len(texts) != rows.given or not all(isinstance(text, str) for text in texts):
        raise DataError(f"there are {rows.given} images and {len(texts)} captions; give one text for each image, or none at all")
    return caption_states(diffusion.place, [texts[i] for i in rows.at.tolist()]).half()


def ridge_latents(x: np.ndarray, latents: Tensor, held: np.ndarray) -> dict[str, Any]:
    """Ridge from voxels to latents, one penalty a value, on the images that are not held back.

    x (image, unit), latents (image, c, h, w), held (image,) bool; weights (unit, value), intercept (value,).
    """
    flat = latents.flatten(1).numpy()
    fit = ridge_cv(x[~held], flat[~held], ALPHAS)
    return {"weights": fit.weights.numpy(), "intercept": fit.intercept.numpy(), "shape": list(latents.shape[1:])}


def _check_repeats(pictures: np.ndarray, names: np.ndarray, first: np.ndarray) -> None:
    for row in np.flatnonzero(first != np.arange(len(first))):
        if not np.array_equal(pictures[row], pictures[first[row]]):
            raise DataError(f"images: row {row} differs from an earlier row of the same id {str(names[row])!r}")


def _prompts(prompts: Any) -> np.ndarray | None:
    if prompts is None:
        return None
    given = np.asarray(prompts.detach().cpu() if hasattr(prompts, "detach") else prompts, dtype=np.float32)
    if given.ndim != 2 or not np.isfinite(given).all():
        raise DataError(f"prompts of shape {given.shape} should be finite (image, width)")
    return given
