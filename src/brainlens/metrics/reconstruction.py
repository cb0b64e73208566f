"""How near reconstructed pictures are to those that were seen: pixel correlation, SSIM, two-way identification, distances.

Arguments stand in scikit-learn's order, the seen pictures (or their features) before the reconstructed ones. Every score is
given for each image, so that intervals over images and paired comparisons follow from `metrics.statistics`.

Two quantities go by one name in print, and both are here under their own. SSIM of a grey picture is that of a plane, or, with
scikit-image before 0.20, the mean over its columns as if they were channels. Two-way identification asks of a
reconstruction which of two seen pictures it shows, or of a seen picture which of two reconstructions shows it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from brainlens.metrics.retrieval import TIE, neighbours
from brainlens.types import DataError

DIRECTIONS = ("reconstruction->image", "image->reconstruction")
METRICS = ("pearson", "cosine")
FORMS = ("plane", "columns")
GREY = (0.2125, 0.7154, 0.0721)  # luminance of red, green, blue (ITU-R BT.709), as in scikit-image
SIGMA, TRUNCATE = 1.5, 3.5  # the Gaussian window of Wang et al. 2004: 11 pixels
MARGIN = int(TRUNCATE * SIGMA + 0.5)  # pixels at the edge whose window leaves the picture
SMALLEST = 2 * MARGIN + 1


def pixel_correlation(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """PixCorr: Pearson r over all pixels and colours of each picture.

        r_i = cov(x_i, y_i) / (sd(x_i) sd(y_i))

    y_true, y_pred (image, row, column) or (image, row, column, 3), uint8 or floats in [0, 1] -> (image,).
    Raises DataError for shapes that differ, floats outside [0, 1], NaN, and a picture of one value, which has no correlation.
    """
    true, pred = _picture_pair(y_true, y_pred)
    rows = (unit_rows(p.reshape(len(p), -1), what) for p, what in ((true, "y_true"), (pred, "y_pred")))
    return np.asarray(np.einsum("np,np->n", *rows, dtype=np.float64))  # half a million float32 products lose four digits


def ssim(y_true: np.ndarray, y_pred: np.ndarray, form: str = "plane") -> np.ndarray:
    """Structural similarity of grey pictures, mean over the places whose Gaussian window (sd 1.5, 11 pixels) lies inside.

        SSIM = (2 m_x m_y + c1)(2 s_xy + c2) / ((m_x^2 + m_y^2 + c1)(s_x^2 + s_y^2 + c2)),     c1 = .01^2, c2 = .03^2

    form "plane": windows of the plane, what scikit-image 0.20 and later compute of a grey picture; "columns": windows along
    each column, what earlier versions computed with `multichannel=True`, by which a grey picture's columns were channels.
    Colour becomes luminance first. y_true, y_pred as in `pixel_correlation` -> (image,).
    Raises DataError as that does, for another form, and for pictures smaller than 11 pixels. Wang et al. 2004, equation 13.
    """
    if form not in FORMS:
        raise DataError(f"ssim: form {form!r} is not one of {', '.join(FORMS)}")
    true, pred = (_grey(p) for p in _picture_pair(y_true, y_pred))
    if min(true.shape[1:]) < SMALLEST:
        raise DataError(
            f"ssim: pictures of {true.shape[1:]} pixels are smaller than its window of {SMALLEST}; enlarge them first"
        )
    return np.concatenate([_ssim(true[i : i + 16], pred[i : i + 16], form) for i in range(0, len(true), 16)])


def two_way(
    y_true: np.ndarray,
    y_pred: np.ndarray,
    direction: str = "reconstruction->image",
    *,
    metric: str = "pearson",
    groups: Sequence[object] | np.ndarray | None = None,
) -> np.ndarray:
    """Two-way identification: the share of distractors that are less like the query than its own partner is.

        reconstruction->image:  t_i = mean_{j != i} [s(x_i, y_i) > s(x_j, y_i)]     distractors are seen pictures
        image->reconstruction:  t_i = mean_{j != i} [s(x_i, y_i) > s(x_i, y_j)]     distractors are reconstructions

    s: "pearson", the correlation of features, or "cosine"; a tie (within 1e-6) counts as a failure. Chance is .5.
    y_true (image, feature), features of the seen pictures x; y_pred (image, feature), those of the reconstructions y, or
    (image, candidate, feature), whose similarities are averaged over candidates. groups (image,): distractors are of the
    query's group only, such as the same category. Returns (image,); all n^2 similarities come from one matrix product.
    The first direction is that of MindEye and Brain-Diffuser, the second that of NeuroAdapter.

    Raises DataError for another direction or metric, shapes that differ, fewer than 2 images, NaN, an image without a
    distractor in its group, and features that are constant (pearson) or zero (cosine).
    """
    if direction not in DIRECTIONS:
        raise DataError(f"two-way identification: direction {direction!r} is not one of {', '.join(DIRECTIONS)}")
    scores = similarities(y_true, y_pred, metric)
    n = len(scores)
    if n < 2:
        raise DataError(f"two-way identification: needs 2 images or more to have a distractor, got {n}")
    distractor = ~np.eye(n, dtype=bool)
    if groups is not None:
        listed = np.asarray(groups)
        if listed.shape != (n,):
            raise DataError(f"two-way identification: {n} images but groups of shape {listed.shape}; give one for each image")
        distractor &= listed[:, None] == listed[None]
    count = distractor.sum(axis=1)
    if not count.all():
        alone = int(np.argmin(count))
        raise DataError(f"two-way identification: image {alone} is alone in group {listed[alone]!s}; leave it out or join groups")
    own = np.diag(scores)
    queries = scores if direction == "image->reconstruction" else scores.T  # a row for each query
    return ((queries < own[:, None] - TIE) & distractor).sum(axis=1) / count


def correlation_distance(y_true: np.ndarray, y_pred: np.ndarray) -> np.ndarray:
    """1 - Pearson r of the features of each picture and its reconstruction: (image, feature) twice -> (image,); 0 is best.

    Raises DataError for shapes that differ, NaN and constant features.
    """
    true, pred = _feature_pair(y_true, y_pred)
    if pred.ndim == 3:
        raise DataError(f"correlation distance: y_pred is (image, feature), got {pred.shape}; average or choose candidates first")
    return 1.0 - np.einsum("nd,nd->n", unit_rows(true, "y_true"), unit_rows(pred, "y_pred"), dtype=np.float64)


def similarities(y_true: np.ndarray, y_pred: np.ndarray, metric: str = "pearson") -> np.ndarray:
    """s(x_i, y_j) of every seen picture i with every reconstruction j: (image, image), float64, from one product.

    Shapes, metric and errors as in `two_way`.
    """
    if metric not in METRICS:
        raise DataError(f"similarity of features: metric {metric!r} is not one of {', '.join(METRICS)}")
    true, pred = _feature_pair(y_true, y_pred)
    left = unit_rows(true, "y_true", metric)
    if pred.ndim == 2:
        return (left @ unit_rows(pred, "y_pred", metric).T).astype(np.float64)
    flat = unit_rows(pred.reshape(-1, pred.shape[2]), "y_pred", metric, per_image=pred.shape[1])
    return (left @ flat.reshape(pred.shape).mean(axis=1).T).astype(np.float64)  # the mean of products is that of a mean


def nearest_training(query: np.ndarray, training: np.ndarray, metric: str = "pearson") -> np.ndarray:
    """The training picture most like each query: rows (image,) of `training`, to be scored as if they were reconstructions.

    query (image, feature), training (picture, feature). With the features of the seen test pictures it is what perfect
    retrieval of a training picture reaches, a ceiling; with features decoded from the brain it is the retrieval baseline.
    Raises DataError for shapes that do not match, NaN, and rows without a correlation or a direction.
    """
    if metric not in METRICS:
        raise DataError(f"nearest training picture: metric {metric!r} is not one of {', '.join(METRICS)}")
    both = [_features(query, "query"), _features(training, "training")]
    if any(x.ndim != 2 for x in both) or both[0].shape[1] != both[1].shape[1]:
        raise DataError(
            f"nearest training picture: query {both[0].shape}, training {both[1].shape}; give (picture, feature) twice"
        )
    return neighbours(unit_rows(both[0], "query", metric), unit_rows(both[1], "training", metric), k=1)[0][:, 0]


def repeat_ceiling(features: np.ndarray, statistic: str = "two_way", *, metric: str = "pearson") -> np.ndarray:
    """How well the reconstructions of one repetition tell those of another: what noise between repetitions leaves to reach.

        two_way:      c_i = mean over ordered pairs of repetitions a != b of t_i(features_a, features_b)
        correlation:  c_i = sqrt(max(0, mean over pairs a < b of r(features_ai, features_bi)))

    features (repetition, image, feature) of pictures reconstructed from each repetition alone -> (image,). With y = x + noise
    and noise that is independent between repetitions and of one size, the second bounds the correlation of y with any truth
    in expectation. The first is no bound: both sides carry noise, so a decoder of averaged repetitions may exceed it.
    Raises DataError for fewer than 2 repetitions or images, another statistic, NaN, and features that are constant.
    """
    array = np.asarray(features)
    if array.ndim != 3 or len(array) < 2:
        raise DataError(
            f"repeat ceiling: features are (repetition, image, feature) with 2 repetitions or more, got {array.shape}"
        )
    if statistic not in ("two_way", "correlation"):
        raise DataError(f"repeat ceiling: statistic {statistic!r} is not one of two_way, correlation")
    pairs = [(a, b) for a in range(len(array)) for b in range(len(array)) if (a != b if statistic == "two_way" else a < b)]
    if statistic == "two_way":
        return np.mean([two_way(array[a], array[b], metric=metric) for a, b in pairs], axis=0)
    if metric != "pearson":
        raise DataError(f"repeat ceiling: the correlation is Pearson's, got metric {metric!r}; leave it out")
    return np.sqrt(np.maximum(0.0, np.mean([1 - correlation_distance(array[a], array[b]) for a, b in pairs], axis=0)))


def as_unit_range(pictures: np.ndarray, what: str = "pictures") -> np.ndarray:
    """Pictures (image, row, column[, 3]), uint8 or floats in [0, 1], as floats in [0, 1].

    Raises DataError for other shapes and types, an empty array, NaN, and floats outside [0, 1].
    """
    array = np.asarray(pictures)
    if array.ndim not in (3, 4) or 0 in array.shape or (array.ndim == 4 and array.shape[3] != 3):
        raise DataError(f"{what} are (image, row, column) or (image, row, column, 3), got shape {array.shape}")
    if array.dtype == np.uint8:
        return array.astype(np.float32) / 255
    if not np.issubdtype(array.dtype, np.floating):
        raise DataError(f"{what} are uint8 or floats in [0, 1], got {array.dtype}; convert them first")
    if not np.isfinite(array).all():
        raise DataError(f"{what}: picture {_first(~np.isfinite(array))} holds NaN or infinity; leave it out of both sides")
    if array.min() < 0 or array.max() > 1:
        raise DataError(
            f"{what} hold {float(array.min()):.3g} to {float(array.max()):.3g}; floats lie in [0, 1], clip them or give uint8"
        )
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def unit_rows(rows: np.ndarray, what: str, metric: str = "pearson", *, per_image: int = 1) -> np.ndarray:
    """Rows of length 1, centred first for "pearson", so that products of rows are correlations or cosines.

    rows (n, d) -> (n, d), where `per_image` rows follow each other for one image. Raises DataError for a row without a direction.
    """
    x = rows - rows.mean(axis=1, keepdims=True, dtype=np.float64).astype(rows.dtype) if metric == "pearson" else rows
    length = np.sqrt(np.einsum("nd,nd->n", x, x, dtype=np.float64))
    size = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    flat = length <= 1e-6 * size if metric == "pearson" else length == 0  # rounding leaves a constant row a little length
    if flat.any():
        why = "is constant, so it has no correlation" if metric == "pearson" else "is all zeros, so it has no direction"
        raise DataError(f"{what}: image {int(np.argmax(flat)) // per_image} {why}; leave it out of both sides and count it")
    return x / length[:, None].astype(rows.dtype)


def _ssim(x: np.ndarray, y: np.ndarray, form: str) -> np.ndarray:
    def smooth(values: np.ndarray) -> np.ndarray:
        if form == "columns":
            return gaussian_filter1d(values, SIGMA, axis=1, truncate=TRUNCATE)
        return gaussian_filter(values, SIGMA, axes=(1, 2), truncate=TRUNCATE)

    c1, c2 = 0.01**2, 0.03**2
    mx, my = smooth(x), smooth(y)
    vx, vy, vxy = smooth(x * x) - mx * mx, smooth(y * y) - my * my, smooth(x * y) - mx * my
    value = ((2 * mx * my + c1) * (2 * vxy + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    inside = value[:, MARGIN:-MARGIN] if form == "columns" else value[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    return inside.mean(axis=(1, 2))


def _grey(pictures: np.ndarray) -> np.ndarray:
    array = pictures.astype(np.float64)
    return array @ np.array(GREY) if array.ndim == 4 else array


def _picture_pair(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    true, pred = as_unit_range(y_true, "y_true"), as_unit_range(y_pred, "y_pred")
    if true.shape != pred.shape:
        raise DataError(f"y_true {true.shape} and y_pred {pred.shape} must be as many pictures of one size; resize one of them")
    return true, pred


def _feature_pair(y_true: np.ndarray, y_pred: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    true, pred = _features(y_true, "y_true"), _features(y_pred, "y_pred")
    if true.ndim != 2 or (len(pred), pred.shape[-1]) != true.shape:
        raise DataError(f"y_true {true.shape} and y_pred {pred.shape} must be (image, feature), of the same images and network")
    return true, pred


def _features(features: np.ndarray, what: str) -> np.ndarray:
    array = np.asarray(features)
    if array.ndim not in (2, 3) or 0 in array.shape:
        raise DataError(f"{what} is (image, feature), got shape {array.shape}; flatten maps of features first")
    if not np.issubdtype(array.dtype, np.floating):
        array = array.astype(np.float64)
    if not np.isfinite(array).all():
        raise DataError(f"{what}: image {_first(~np.isfinite(array))} holds NaN or infinity; leave it out of both sides")
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)


def _first(bad: np.ndarray) -> int:
    return int(np.argmax(bad.reshape(len(bad), -1).any(axis=1)))
