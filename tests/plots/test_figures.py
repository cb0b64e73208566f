"""Every figure: drawn without a warning, from the arrays that verbs make; labels, order and colours are what they say."""

from __future__ import annotations

import io
import sys
import time
from dataclasses import replace
from types import ModuleType

import mne
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from PIL import Image

from brainlens.plots import (
    attribution,
    cortex,
    curves,
    embeddings,
    layers,
    retrieval,
    selected,
    sensor_scores,
    sensors,
    slabs,
    slices,
    style,
)
from brainlens.types import DataError, Result, Sensors, Volume

DPI = 40


def drawn(figure: Figure) -> np.ndarray:
    """The figure as pixels; it must hold something and stand apart from pyplot."""
    png = style.png(figure, dpi=DPI)
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    assert pixels.std() > 3
    border = np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])
    assert (border > 250).all(), "something touches the margin, so it may be cut off"
    return pixels


def title(figure: Figure) -> str:
    return figure.get_suptitle().replace("\n", " ")


def test_cortex_map_is_fast_and_says_n_and_simulation(made: ModuleType) -> None:
    result = made.attribute()
    start = time.process_time()
    figure = cortex.cortex_map(result, "map/brain_mean", unit="attribution")
    drawn(figure)
    assert time.process_time() - start < 10
    assert f"{len(result.space):,} voxels" in title(figure)
    assert style.SIMULATION in title(figure)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()


def test_a_region_is_painted_where_it_is(made: ModuleType) -> None:
    """Values in the right hemisphere only: its panels change, the left ones keep the grey of the anatomy."""
    result = made.attribute()
    values = (result.units["x"] > 0).to_numpy().astype(float)
    panels = ((("lateral", "left"), ("lateral", "right")),)
    figure = cortex.cortex_map(result, values, panels=panels, limits=(0, 1))
    left, right = (np.asarray(ax.images[0].get_array(), dtype=float)[..., :3] for ax in figure.axes[:2])
    assert np.ptp(left, axis=-1).max() < 0.05, "the left hemisphere has colour"
    assert np.ptp(right, axis=-1).mean() > 0.1


def test_threshold_hides_and_nan_keeps_the_anatomy(made: ModuleType) -> None:
    result = made.attribute()
    values = np.where(result.units["roi"] == "V1", 1.0, np.nan)
    panels = ((("medial", "left"),),)
    some = cortex.cortex_map(result, values, panels=panels, limits=(0, 1)).axes[0].images[0].get_array()
    none = cortex.cortex_map(result, values, panels=panels, limits=(0, 1), threshold=2.0).axes[0].images[0].get_array()
    coloured = np.ptp(np.asarray(some)[..., :3], axis=-1) > 0.1
    assert 0.01 < coloured.mean() < 0.3
    assert np.ptp(np.asarray(none)[..., :3], axis=-1).max() < 1e-6


def test_slices_show_left_on_the_left(made: ModuleType) -> None:
    result = made.attribute()
    values = (result.units["x"] > 4).to_numpy().astype(float)
    figure = slices.slices(result, values, cuts={"z": (0.0,)}, limits=(0, 1))
    image = np.asarray(figure.axes[0].images[0].get_array())
    coloured = np.ptp(image, axis=-1) > 0.1
    half = image.shape[1] // 2
    assert coloured[:, half:].sum() > 20 * max(1, coloured[:, : half - 6].sum())
    drawn(figure)


