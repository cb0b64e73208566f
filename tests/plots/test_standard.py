"""Which grids are drawn on a template, and how the others stand."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from brainlens.plots import cortex, embeddings, slabs, standard
from brainlens.plots.curves import rsa_profile
from brainlens.plots.embeddings import embedding_map
from brainlens.plots.selected import label_colours, label_map, weight_rows
from brainlens.types import DataError, Result, Volume


def volume(shape: tuple[int, int, int], size: float, origin: tuple[float, float, float], *, flip: bool = False) -> Volume:
    affine = np.diag([-size if flip else size, size, size, 1.0])
    affine[:3, 3] = origin
    mask = np.zeros(shape, dtype=bool)
    mask[shape[0] // 2] = True
    return Volume(mask, affine)


MNI = {
    "FSL 2 mm": volume((91, 109, 91), 2, (90, -126, -72), flip=True),
    "FSL 1 mm": volume((182, 218, 182), 1, (90, -126, -72), flip=True),
    "FSL 3 mm": volume((61, 73, 61), 3, (90, -126, -72), flip=True),
    "HCP 1.6 mm": volume((113, 136, 113), 1.6, (90, -126, -72), flip=True),
    "SPM 3 mm": volume((53, 63, 53), 3, (-78, -112, -70)),
    "SPM12 1.5 mm": volume((121, 145, 121), 1.5, (90, -126, -72), flip=True),
    "fMRIPrep 2009c 2 mm": volume((97, 115, 97), 2, (-96.5, -132.5, -78.5)),
    "fMRIPrep 2009c 1 mm": volume((193, 229, 193), 1, (-96, -132, -78)),
    "nilearn 2 mm": volume((99, 117, 95), 2, (-98, -134, -72)),
}
SCANNER = {
    "Haxby": volume((40, 20, 1), 3.1, (60.4, -35.6, 0), flip=True),
    "64 x 64 x 35 at 3 mm": volume((64, 64, 35), 3, (-94, -110, -40)),
    "the identity": volume((40, 40, 40), 1, (0, 0, 0)),
    "FSL's box, shifted": volume((91, 109, 91), 2, (80, -126, -72), flip=True),
}


@pytest.mark.parametrize("name", MNI)
def test_grids_of_mni_templates_are_known_at_any_voxel_size(name: str) -> None:
    assert standard.is_mni_grid(MNI[name])
    assert standard.in_standard_space(Result("encode", {}, space=MNI[name]))


@pytest.mark.parametrize("name", SCANNER)
def test_grids_of_a_scanner_are_on_no_template_unless_the_config_says_so(name: str) -> None:
    assert not standard.is_mni_grid(SCANNER[name])
    assert not standard.in_standard_space(Result("encode", {}, space=SCANNER[name]))
    assert standard.in_standard_space(Result("encode", {}, config={"template": "MNI152"}, space=SCANNER[name]))


def test_a_turned_grid_is_not_mni() -> None:
    turned = MNI["FSL 2 mm"].affine.copy()
    angle = np.deg2rad(8)
    turned[:2, :2] = turned[:2, :2] @ [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    assert not standard.is_mni_grid(Volume(MNI["FSL 2 mm"].mask, turned))


@pytest.mark.parametrize("flip", [False, True])
def test_own_slices_stand_with_the_subjects_left_on_the_left(flip: bool) -> None:
    affine = np.diag([-3.0 if flip else 3.0, 3.0, 4.0, 1.0])
    space = Volume(np.ones((6, 5, 1), dtype=bool), affine)
    mm = space.coordinates()
    left_back = (mm[:, 0] == mm[:, 0].min()) & (mm[:, 1] == mm[:, 1].min())
    figure = slabs.mosaic(Result("encode", {}, space=space), left_back.astype(float) + 0.1 * (mm[:, 0] > 0))
    ax = figure.axes[0]
    shown = np.asarray(ax.images[0].get_array())
    assert shown[0, 0] == shown.max(), "the first row is at the bottom, the first column on the left"
    assert ax.images[0].origin == "lower"
    assert {t.get_text() for t in ax.texts} == {"L", "R", "P"}
    assert "axial" in ax.get_title()


def test_a_grid_that_says_nothing_names_no_side() -> None:
    space = Volume(np.ones((6, 5, 1), dtype=bool), np.eye(4))
    ax = slabs.mosaic(Result("encode", {}, space=space), np.arange(30.0)).axes[0]
    assert not ax.texts
    assert ax.get_title() == "slice 0 of axis k"


def embedded(text: np.ndarray) -> Result:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(40, 8))
    return Result(
        "align", {}, {"embedding/brain": image + rng.normal(size=(40, 8)), "embedding/image": image, "embedding/text": text}
    )


def test_a_modality_of_small_variance_fills_its_panel_and_a_constant_one_says_so() -> None:
    rng = np.random.default_rng(1)
    flat = np.ones((40, 8)) + 0.02 * rng.normal(size=(40, 8))  # captions that are nearly alike
    axes = embeddings.embedding_map(embedded(flat)).axes
    extent = [np.ptp(ax.collections[0].get_offsets(), axis=0).max() for ax in axes]
    assert min(extent) > 0.3 * max(extent), "the text panel is a point"
    axes = embeddings.embedding_map(embedded(np.ones((40, 8)))).axes
    assert [[t.get_text() for t in ax.texts] for ax in axes] == [[], [], ["all alike"]]


def test_like_rows_stand_together_and_groups_stay_whole() -> None:
    rng = np.random.default_rng(0)
    kind = rng.permutation(np.repeat([0, 1, 2], 10))
    rows = np.eye(8)[kind] + 0.1 * rng.normal(size=(30, 8))
    order = embeddings.by_likeness(rows)
    assert np.count_nonzero(np.diff(kind[order])) == 2
    group = np.repeat(["a", "b"], 15)
    order = embeddings.by_likeness(rows, group)
    assert np.count_nonzero(group[order][1:] != group[order][:-1]) == 1
    assert sorted(order) == list(range(30))


def test_twenty_labels_are_told_apart_on_grey_cortex() -> None:
    colours = label_colours(20)
    assert np.ptp(colours, axis=1).min() > 0.2, "a label is grey"
    distance = np.linalg.norm(colours[:, None] - colours[None], axis=-1) + 9 * np.eye(20)
    assert distance.min() > 0.1


def test_the_profile_of_a_similarity_analysis_is_drawn() -> None:
    table = pd.DataFrame({"layer": ["a", "b"], "score": [0.1, 0.3], "low": [0.0, 0.2], "high": [0.2, 0.4]})
    figure = rsa_profile(Result("rsa", {}, tables={"profile": table}))
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.1, 0.3])
    with pytest.raises(DataError, match="rsa"):
        rsa_profile(Result("rsa", {}))


def test_maps_of_selections_show_the_units_that_are_predicted() -> None:
    space = Volume(np.ones((2, 2, 1), dtype=bool), np.eye(4))
    measured, r2 = np.array([True, True, True, False]), np.array([0.3, 0.1, -0.1, 0.4])

    def shown(**arrays: np.ndarray) -> tuple[list[bool], str]:
        units, said = cortex.predicted_units(Result("encode", {}, dict(arrays), space=space), measured)
        return units.tolist(), said

    assert shown() == ([True, True, True, False], "n = 3 voxels")
    assert shown(r2=r2) == ([True, True, False, False], "2 of 3 voxels: those with test R² > 0")
    found = shown(r2=r2, q=np.array([0.01, 0.2, 0.9, 0.01]))
    assert found == ([True, False, False, False], "1 of 3 voxels: those with test R² > 0 at q < 0.05")
    assert shown(r2=r2, q=np.full(4, np.nan))[0] == [True, True, False, False]
    assert shown(r2=np.full(4, -1.0))[1] == "n = 3 voxels, none with test R² > 0"


def test_a_modality_that_lies_across_the_common_components_is_shown_in_its_own() -> None:
    rng = np.random.default_rng(0)
    brain, image = rng.normal(size=(2, 60, 3))
    text = rng.normal(size=(60, 9))
    shared = np.pad(brain, ((0, 0), (0, 9))), np.pad(image, ((0, 0), (0, 9)))
    arrays = {"embedding/brain": shared[0], "embedding/image": shared[1], "embedding/text": np.pad(text, ((0, 0), (3, 0)))}
    titles, widths = [], []
    for ax in embedding_map(Result("align", {}, arrays)).axes[:3]:
        titles.append(ax.get_title(loc="left") or ax.get_title())
        widths.append(float(np.ptp(ax.collections[0].get_offsets()[:, 0])))
    assert titles == ["brain", "image", "text, its own"]
    assert min(widths) > 0.3 * max(widths)
    arrays["embedding/text"] = shared[1]
    assert all(
        "own" not in (ax.get_title(loc="left") or ax.get_title()) for ax in embedding_map(Result("align", {}, arrays)).axes[:3]
    )


def test_selections_of_units_that_are_not_predicted_are_left_out() -> None:
    """Weights of layers and clusters: noise would be specks over the cortex."""
    space = Volume(np.ones((4, 4, 4), dtype=bool), np.array([[8.0, 0, 0, -50], [0, 8, 0, -90], [0, 0, 8, -10], [0, 0, 0, 1]]))
    r2 = np.where(np.arange(64) < 20, 0.3, -0.1)
    arrays = {"r2": r2, "layer_weights": np.full((64, 2), 0.5), "cluster": np.zeros(64)}
    result = Result("encode", {}, arrays, None, {}, {"template": "MNI152"}, space=space)
    for figure in (weight_rows(result, names=["a", "b"]), label_map(result, "cluster", names=["0"], predicted=True)):
        assert "20 of 64 voxels: those with test R² > 0" in figure.get_suptitle().replace("\n", " ")
