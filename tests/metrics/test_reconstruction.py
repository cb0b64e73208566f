"""Scores of reconstructed pictures: equal to plain loops and to scikit-image, and right where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import correlation
from skimage.color import rgb2gray
from skimage.metrics import structural_similarity

from brainlens.metrics import reconstruction as R
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.types import DataError


def pictures(seed: int, n: int = 4, side: int = 24, colour: bool = True) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.uniform(size=(n, side, side, 3) if colour else (n, side, side))


def looped(true: np.ndarray, pred: np.ndarray, direction: str, metric: str, groups: np.ndarray | None) -> np.ndarray:
    """Two-way identification pair by pair."""

    def like(a: np.ndarray, b: np.ndarray) -> float:
        if metric == "cosine":
            return float(a @ b / np.sqrt((a @ a) * (b @ b)))
        return float(np.corrcoef(a, b)[0, 1])

    out = []
    for i in range(len(true)):
        won = []
        for j in range(len(true)):
            if i == j or (groups is not None and groups[i] != groups[j]):
                continue
            own = like(true[i], pred[i])
            other = like(true[j], pred[i]) if direction == "reconstruction->image" else like(true[i], pred[j])
            won.append(own > other + 1e-6)
        out.append(np.mean(won))
    return np.array(out)


# --- two-way identification


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 2**32 - 1), st.sampled_from(R.DIRECTIONS), st.sampled_from(R.METRICS), st.booleans(), st.sampled_from([32, 64])
)
def test_two_way_equals_a_loop_over_pairs(seed, direction, metric, grouped, bits) -> None:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 14))
    true = rng.normal(size=(n, 9)) + rng.normal(size=9)
    pred = true * rng.uniform(0.2, 3, (n, 1)) + rng.uniform(0.1, 3) * rng.normal(size=(n, 9)) + rng.normal()
    groups = np.arange(n) % 2 if grouped else None
    found = R.two_way(true.astype(f"f{bits // 8}"), pred.astype(f"f{bits // 8}"), direction, metric=metric, groups=groups)
    np.testing.assert_allclose(found, looped(true, pred, direction, metric, groups), atol=1e-12)


def test_the_two_directions_are_two_questions() -> None:
    """Every reconstruction is the same seen picture with a little of its own: each finds its own image among the seen ones
    hardly ever, while each seen picture finds its own reconstruction."""
    seen = np.eye(12) + 0.01 * np.random.default_rng(0).normal(size=(12, 12))
    made = 5 * seen[:1] + seen
    forth = R.two_way(seen, made, "reconstruction->image")
    back = R.two_way(seen, made, "image->reconstruction")
    np.testing.assert_allclose(forth[1:], 10 / 11)  # beaten by picture 0 alone
    assert back.mean() > 0.99
    np.testing.assert_array_equal(forth, looped(seen, made, "reconstruction->image", "pearson", None))


@given(st.integers(0, 2**32 - 1), st.sampled_from(R.DIRECTIONS), st.sampled_from(R.METRICS))
def test_identical_pictures_score_1_and_a_tie_counts_as_a_failure(seed, direction, metric) -> None:
    rows = np.random.default_rng(seed).normal(size=(8, 40)).astype(np.float32)
    np.testing.assert_array_equal(R.two_way(rows, rows, direction, metric=metric), 1.0)
    twins = np.concatenate([rows[:1], rows])  # two pictures are one: neither can be told from the other
    np.testing.assert_allclose(R.two_way(twins, twins, direction, metric=metric)[:2], 7 / 8)


@pytest.mark.parametrize("direction", R.DIRECTIONS)
def test_unrelated_pictures_are_at_chance(direction) -> None:
    """Mean over 40 independent sets of 60 pictures: its standard error is about .004, the margin four of them."""
    rng = np.random.default_rng(0)
    means = [R.two_way(rng.normal(size=(60, 50)), rng.normal(size=(60, 50)), direction).mean() for _ in range(40)]
    assert np.mean(means) == pytest.approx(0.5, abs=4 * np.std(means) / np.sqrt(40))
    assert np.std(means) / np.sqrt(40) < 0.01


@given(st.integers(0, 2**32 - 1))
def test_correlations_ignore_gain_and_offset_of_each_row_and_cosines_the_gain(seed) -> None:
    rng = np.random.default_rng(seed)
    true, pred = rng.normal(size=(2, 6, 30))
    gain, offset = rng.uniform(0.5, 4, (6, 1)), rng.normal(size=(6, 1))
    np.testing.assert_allclose(R.similarities(true, gain * pred + offset), R.similarities(true, pred), atol=1e-9)
    np.testing.assert_allclose(R.similarities(true, gain * pred, "cosine"), R.similarities(true, pred, "cosine"), atol=1e-9)
    assert not np.allclose(R.similarities(true, pred + 5, "cosine"), R.similarities(true, pred, "cosine"), atol=0.01)


@given(st.integers(0, 2**32 - 1))
def test_candidates_count_by_the_mean_of_their_similarities(seed) -> None:
    rng = np.random.default_rng(seed)
    true, pred = rng.normal(size=(5, 20)), rng.normal(size=(5, 3, 20))
    plain = np.mean([[[np.corrcoef(t, p[k])[0, 1] for p in pred] for t in true] for k in range(3)], axis=0)
    np.testing.assert_allclose(R.similarities(true, pred), plain, atol=1e-9)
    np.testing.assert_array_equal(R.two_way(true, pred[:, :1]), R.two_way(true, pred[:, 0]))


# --- pixels


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_pixel_correlation_is_that_of_all_pixels(seed, colour) -> None:
    true, pred = pictures(seed, colour=colour), pictures(seed + 1, colour=colour)
    plain = [np.corrcoef(a.ravel(), b.ravel())[0, 1] for a, b in zip(true, pred, strict=True)]
    np.testing.assert_allclose(R.pixel_correlation(true, pred), plain, atol=1e-9)
    np.testing.assert_allclose(R.pixel_correlation(true, 0.3 * pred + 0.5), plain, atol=1e-9)  # affine in intensity
    np.testing.assert_allclose(R.pixel_correlation(true, 1 - pred), -np.array(plain), atol=1e-9)
    np.testing.assert_allclose(R.pixel_correlation(true, true), 1.0)


def test_eight_bits_and_floats_score_alike() -> None:
    eight = (255 * pictures(0)).astype(np.uint8)
    for score in (R.pixel_correlation, R.ssim):
        np.testing.assert_allclose(score(eight, eight[::-1]), score(eight / 255, eight[::-1] / 255), atol=1e-5)


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 2**32 - 1), st.sampled_from(R.FORMS), st.booleans())
def test_ssim_equals_scikit_image_in_both_meanings(seed, form, colour) -> None:
    rng = np.random.default_rng(seed)
    true = pictures(seed, side=int(rng.integers(11, 30)), colour=colour)
    pred = np.clip(true + 0.2 * rng.normal(size=true.shape), 0, 1)
    given_ = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1.0}
    axis = -1 if form == "columns" else None
    grey = [(rgb2gray(a), rgb2gray(b)) if colour else (a, b) for a, b in zip(true, pred, strict=True)]
    plain = [structural_similarity(b, a, channel_axis=axis, **given_) for a, b in grey]
    np.testing.assert_allclose(R.ssim(true, pred, form), plain, atol=1e-9)
    np.testing.assert_allclose(R.ssim(true, true, form), 1.0)
    np.testing.assert_allclose(R.ssim(pred, true, form), R.ssim(true, pred, form), atol=1e-12)


def test_the_two_meanings_of_ssim_are_two_numbers() -> None:
    """Smooth pictures, as in print: by columns more is alike, since structure across them is not looked at."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.random.default_rng(0).normal(size=(6, 64, 64)), (0, 3, 3))
    smooth = (smooth - smooth.min()) / np.ptp(smooth)
    noisy = np.clip(smooth + 0.03 * np.random.default_rng(1).normal(size=smooth.shape), 0, 1)
    assert np.abs(R.ssim(smooth, noisy) - R.ssim(smooth, noisy, "columns")).min() > 0.01