def test_layer_map_has_hue_by_layer_and_brightness_by_confidence(made: ModuleType) -> None:
    result = made.encode()
    n = len(result.space)
    colours = []
    for layer, confidence in ((0.0, 1.0), (5.0, 1.0), (5.0, 0.1)):
        figure = cortex.layer_map(
            result,
            layer=np.full(n, layer),
            confidence=np.full(n, confidence),
            names=list("abcdef"),
            panels=((("medial", "left"),),),
        )
        image = np.asarray(figure.axes[0].images[0].get_array())
        # The map covers nearly all of the medial wall that the volume reaches; its own colour is the most frequent one.
        flat, count = np.unique(np.round(image[image[..., 3] > 0.99][:, :3], 2), axis=0, return_counts=True)
        colours.append(flat[count.argmax()])
    first, last, dark = colours
    assert first[2] > first[0] + 0.2, "the first layer is blue"
    assert last[0] > last[2] + 0.4, "the last layer is yellow"
    assert dark.sum() < 0.4 * last.sum()
    drawn(cortex.layer_map(result))
    drawn(slices.layer_slices(result))


def test_layer_hues_keep_their_order_in_red_green_blindness() -> None:
    """Brettel-like check: after removing the red-green difference, blue minus yellow still falls along the scale."""
    rgb = style.hue_map()(np.linspace(0, 1, 12))[:, :3]
    blue_yellow = rgb[:, 2] - rgb[:, :2].mean(axis=1)
    assert (np.diff(blue_yellow) < 0.02).all()
    assert blue_yellow[0] - blue_yellow[-1] > 0.8


def test_a_recording_without_a_template_is_drawn_in_its_own_grid(made: ModuleType) -> None:
    mask = np.zeros((12, 8, 1), dtype=bool)
    mask[2:9, 1:6] = True
    result = Result("encode", {}, {"r2": np.linspace(-0.2, 0.6, mask.sum())}, space=Volume(mask, np.eye(4)))
    figure = slabs.mosaic(result, "r2", unit="R²")
    assert "own grid" in title(figure)
    assert style.SIMULATION not in title(figure)
    drawn(figure)


def test_gallery_frames_the_right_picture_and_states_chance(made: ModuleType) -> None:
    result = made.align()
    rows = retrieval.cases(result)
    ranks = result.arrays["ranks/brain->image"]
    assert ranks[rows[0]] == ranks.min()
    assert ranks[rows[-1]] == ranks.max()
    figure = retrieval.gallery(result, rows=rows)
    framed = sum(len(ax.patches) for ax in figure.axes)
    near = result.arrays["neighbours/brain->image"]
    assert framed == sum(int(row in near[row, :5]) for row in rows) > 0
    assert "chance 1.6 %" in title(figure)
    drawn(figure)


def test_topk_bars_show_every_encoder_chance_and_the_ideal_line(made: ModuleType) -> None:
    scores = {"ridge": made.retrieval_scores(0.2), "volume": made.retrieval_scores(0.4), "ideal": made.retrieval_scores(0.6)}
    figure = retrieval.topk_bars(scores, k=1)
    drawn(figure)
    heights = sorted(round(p.get_height(), 4) for p in figure.axes[0].patches)
    expected = sorted(round(scores[e][f"retrieval/{d}/top1"], 4) for e in ("ridge", "volume") for d in retrieval.DIRECTIONS)
    assert heights == expected, "the ideal observer is a line and no bar"
    texts = {t.get_text() for t in figure.legends[0].get_texts()}
    assert texts == {"ridge", "volume", "chance", "ideal observer"}


def test_caption_quality_has_a_point_and_an_interval_for_each_pair_and_way() -> None:
    rows = []
    for source, gallery, value in (("own", "image", 0.5), ("own", "blip", 0.25)):
        row: dict[str, object] = {"source": source, "gallery": gallery, "n": 40}
        for way in ("source->gallery", "gallery->source"):
            row |= {
                f"{way}/top1": value,
                f"{way}/top1.low": value - 0.1,
                f"{way}/top1.high": value + 0.1,
                f"{way}/chance1": 0.025,
            }
        rows.append(row)
    figure = retrieval.caption_quality(pd.DataFrame(rows), k=1)
    ax = figure.axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["own → image", "image → own", "own → blip", "blip → own"]
    points = [float(np.ravel(line.get_xdata())[0]) for line in ax.lines if line.get_marker() == "o"]
    assert points == [0.5, 0.5, 0.25, 0.25]
    assert "n = 40" in title(figure)
    drawn(figure)
    with pytest.raises(DataError, match="0 rows"):
        retrieval.caption_quality(pd.DataFrame())


