"""The published protocols: what each resizes, reads and computes, followed step by step beside plain code."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.distance import correlation

from brainlens.metrics import picture_protocols as P
from brainlens.metrics import reconstruction as R
from brainlens.types import DataError

NETWORKS = ("alexnet2", "alexnet5", "inception", "clip", "efficientnet", "swav")


def smooth(seed: int, n: int, side: int = 40) -> np.ndarray:
    """Pictures of a few blurred patches, uint8."""
    rng = np.random.default_rng(seed)
    small = (255 * rng.uniform(0.1, 0.9, (n, 5, 5, 3))).astype(np.uint8)
    return np.stack([np.asarray(Image.fromarray(p).resize((side, side), Image.Resampling.BILINEAR)) for p in small])


def mean_colours(pictures: np.ndarray) -> np.ndarray:
    """A stand-in for a network: mean colour of 16 fields, and of the whole the square, so that range and size matter."""
    n, side = len(pictures), pictures.shape[1]
    cut = side - side % 4
    fields = pictures[:, :cut, :cut].reshape(n, 4, cut // 4, 4, cut // 4, 3).mean(axis=(2, 4))
    return np.concatenate([fields.reshape(n, -1), fields.reshape(n, -1) ** 2], axis=1)


def test_the_table_tells_the_protocols_apart() -> None:
    table = P.protocol_table().set_index(["protocol", "name"])
    assert len(table) == 24
    assert set(table["statistic"]) == set(P.STATISTICS)
    for name in P.PROTOCOLS:
        assert [m.features for m in P.PROTOCOLS[name].measures if m.features] == list(NETWORKS)
        assert table.loc[(name, "pixcorr"), "side"] == 425
    assert table.loc[("mindeye", "two_way_inception"), "side"] == 342
    assert table.loc[("brain-diffuser", "two_way_inception"), "side"] == 224
    assert table.loc[("mindeye", "ssim"), "statistic"] != table.loc[("brain-diffuser", "ssim"), "statistic"]
    assert table.loc[("mindeye", "two_way_clip"), "direction"] == "reconstruction->image"
    assert table.loc[("neuroadapter", "two_way_clip"), "direction"] == "image->reconstruction"
    assert table.loc[("brain-diffuser", "distance_efficientnet"), "weights"] == "IMAGENET1K_V1"
    assert table.loc[("mindeye", "distance_efficientnet"), "weights"] == "IMAGENET1K_V2"
    assert list(table["first"].groupby(level=0, sort=False).first()) == ["resize 256", "", "range"]
    assert len(P.protocol_table(["mindeye"])) == 8


@pytest.mark.parametrize("name", list(P.PROTOCOLS))
def test_scores_follow_the_protocol_step_by_step(name) -> None:
    true, pred = smooth(0, 5), smooth(1, 5, side=32)
    sizes: list[int] = []

    def network(pictures: np.ndarray) -> np.ndarray:
        sizes.append(pictures.shape[1])
        assert pictures.dtype == np.float32
        return mean_colours(pictures)

    found = P.score_pictures(true, pred, name, features=dict.fromkeys(NETWORKS, network))
    assert list(found.values) == [m.name for m in P.PROTOCOLS[name].measures]
    assert sizes[::2] == sizes[1::2] == [m.side for m in P.PROTOCOLS[name].measures if m.features]

    def ready(pictures: np.ndarray, side: int, how: Image.Resampling = Image.Resampling.BILINEAR) -> np.ndarray:
        x = pictures / 255.0
        steps = [256, side] if name == "mindeye" else [side]
        if name == "neuroadapter":
            x = np.stack([(p - p.min()) / np.ptp(p) for p in x])
        for step in steps:
            channels = [[Image.fromarray(p[..., c].astype(np.float32)).resize((step, step), how) for c in range(3)] for p in x]
            x = np.clip(np.stack([np.stack([np.asarray(c) for c in three], axis=-1) for three in channels]), 0, 1)
        return x

    how = Image.Resampling.BICUBIC if name == "brain-diffuser" else Image.Resampling.BILINEAR
    a, b = ready(true, 425, how), ready(pred, 425, how)
    plain = [np.corrcoef(p.ravel(), q.ravel())[0, 1] for p, q in zip(a, b, strict=True)]
    np.testing.assert_allclose(found.values["pixcorr"], plain, atol=1e-5)
    np.testing.assert_allclose(found.values["ssim"], R.ssim(a, b, "columns" if name == "brain-diffuser" else "plane"), atol=1e-5)
    side = P.PROTOCOLS[name].measure("two_way_inception").side
    a, b = mean_colours(ready(true, side)), mean_colours(ready(pred, side))
    direction = "image->reconstruction" if name == "neuroadapter" else "reconstruction->image"
    np.testing.assert_array_equal(found.values["two_way_inception"], R.two_way(a, b, direction))
    side = P.PROTOCOLS[name].measure("distance_efficientnet").side
    a, b = mean_colours(ready(true, side)), mean_colours(ready(pred, side))
    plain = np.array([[correlation(p, q) for q in b] for p in a])
    np.testing.assert_allclose(found.values["distance_efficientnet"], np.diag(plain), atol=1e-4)
    assert found.chance["distance_efficientnet"] == pytest.approx(plain[~np.eye(5, dtype=bool)].mean(), abs=1e-4)


def test_scores_come_with_interval_chance_ceiling_and_n() -> None:
    seen, training = smooth(0, 12), smooth(1, 30)
    rng = np.random.default_rng(2)
    made = np.clip(seen + rng.normal(0, 60, seen.shape), 0, 255).astype(np.uint8)
    nearest = R.nearest_training(mean_colours(seen / 255), mean_colours(training / 255))
    options = {"features": {"clip": mean_colours}, "measures": ["pixcorr", "two_way_clip"]}
    found = P.score_pictures(seen, made, "mindeye", **options)
    ceiling = P.score_pictures(seen, training[nearest], "mindeye", **options)
    table = found.table(ceiling=ceiling).set_index("metric")
    assert list(table.index) == ["pixcorr", "two_way_clip"]
    for name, row in table.iterrows():
        assert row["value"] == found.values[name].mean()
        assert row["low"] <= row["value"] <= row["high"]
        assert row["ceiling"] == pytest.approx(ceiling.values[name].mean())
        assert row["n"] == 12
    assert table.loc["two_way_clip", "chance"] == 0.5
    assert found.metrics("reconstruct/first")["reconstruct/first/two_way_clip"] == found.values["two_way_clip"].mean()


def test_chance_is_that_of_pictures_that_do_not_belong_together() -> None:
    """Pictures share a bright half, so that any is like any other: chance of the pixel scores is what a mismatch gives."""
    seen = smooth(7, 9, side=60)
    seen[:, 30:] = 255
    other = P._mismatched(9)
    assert sorted(other) == list(range(9))
    assert (other != np.arange(9)).all()
    options = {"features": {"swav": mean_colours}, "measures": ["pixcorr", "ssim", "distance_swav"]}
    found = P.score_pictures(seen, seen, **options)
    wrong = P.score_pictures(seen, seen[other], **options)
    for name in ("pixcorr", "ssim"):
        assert found.chance[name] == pytest.approx(wrong.values[name].mean(), abs=1e-6)
        assert found.chance[name] > 0.3
    turns = [P.score_pictures(seen, np.roll(seen, k, axis=0), **options).values["distance_swav"].mean() for k in range(1, 9)]
    assert found.chance["distance_swav"] == pytest.approx(np.mean(turns), abs=1e-5)


def test_identical_pictures_are_perfect_under_every_protocol() -> None:
    seen = smooth(3, 6)
    for name in P.PROTOCOLS:
        found = P.score_pictures(seen, seen, name, features=dict.fromkeys(NETWORKS, mean_colours))
        for measure, values in found.values.items():
            np.testing.assert_allclose(values, 0.0 if measure.startswith("distance") else 1.0, atol=1e-5)


def test_grey_and_coloured_pictures_can_be_compared() -> None:
    grey = smooth(4, 3)[..., 0]
    both = P.score_pictures(grey, np.repeat(grey[..., None], 3, axis=3), measures=["pixcorr", "ssim"])
    assert all(values == pytest.approx(1.0, abs=1e-5) for values in both.values.values())


def test_groups_confine_the_distractors() -> None:
    seen, made = smooth(5, 8), smooth(6, 8)
    groups = np.arange(8) % 2
    found = P.score_pictures(seen, made, features={"clip": mean_colours}, measures=["two_way_clip"], groups=groups)
    assert set(np.round(3 * found.values["two_way_clip"], 9)) <= {0, 1, 2, 3}


SEEN, MANY = smooth(0, 3), smooth(1, 40, side=16)
FLAT = np.where(np.arange(40)[:, None, None, None] == 35, np.uint8(7), MANY)  # beyond the first block of pictures


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: P.score_pictures(SEEN, SEEN, "mindeye2"), "'mindeye2' is not one of mindeye, brain-diffuser, neuroadapter"),
        (lambda: P.score_pictures(SEEN, SEEN[:2]), "3 seen, 2 reconstructed"),
        (lambda: P.score_pictures(SEEN[:1], SEEN[:1]), "the same 2 images or more"),
        (lambda: P.score_pictures(SEEN, SEEN, features={"vgg": mean_colours}), "reads no network 'vgg'; it reads alexnet2"),
        (lambda: P.score_pictures(SEEN, SEEN, measures=["two_way_vgg"]), "has no score 'two_way_vgg'; it has pixcorr"),
        (lambda: P.score_pictures(SEEN, SEEN, measures=["two_way_clip"]), "needs the network 'clip'.*CLIP ViT-L/14.*224 pixels"),
        (lambda: P.score_pictures(SEEN, SEEN, measures=[]), "a list of names"),
        (lambda: P.score_pictures(SEEN, SEEN, measures="ssim"), "a list of names, got 'ssim'"),
        (lambda: P.score_pictures(SEEN, SEEN, features={"clip": lambda x: x}), "it must give \\(picture, feature\\)"),
        (lambda: P.score_pictures(SEEN, SEEN, features={"clip": lambda x: mean_colours(x)[:1]}), "must give"),
        (lambda: P.score_pictures(SEEN.astype(int), SEEN), "uint8 or floats"),
        (
            lambda: P.score_pictures(SEEN, np.zeros_like(SEEN), measures=["ssim"], name="neuroadapter"),
            "picture 0 is of one value",
        ),
        (lambda: P.score_pictures(MANY, FLAT, measures=["pixcorr"]), "y_pred: image 35 is constant"),
        (lambda: P.score_pictures(MANY, FLAT, "neuroadapter", measures=["ssim"]), "picture 35 is of one value"),
        (lambda: P.resize(SEEN / 255, 8, "lanczos"), "'lanczos' is not one of bilinear, bicubic"),
        (
            lambda: P.score_pictures(SEEN, SEEN, measures=["ssim"]).metrics(
                ceiling=P.score_pictures(SEEN, SEEN, "neuroadapter", measures=["ssim"])
            ),
            "protocol 'neuroadapter'.*by 'mindeye' on the same 3 images",
        ),
    ],
)
def test_bad_input_is_one_line(call, message) -> None:
    with pytest.raises(DataError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_sets_of_pictures_are_scored_as_one_by_one_and_seen_ones_are_read_once():
    rng = np.random.default_rng(5)
    seen, a, b = (rng.integers(0, 256, (4, 30, 30, 3), dtype=np.uint8) for _ in range(3))
    read = []

    def network(pictures):
        read.append(len(pictures))
        return mean_colours(pictures)

    found = P.score_sets(seen, {"a": a, "b": b}, "neuroadapter", features={"swav": network, "clip": network})
    assert sum(read) == 2 * 3 * 4  # two networks, the seen pictures and two sets
    for name, pictures in (("a", a), ("b", b)):
        one = P.score_pictures(seen, pictures, "neuroadapter", features={"swav": mean_colours, "clip": mean_colours})
        assert found[name].chance == one.chance
        for score, values in one.values.items():
            np.testing.assert_array_equal(found[name].values[score], values)


def test_repetitions_are_compared_with_each_other_by_the_scores_of_a_protocol():
    rng = np.random.default_rng(6)
    base = rng.uniform(size=(5, 30, 30, 3))
    repeats = np.clip(base + rng.normal(scale=0.2, size=(3, *base.shape)), 0, 1)
    features = {"clip": mean_colours, "swav": mean_colours}
    found = P.repeat_scores(repeats, "mindeye", features=features)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    each = {pair: P.score_pictures(repeats[pair[0]], repeats[pair[1]], "mindeye", features=features) for pair in pairs}

    def mean(name):
        return np.mean([one.values[name] for one in each.values()], axis=0)

    np.testing.assert_allclose(found.values["two_way_clip"], mean("two_way_clip"))
    np.testing.assert_allclose(found.values["ssim"], mean("ssim"), rtol=1e-5)
    np.testing.assert_allclose(found.values["pixcorr"], np.sqrt(mean("pixcorr").clip(0)), rtol=1e-5)
    np.testing.assert_allclose(found.values["distance_swav"], 1 - np.sqrt((1 - mean("distance_swav")).clip(0)), atol=1e-5)
    assert found.chance["pixcorr"] < found.values["pixcorr"].mean()
    assert set(found.metrics("x")) >= {"x/pixcorr.low", "x/distance_swav.chance", "x/n"}
    with pytest.raises(DataError, match="1 repetitions of 5 images"):
        P.repeat_scores(repeats[:1])
    repeats[1, 2] = 0.5
    with pytest.raises(DataError, match="repetition 1: image 2 is constant"):
        P.repeat_scores(repeats)