# --- distances, ceilings, intervals


@given(st.integers(0, 2**32 - 1))
def test_distance_is_that_of_scipy(seed) -> None:
    true, pred = np.random.default_rng(seed).normal(size=(2, 5, 17))
    plain = [correlation(a, b) for a, b in zip(true, pred, strict=True)]
    np.testing.assert_allclose(R.correlation_distance(true, pred), plain, atol=1e-9)


def test_the_nearest_training_picture_is_found_and_scored() -> None:
    rng = np.random.default_rng(0)
    training = rng.normal(size=(30, 12))
    rows = rng.permutation(30)[:8]
    query = 3 * training[rows] + 1 + 0.05 * rng.normal(size=(8, 12))
    np.testing.assert_array_equal(R.nearest_training(query, training), rows)
    other = rng.normal(size=(8, 12))
    by_loop = [int(np.argmax([np.corrcoef(q, t)[0, 1] for t in training])) for q in other]
    np.testing.assert_array_equal(R.nearest_training(other, training), by_loop)
    by_cosine = [int(np.argmax(training @ q / np.linalg.norm(training, axis=1))) for q in other]
    np.testing.assert_array_equal(R.nearest_training(other, training, "cosine"), by_cosine)


def test_the_repeat_ceiling_bounds_the_correlation_with_the_truth() -> None:
    """Truth plus independent noise: the ceiling is the expected correlation itself, 1 / sqrt(1 + noise variance)."""
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(40, 3000))
    for sd in (0.5, 1.0, 2.0):
        repeats = truth + sd * rng.normal(size=(3, *truth.shape))
        ceiling = R.repeat_ceiling(repeats, "correlation").mean()
        reached = np.mean([1 - R.correlation_distance(truth, one) for one in repeats])
        assert ceiling == pytest.approx(1 / np.sqrt(1 + sd**2), abs=0.01)
        assert reached == pytest.approx(ceiling, abs=0.01)
    a, b = repeats[:2]
    plain = (R.two_way(a, b) + R.two_way(b, a)) / 2
    np.testing.assert_allclose(R.repeat_ceiling(repeats[:2]), plain)
    noise = R.repeat_ceiling(rng.normal(size=(2, 200, 60)))
    _, low, high = bootstrap_mean(noise)
    assert low - 0.02 < 0.5 < high + 0.02