def test_rank_curve_starts_at_top1(made: ModuleType) -> None:
    result = made.align()
    figure = retrieval.rank_curve(result, directions=("brain->image",))
    x, y = figure.axes[0].lines[0].get_data()
    top1 = np.mean(result.arrays["ranks/brain->image"] == 0)
    assert y[np.asarray(x) == 1].max() == pytest.approx(top1)
    assert y[-1] == 1
    drawn(figure)


@pytest.mark.parametrize("method", ["pca", "tsne"])
def test_embedding_maps_keep_rows_and_groups(made: ModuleType, method: str) -> None:
    result = made.align()
    groups = result.tables["gallery"]["domain"].to_numpy()
    figure = embeddings.embedding_map(result, method=method, groups=groups)
    drawn(figure)
    assert sum(len(c.get_offsets()) for c in figure.axes[0].collections) == 64
    again = embeddings.embedding_map(result, method=method, groups=groups)
    np.testing.assert_array_equal(figure.axes[0].collections[0].get_offsets(), again.axes[0].collections[0].get_offsets())


def test_pca_agrees_with_sklearn() -> None:
    from sklearn.decomposition import PCA

    rows = np.random.default_rng(0).normal(size=(40, 7)) * np.arange(1, 8)
    ours, _ = embeddings.reduce(rows)
    theirs = PCA(2, svd_solver="full").fit_transform(rows)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-8)


def test_umap_without_its_extra_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "umap", None)
    with pytest.raises(DataError, match=r"brainlens\[umap\]") as said:
        sensor_scores.categories(three_groups(), method="umap")
    assert "\n" not in str(said.value)


def test_umap_keeps_groups_together_and_is_the_same_each_time() -> None:
    pytest.importorskip("umap", reason="needs the extra brainlens[umap]")
    result = three_groups()
    figure = sensor_scores.categories(result, method="umap")
    assert [ax.get_xlabel() for ax in figure.axes] == ["UMAP 1"] * 2
    drawn(figure)
    flat, _ = embeddings.reduce(result.arrays["embedding/brain"], method="umap")
    distance = np.linalg.norm(flat[:, None] - flat[None], axis=2) + 1e9 * np.eye(len(flat))
    groups = result.arrays["groups"]
    assert (groups[distance.argmin(axis=1)] == groups).all()
    np.testing.assert_array_equal(embeddings.reduce(result.arrays["embedding/brain"], method="umap")[0], flat)


def three_groups() -> Result:
    """Embeddings of 12 images in three groups, which the recordings do not tell apart."""
    rng = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], 4)
    points = np.repeat(3 * np.eye(3, 8), 4, axis=0) + 0.1 * rng.normal(size=(12, 8))
    arrays = {"embedding_before": rng.normal(size=(12, 8)), "embedding/brain": points, "groups": groups}
    return Result("align", {}, arrays)


def test_similarity_matrices_are_sorted_by_group(made: ModuleType) -> None:
    result = made.align()
    groups = result.tables["gallery"]["domain"].to_numpy()
    figure = embeddings.similarity_matrices(result, groups=groups)
    matrix = np.asarray(figure.axes[0].images[0].get_array())
    same = np.kron(np.eye(4), np.ones((16, 16))).astype(bool)
    assert matrix[same].mean() > matrix[~same].mean() + 0.3
    drawn(figure)


