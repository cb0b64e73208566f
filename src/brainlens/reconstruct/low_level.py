"""Low-level reconstruction: a ridge from voxels to pixels, or to a fixed latent space of pictures that is decoded afterwards.

    decoded = low_level(X, pictures, space=PictureAxes(20), fold=fold)
    two_way(pictures.reshape(n, -1), decoded.pictures.reshape(n, -1), groups=digit)

It is the baseline of every generative method where layout and shape count, and what such a method may start from.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np

from brainlens.metrics.reconstruction import as_unit_range, two_way
from brainlens.solvers.ridge import fold_labels, ridge_cv, ridge_predict
from brainlens.types import DataError

ALPHAS = tuple(float(a) for a in np.logspace(0, 6, 13))  # of standardised voxels, whose Gram matrix grows with their number
INNER = 5  # folds of the training images in which the penalty is chosen


class Space(Protocol):
    """A space that pictures are decoded in. `fit` sees training pictures alone; learns: whether the space depends on them.

    pictures (n, row, column[, 3]), latents (n, value).
    """

    learns: bool

    def fit(self, pictures: np.ndarray) -> Self: ...

    def encode(self, pictures: np.ndarray) -> np.ndarray: ...

    def decode(self, latents: np.ndarray) -> np.ndarray: ...


class Pixels:
    """Pixels as they are: z = x. Pictures (n, row, column[, 3])."""

    learns = False

    def fit(self, pictures: np.ndarray) -> Self:
        self._shape = pictures.shape[1:]
        return self

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """(n, row, column[, 3]) -> (n, pixel)."""
        return pictures.reshape(len(pictures), -1)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """(n, pixel) -> (n, row, column[, 3])."""
        return latents.reshape(len(latents), *self._shape)


class PictureAxes(Pixels):
    """The first principal axes of the training pictures: z = V'(x - m), x ~ m + V z.

    components: how many; V (pixel, component) and m from the singular value decomposition of the centred training pictures.
    `fit` raises DataError for more components than training pictures leave (their number less one).
    """

    learns = True

    def __init__(self, components: int) -> None:
        self.components = components

    def fit(self, pictures: np.ndarray) -> Self:
        super().fit(pictures)
        rows = super().encode(pictures).astype(np.float64)
        most = min(len(rows) - 1, rows.shape[1])
        if not 1 <= self.components <= most:
            raise DataError(f"principal axes: {self.components} components of {len(rows)} training pictures; choose 1 to {most}")
        self._mean = rows.mean(axis=0)
        self._axes = np.linalg.svd(rows - self._mean, full_matrices=False)[2][: self.components]
        return self

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        return (super().encode(pictures) - self._mean) @ self._axes.T

    def decode(self, latents: np.ndarray) -> np.ndarray:
        return super().decode(latents @ self._axes + self._mean)


class Autoencoder:
    """A trained autoencoder by its two functions: encode (n, row, column[, 3]) -> (n, ...), decode back; nothing is fitted."""

    learns = False

    def __init__(self, encode: Callable[[np.ndarray], np.ndarray], decode: Callable[[np.ndarray], np.ndarray]) -> None:
        self._encode, self._decode = encode, decode

    def fit(self, pictures: np.ndarray) -> Self:
        self._shape = np.asarray(self._encode(pictures[:1])).shape[1:]
        return self

    def encode(self, pictures: np.ndarray) -> np.ndarray:
        """Latents, one row a picture."""
        return np.asarray(self._encode(pictures)).reshape(len(pictures), -1)

    def decode(self, latents: np.ndarray) -> np.ndarray:
        """Pictures of latents in rows."""
        return np.asarray(self._decode(latents.reshape(len(latents), *self._shape)))


@dataclass(frozen=True)
class Decoded:
    """pictures (image, row, column[, 3]) float32 cut to [0, 1], each decoded by a fit that never saw it; its fold (image,);
    alpha (fold,), the penalty that each fit took, and space (fold,), the name of its space where one was chosen ("" else)."""

    pictures: np.ndarray
    fold: np.ndarray
    alpha: np.ndarray
    space: tuple[str, ...]


def decode_pictures(
    X: np.ndarray,
    pictures: np.ndarray,
    X_new: np.ndarray,
    *,
    space: Space | None = None,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> tuple[np.ndarray, float]:
    """Pictures of new responses by z = W x + b, then the picture of z: (new, row, column[, 3]) float32 in [0, 1], the penalty.

        W = argmin sum_i |z_i - W x_i - b|^2 + a |W|^2,     x standardised, z = space.encode(picture)

    X (image, voxel), one response an image; pictures (image, row, column[, 3]), uint8 or floats in [0, 1]; X_new (new, voxel);
    space: None for pixels. Voxel means and deviations, the space and the penalty a, one for all of z with the smallest squared
    error in 5 random folds, come from X and pictures alone.
    Raises DataError for rows and voxels that do not match, NaN, pictures out of range, and fewer than 10 images.
    """
    x, seen = _checked(X, pictures)
    new = np.asarray(X_new, dtype=np.float64)
    if new.ndim != 2 or new.shape[1] != x.shape[1] or not np.isfinite(new).all():
        raise DataError(f"low-level reconstruction: X_new {new.shape} must be (image, {x.shape[1]} voxels as in X), all finite")
    chosen = Pixels() if space is None else space
    return _decode(x, chosen.fit(seen).encode(seen), new, chosen, alphas, seed)


def low_level(
    X: np.ndarray,
    pictures: np.ndarray,
    *,
    space: Space | None = None,
    fold: np.ndarray | None = None,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> Decoded:
    """Every picture decoded as in `decode_pictures` from the images of the other folds.

    fold (image,): labels of the folds (None: 10 of random images). Raises DataError as that does, and for labels that do not
    fit or leave fewer than 10 images to train on.
    """
    x, seen = _checked(X, pictures)
    labels = _labels(fold, len(x), seed)
    chosen = Pixels() if space is None else space
    out, penalties = np.empty(seen.shape, dtype=np.float32), []
    fixed = None if chosen.learns else chosen.fit(seen).encode(seen)  # a space that learns nothing is the same in every fold
    for label in np.unique(labels):
        held = labels == label
        latents = chosen.fit(seen[~held]).encode(seen[~held]) if fixed is None else fixed[~held]
        out[held], penalty = _decode(x[~held], latents, x[held], chosen, alphas, seed)
        penalties.append(penalty)
    return Decoded(out, labels, np.array(penalties), ("",) * len(penalties))


def low_level_latents(
    X: np.ndarray,
    pictures: np.ndarray,
    space: Space,
    *,
    fold: np.ndarray | None = None,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> np.ndarray:
    """What `low_level` decodes, before it is decoded: the latents (image, value) that the ridge of the other folds predicts.

    space: one that learns nothing, such as an autoencoder, so that latents of all folds mean the same.
    Raises DataError as `low_level` does, and for a space that is fitted to the training pictures.
    """
    if space.learns:
        raise DataError("low-level latents: this space is fitted anew in every fold; give a fixed one, such as an Autoencoder")
    x, seen = _checked(X, pictures)
    labels, latents = _labels(fold, len(x), seed), space.fit(seen).encode(seen)
    out = np.empty(latents.shape, dtype=np.float32)
    for label in np.unique(labels):
        held = labels == label
        out[held], _ = _predict(x[~held], latents[~held], x[held], alphas, seed)
    return out


def low_level_chosen(
    X: np.ndarray,
    pictures: np.ndarray,
    spaces: Mapping[str, Space],
    *,
    fold: np.ndarray | None = None,
    alphas: Sequence[float] = ALPHAS,
    seed: int = 0,
) -> Decoded:
    """As `low_level`, the space of each fold being the one that does best among its training images.

    X (image, unit), pictures (image, row, column[, 3]), fold (image,) labels.
    The training images of a fold are decoded out of 5 random inner folds in each space; the space with the highest two-way
    identification of pixels (reconstruction->image) decodes the images that the fold holds back. spaces: by name.
    Raises DataError as `low_level` does, and where no space is given.
    """
    x, seen = _checked(X, pictures)
    if not spaces:
        raise DataError("low-level reconstruction: no space is given to choose from; name one, such as {'pixels': Pixels()}")
    labels = _labels(fold, len(x), seed)
    out, penalties, names = np.empty(seen.shape, dtype=np.float32), [], []
    for label in np.unique(labels):
        held = labels == label
        inner = _random_folds(int((~held).sum()), INNER, seed)
        true = seen[~held].reshape(len(inner), -1)
        score = {}
        for name, space in spaces.items():
            predicted = low_level(x[~held], seen[~held], space=space, fold=inner, alphas=alphas, seed=seed).pictures
            score[name] = float(two_way(true, predicted.reshape(len(inner), -1)).mean())
        best = max(score, key=lambda name: score[name])
        out[held], penalty = decode_pictures(x[~held], seen[~held], x[held], space=spaces[best], alphas=alphas, seed=seed)
        penalties.append(penalty)
        names.append(best)
    return Decoded(out, labels, np.array(penalties), tuple(names))


def _decode(
    x: np.ndarray, z: np.ndarray, new: np.ndarray, space: Space, alphas: Sequence[float], seed: int
) -> tuple[np.ndarray, float]:
    """Pictures of `new` by the ridge from x to z, and its penalty."""
    found, best = _predict(x, z, new, alphas, seed)
    return np.clip(space.decode(found), 0, 1).astype(np.float32), best


def _predict(x: np.ndarray, z: np.ndarray, new: np.ndarray, alphas: Sequence[float], seed: int) -> tuple[np.ndarray, float]:
    """Latents of `new` by the ridge from x to z, and its penalty."""
    if len(x) < 2 * INNER:
        raise DataError(f"low-level reconstruction: a fold leaves {len(x)} images to train on; {2 * INNER} are needed")
    mean, spread = x.mean(axis=0), x.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    rows, wanted = (((values - mean) / spread).astype(np.float32) for values in (x, new))
    inner = _random_folds(len(x), INNER, seed)
    scores = ridge_cv(rows, z, alphas, fold=inner, score="mse").cv_scores
    best = float(alphas[int(scores.mean(dim=1).argmax())])
    return ridge_predict(ridge_cv(rows, z, [best], fold=inner, score="mse"), wanted).numpy(), best


def _checked(X: np.ndarray, pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, seen = np.asarray(X, dtype=np.float64), as_unit_range(pictures)
    if x.ndim != 2 or len(x) != len(seen):
        raise DataError(f"low-level reconstruction: X {x.shape} is (image, voxel), one row for each of {len(seen)} pictures")
    if not np.isfinite(x).all():
        raise DataError(f"low-level reconstruction: X holds {int((~np.isfinite(x)).sum())} NaN or infinite values; clean() first")
    return x, seen


def _labels(fold: np.ndarray | None, n: int, seed: int) -> np.ndarray:
    labels = _random_folds(n, 10, seed) if fold is None else np.asarray(fold)
    if labels.shape != (n,) or len(np.unique(labels)) < 2:
        raise DataError(f"low-level reconstruction: fold gives a label to each of {n} images, 2 or more; got {labels.shape}")
    return labels


def _random_folds(n: int, folds: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 97]).permutation(fold_labels(n, folds=folds))