# --- bad input

ROWS, PLATE = np.random.default_rng(0).normal(size=(5, 7)), pictures(0)
HOLE = np.where(np.arange(7) == 3, np.nan, ROWS)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: R.two_way(ROWS, ROWS[:-1]), r"y_true \(5, 7\) and y_pred \(4, 7\)"),
        (lambda: R.two_way(ROWS, ROWS[:, :-1]), "of the same images and network"),
        (lambda: R.two_way(PLATE, PLATE), r"\(image, feature\), got shape \(4, 24, 24, 3\); flatten"),
        (lambda: R.two_way(ROWS[:1], ROWS[:1]), "needs 2 images or more"),
        (lambda: R.two_way(ROWS, ROWS, "brain->image"), "'brain->image' is not one of reconstruction->image"),
        (lambda: R.two_way(ROWS, ROWS, metric="l2"), "'l2' is not one of pearson, cosine"),
        (lambda: R.two_way(ROWS, HOLE), "y_pred: image 0 holds NaN"),
        (lambda: R.two_way(np.where(np.arange(5)[:, None] == 2, 1.0, ROWS), ROWS), "y_true: image 2 is constant"),
        (lambda: R.two_way(ROWS, np.where(np.arange(5)[:, None] == 2, 0.0, ROWS), metric="cosine"), "image 2 is all zeros"),
        (lambda: R.two_way(ROWS, ROWS, groups=list("aabbc")), "image 4 is alone in group c"),
        (lambda: R.two_way(ROWS, ROWS, groups=list("aabb")), r"5 images but groups of shape \(4,\)"),
        (lambda: R.correlation_distance(ROWS, ROWS[:, None]), "average or choose candidates"),
        (lambda: R.correlation_distance(ROWS, np.ones_like(ROWS)), "y_pred: image 0 is constant"),
        (lambda: R.pixel_correlation(PLATE, PLATE[:, :-1]), "pictures of one size"),
        (lambda: R.pixel_correlation(PLATE, 2 * PLATE), r"y_pred hold .* floats lie in \[0, 1\]"),
        (lambda: R.pixel_correlation(PLATE, np.full_like(PLATE, 0.5)), "y_pred: image 0 is constant"),
        (lambda: R.pixel_correlation(PLATE, PLATE.astype(int)), "uint8 or floats"),
        (lambda: R.pixel_correlation(PLATE, np.where(PLATE > 0.999, np.nan, PLATE)), "NaN or infinity"),
        (lambda: R.pixel_correlation(PLATE[0, 0], PLATE), r"shape \(24, 3\)"),
        (lambda: R.pixel_correlation(PLATE[..., :2], PLATE), r"\(image, row, column, 3\)"),
        (lambda: R.ssim(PLATE, PLATE, "old"), "'old' is not one of plane, columns"),
        (lambda: R.ssim(PLATE[:, :9, :9], PLATE[:, :9, :9]), "smaller than its window of 11"),
        (lambda: R.nearest_training(ROWS, ROWS[:, :-1]), r"query \(5, 7\), training \(5, 6\)"),
        (lambda: R.nearest_training(ROWS, ROWS, "l1"), "'l1' is not one of"),
        (lambda: R.repeat_ceiling(ROWS), "2 repetitions or more"),
        (lambda: R.repeat_ceiling(ROWS[None]), "2 repetitions or more"),
        (lambda: R.repeat_ceiling(np.stack([ROWS, ROWS]), "r2"), "'r2' is not one of two_way, correlation"),
        (lambda: R.repeat_ceiling(np.stack([ROWS, ROWS]), "correlation", metric="cosine"), "the correlation is Pearson's"),
    ],
)
def test_bad_input_is_one_line(call, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