def test_region_profiles_and_hierarchy(made: ModuleType) -> None:
    result = made.encode()
    figure = layers.region_profiles(result)
    drawn(figure)
    order = [t.get_text().split()[0] for t in figure.axes[0].get_yticklabels()]
    assert order == ["V1", "V4", "FFA", "PPA"], "regions are sorted by their expected layer"
    weights, roi = result.arrays["layer_weights"], result.units["roi"]
    np.testing.assert_allclose(figure.axes[0].images[0].get_array()[0], weights[(roi == "V1").to_numpy()].mean(axis=0))
    hierarchy = layers.hierarchy(result)
    assert "slope +1.20 [+0.90, +1.50] of the network's depth from V1 to EBA" in title(hierarchy)
    drawn(hierarchy)
    drawn(layers.ceiling_scatter(result))


def test_model_bars_are_sorted_and_carry_intervals(made: ModuleType) -> None:
    figure = layers.model_bars(made.encode().tables["comparison"], "r2_mean", chance=0.0, ceiling=0.5)
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == ["ridge", "factortopy"]
    drawn(figure)


def test_training_marks_the_best_validation_step(made: ModuleType) -> None:
    result = made.align()
    figure = curves.training(result)
    log = result.tables["log"]
    linear = log[log["encoder"] == "linear"]
    best = int(linear.loc[linear["validation_loss"].idxmin(), "step"])
    assert any(f"at step {best}" in t.get_text() for t in figure.axes[1].get_legend().get_texts())
    drawn(figure)


def test_rows_of_layer_maps_share_their_colours(made: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A comparison of networks keeps no layer weights, so that no row tells how many layers there are."""
    one = made.encode()
    low = np.minimum(one.arrays["layer"], 2.0)
    arrays = {"models/layer": np.stack([low, one.arrays["layer"]]), "models/confidence": np.ones((2, len(low)))}
    result = replace(one, arrays=arrays)
    painted, paint = [], cortex.paint_colours
    monkeypatch.setattr(cortex, "paint_colours", lambda *a, **k: (painted.append(a[3]), paint(*a, **k)))
    figure = selected.layer_rows(result, layer="models/layer", confidence="models/confidence", names=["x", "y"], title="Rows")
    same = low == one.arrays["layer"]
    assert 0 < same.sum() < len(same)
    np.testing.assert_allclose(painted[0][same], painted[1][same])
    assert title(figure).startswith("Rows  ·  ")
    drawn(figure)


def test_lines_over_images_areas_settings_and_layers(made: ModuleType) -> None:
    table = pd.DataFrame({"encoder": ["a", "a", "b"], "images": [300, 900, 300], "top1": [0.1, 0.2, 0.05]})
    figure = curves.learning_curve(table, "top1", chance=0.01, axis="Top-1")
    assert (figure.axes[0].get_ylabel(), title(figure)) == ("Top-1", "Top-1 by training images, 95 % intervals")
    drawn(figure)
    figure = curves.degradation({"bottleneck": np.array([1.0, 0.5, 0.0]), "random": np.ones((3, 3))}, kind="insertion")
    texts = [t.get_text() for t in figure.axes[0].get_legend().get_texts()]
    assert texts == ["bottleneck  (area 0.500)", "random  (area 1.000)"]
    drawn(figure)
    drawn(curves.sensitivity(made.attribute().tables["sensitivity"], "truth_auroc"))
    profile = curves.rsa_profile(made.encode(), controls={"pixels": 0.083})
    assert any("noise ceiling 0.37 to 0.66" in t.get_text() for t in profile.axes[0].get_legend().get_texts())
    drawn(profile)


def test_pixels_words_and_the_truth_beside_the_map(made: ModuleType) -> None:
    result = made.attribute()
    masks = np.zeros((4, 48, 48), dtype=bool)
    masks[:, 10:20, 10:20] = True
    drawn(
        attribution.pixel_maps(
            result.arrays["pixels/images"], result.arrays["map/pixels"], captions=[made.NASTY] * 4, masks=masks
        )
    )
    drawn(attribution.word_strip([["a", made.NASTY, "$x$"]], [[0.1, 1.0, -0.5]], signed=True))
    pictures, maps = np.full((2, 16, 16, 3), 90, dtype=np.uint8), np.eye(4)[None].repeat(2, 0)
    texts, weights = [["a", made.NASTY], ["one"] * 40], [[0.1, 1.0], [0.5] * 40]
    drawn(attribution.stimulus_rows(pictures, maps, texts, weights, masks=np.ones((2, 16, 16), dtype=bool)))
    figure = attribution.brain_beside_truth(result, scores={"found": 0.93})
    texts = [t.get_text() for ax in figure.axes for t in ax.texts]
    assert [t for t in texts if t not in "LR"] == ["found\nAUROC 0.930", "truth", "random control"]
    drawn(figure)


def test_scalp_maps_and_time(made: ModuleType) -> None:
    result = made.eeg()
    drawn(sensors.topomaps(result.space, result.arrays["topomap/by_time"], titles=["early", "middle", "late"]))
    drawn(sensors.time_windows(result.tables["time_windows"], chance=0.005))
    drawn(sensors.loss_weights(result.tables["log"]))
    drawn(sensors.generalisation(np.full((5, 5), 0.02) + 0.1 * np.eye(5), np.linspace(-0.1, 0.4, 5), chance=0.005))
    rng = np.random.default_rng(0)
    drawn(sensors.stages(rng.integers(0, 255, (16, 16, 3), dtype=np.uint8), {"luminance": rng.uniform(size=(16, 16))}))


def test_the_colours_of_a_scalp_map_reach_every_channel() -> None:
    """In the standard places Fp1, Fp2, F7 and F8 lie outside the circle of the head."""
    names = [
        "Fp1",
        "Fp2",
        "F7",
        "F3",
        "Fz",
        "F4",
        "F8",
        "T7",
        "C3",
        "Cz",
        "C4",
        "T8",
        "P7",
        "P3",
        "Pz",
        "P4",
        "P8",
        "O1",
        "Oz",
        "O2",
    ]
    places = mne.channels.make_standard_montage("standard_1005").get_positions()["ch_pos"]
    space = Sensors(np.array(names), np.array([places[name] for name in names]))
    ax = sensors.topomaps(space, np.arange(20.0)).axes[0]
    ax.figure.canvas.draw()
    dots = next(
        part.get_offsets() for part in ax.collections if isinstance(part, PathCollection) and len(part.get_offsets()) == 20
    )
    ends = ax.images[0].get_clip_path().get_fully_transformed_path()
    assert ends.contains_points(ax.transData.transform(dots)).all()


@pytest.mark.parametrize("origin", [(0.0, 0.0, 0.0), (0.0, 0.015, 0.043)], ids=["in the middle", "between the ears"])
def test_scalp_maps_do_not_depend_on_the_origin_of_the_positions(made: ModuleType, origin: tuple[float, float, float]) -> None:
    space = made.eeg().space
    _, sphere = sensors._info(Sensors(space.names, space.positions + np.array(origin)))
    np.testing.assert_allclose(sphere, (*origin, 0.095), atol=1e-6)
    _, few = sensors._info(Sensors(space.names[:3], space.positions[:3]))
    np.testing.assert_allclose(few, (0, 0, 0, 0.095), atol=1e-6)


def test_text_that_no_font_can_draw_becomes_a_box() -> None:
    assert style.printable("a🧠b\nc") == "a\u25a1b c"
    assert style.printable("R² → ünï") == "R² → ünï"


@pytest.mark.parametrize(
    "config, expected",
    [
        ({"dataset": "phantom"}, True),
        ({"dataset": {"name": "phantom:eeg"}}, True),
        ({"dataset": "haxby2001"}, False),
        ({}, False),
    ],
)
def test_simulation_is_recognised(config: dict[str, object], expected: bool) -> None:
    assert style.is_simulation(Result("align", {}, config=config)) is expected


RING = np.array([[0.08, 0, 0.04], [0, 0.08, 0.04], [-0.08, 0, 0.04], [0, -0.08, 0.04]])  # m
LINE = np.array([[0, y, 0.04] for y in (-0.07, -0.02, 0.02, 0.07)])


def bad_calls(made: ModuleType) -> dict[str, tuple[object, str]]:
    r, e = made.attribute(), made.eeg()
    return {
        "array": (lambda: cortex.cortex_map(r, "map/none"), "map/random_mean"),
        "shape": (lambda: cortex.cortex_map(r, np.ones(3)), "does not fit"),
        "nan": (lambda: slices.slices(r, np.full(len(r.space), np.nan)), "no finite value"),
        "space": (lambda: slices.slices(e, np.ones(40)), "Sensors"),
        "cuts": (lambda: slices.slices(r, "map/brain_mean", cuts={"w": (0,)}), "'w'"),
        "gallery": (lambda: retrieval.gallery(e), "gallery/images"),
        "rows": (lambda: retrieval.gallery(made.align(), rows=np.array([99])), "0..63"),
        "bars": (lambda: retrieval.topk_bars({}), "top1"),
        "method": (lambda: embeddings.reduce(np.eye(5), method="som"), "pca, tsne, umap"),
        "zero": (lambda: embeddings._unit(np.zeros((2, 2))), "no direction"),
        "regions": (lambda: layers.region_profiles(r, weights=np.ones((3, 2))), "each of 3 units"),
        "hierarchy": (lambda: layers.hierarchy(made.encode(), order=["V1"]), "two regions"),
        "metric": (lambda: layers.model_bars(pd.DataFrame({"encoder": ["a"]}), "r2"), "no column 'r2'"),
        "log": (lambda: curves.training(r), "no table 'log'"),
        "kind": (lambda: curves.degradation({}, kind="removal"), "'removal'"),
        "words": (lambda: attribution.word_strip([["a"]], [[1.0, 2.0]]), "one weight a word"),
        "stimuli": (lambda: attribution.stimulus_rows(np.ones((1, 4, 4, 3)), np.ones((1, 2, 2)), [["a"]], []), "one of each"),
        "pixels": (lambda: attribution.pixel_maps(np.ones((2, 4, 4, 3)), np.ones((3, 2, 2))), "must be"),
        "channels": (lambda: sensors.topomaps(e.space, np.ones(7)), "40 channels"),
        "one channel": (lambda: sensors.topomaps(Sensors(e.space.names[:1], e.space.positions[:1]), np.ones(1)), "one channel"),
        "a ring": (lambda: sensors.topomaps(Sensors(e.space.names[:4], RING), np.ones(4)), "on one line or ring"),
        "a line": (lambda: sensors.topomaps(Sensors(e.space.names[:4], LINE), np.ones(4)), "on one line or ring"),
        "windows": (lambda: sensors.time_windows(pd.DataFrame({"kind": ["a"]})), "'start'"),
    }  # fmt: skip


def test_bad_input_is_one_line_that_names_it(made: ModuleType) -> None:
    for name, (call, message) in bad_calls(made).items():
        with pytest.raises(DataError) as error:
            call()  # type: ignore[operator]
        assert message in str(error.value), name
        assert "\n" not in str(error.value), name


def test_dollars_are_text_and_powers_of_a_logarithmic_axis_are_drawn() -> None:
    figure, axes = style.canvas(3, 3)
    ax = axes[0, 0]
    ax.plot([1, 1000], [0, 1], label="$\\frac{V$ 1")
    ax.set_xscale("log")
    ax.set_yticks([0, 1], ["$x_1$", "a"])
    figure.legend()
    png = style.png(style.head(figure, "cost $\\bad{ up $"), dpi=40)  # mathematics that is none would be an error
    assert png.startswith(b"\x89PNG")
    assert not ax.get_yticklabels()[0].get_parse_math()
    assert all(label.get_parse_math() for label in ax.get_xticklabels())
