"""The phantom on fsaverage5 with the maps of a retinotopic template: its fields are the template's, and FactorTopy finds them."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from nilearn.datasets import fetch_surf_fsaverage
from scipy.stats import spearmanr
from typer.testing import CliRunner

from brainlens import store
from brainlens.cli import app
from brainlens.datasets import phantom
from brainlens.datasets.surface_labels import field_template
from brainlens.encode import EncodingDesign, encode, selector_truth
from brainlens.models.encoding.training import EncodingTraining
from brainlens.phantom.cortex import VERTICES, FieldTemplate, cortex, cortex_noise, mesh_smoother
from brainlens.phantom.fmri import make_trials, phantom_truth, simulate
from brainlens.phantom.mismatch import Mismatch
from brainlens.phantom.noise import FWHM
from brainlens.subjects import select_regions
from brainlens.types import DataError, Features, Stimuli

WIDE, BAND = 24.0, 16.0  # mm on the sphere: half of V1, and each half of V2 and V3 beside it


def log_polar(side: str) -> dict[str, np.ndarray]:
    """An algebraic template on one hemisphere's sphere: log-polar along the calcarine, mirrored at the borders of V1, V2 and V3.

    p, q: mm from the occipital pole forward and up. eccentricity = .75 (exp(p / 18) - 1), polar angle 90 at the middle of V1, 170
    (the lower field) at its upper border, back to 90 at the far border of V2, and to 170 again at that of V3; likewise below.
    """
    points = np.asarray(nib.load(fetch_surf_fsaverage("fsaverage5")[f"sphere_{side}"]).darrays[0].data, float)
    points = 100 * points / np.linalg.norm(points, axis=1, keepdims=True)
    p, q = 100 * (1 + points[:, 1] / 100), points[:, 2]
    at, up = np.abs(q), np.sign(q)
    area = np.select([at < WIDE, at < WIDE + BAND, at < WIDE + 2 * BAND], [1, 2, 3], 0)
    fold = np.select([area == 1, area == 2], [at / WIDE, 1 - (at - WIDE) / BAND], (at - WIDE - BAND) / BAND)
    medial = points[:, 0] > 0 if side == "left" else points[:, 0] < 0
    inside = (p < 60) & medial & (area > 0)
    eccentricity = np.where(inside, 0.75 * (np.exp(p / 18) - 1), 0)
    found = {"angle": np.where(inside, 90 + 80 * up * fold, 0), "eccen": eccentricity}
    return found | {"sigma": np.where(inside, 0.3 + 0.1 * eccentricity, 0), "varea": np.where(inside, area, 0)}


@pytest.fixture(scope="module")
def maps(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The algebraic template in the files of Benson's."""
    folder = tmp_path_factory.mktemp("template")
    for side, short in (("left", "lh"), ("right", "rh")):
        for name, values in log_polar(side).items():
            image = nib.MGHImage(values.astype(np.float32).reshape(-1, 1, 1), np.eye(4))
            nib.save(image, folder / f"{short}.benson14_{name}.v4_0.mgz")
    return folder


@pytest.fixture(scope="module")
def template(maps: Path) -> FieldTemplate:
    return field_template(maps, 4.2)


def test_fields_are_those_of_the_template_where_the_picture_reaches(template: FieldTemplate) -> None:
    space, units = cortex(template)
    assert (space.mesh, len(space)) == ("fsaverage5", 2 * VERTICES)
    made = {name: np.concatenate([log_polar("left")[name], log_polar("right")[name]]) for name in ("angle", "eccen", "varea")}
    angle, side = np.deg2rad(made["angle"]), np.repeat([1.0, -1.0], VERTICES)
    x, y = side * made["eccen"] * np.sin(angle) / 4.2, -made["eccen"] * np.cos(angle) / 4.2
    seen = (made["varea"] > 0) & (np.abs(x) <= 1) & (np.abs(y) <= 1) & (made["eccen"] > 0)
    assert seen.sum() > 150
    assert (made["varea"][~seen] > 0).any()  # some of the maps look beside the picture
    np.testing.assert_allclose(units.loc[seen, ["rf_x", "rf_y"]], np.stack([x, y], axis=1)[seen], atol=1e-5)
    np.testing.assert_allclose(units.loc[seen, "rf_size"], (0.3 + 0.1 * made["eccen"][seen]) / 4.2, atol=1e-5)
    assert units.loc[~seen, "rf_x"].isna().all()
    assert set(units["roi"][made["varea"] == 1]) == {"V1"}
    assert set(units["roi"][made["varea"] > 1]) == {"V2V3"}
    assert (units["roi"] == "V1").sum() == (made["varea"] == 1).sum()  # no sphere of the volume's V1 beside it
    assert {"FFA", "PPA", "EBA", "LANG"} <= set(units["roi"])


def test_maps_of_published_files_are_read_as_they_are(test_data: Path) -> None:
    place = test_data / "fsaverage_visual"
    _, units = cortex(field_template(place, 8.0))
    raw = [
        np.asarray(nib.load(place / f"lh.benson14_{name}.v4_0.mgz").dataobj).ravel()[:VERTICES]
        for name in ("varea", "eccen", "sigma")
    ]
    left = units[:VERTICES]
    for number, roi in ((1, "V1"), (2, "V2V3"), (4, "V4")):
        assert set(left["roi"][raw[0] == number]) == {roi}
    seen = left["rf_x"].notna().to_numpy()
    np.testing.assert_allclose(np.hypot(left["rf_x"], left["rf_y"])[seen], raw[1][seen] / 8, atol=1e-4)
    np.testing.assert_allclose(left["rf_size"][seen], raw[2][seen] / 8, atol=1e-4)
    assert (left["rf_x"][seen] > -0.02).all()  # the left hemisphere looks to the right
    assert 150 < seen.sum() < 600


def test_noise_is_smooth_along_the_surface_alone() -> None:
    smoother = mesh_smoother().astype(float)
    np.testing.assert_allclose(np.asarray(smoother.multiply(smoother).sum(axis=1)).ravel(), 1, atol=1e-5)
    assert smoother[:VERTICES, VERTICES:].nnz == 0
    image = [nib.load(fetch_surf_fsaverage("fsaverage5")[f"{kind}_left"]) for kind in ("white", "pial")]
    points = sum(np.asarray(one.darrays[0].data, float) for one in image) / 2
    faces = np.asarray(image[0].darrays[1].data)
    beside: dict[int, set[int]] = {}
    for triangle in faces:
        for vertex in triangle:
            beside.setdefault(int(vertex), set()).update(map(int, triangle))  # a vertex and its neighbours
    length = np.mean([np.linalg.norm(points[a] - points[b]) for a in beside for b in beside[a] if a < b])
    steps = round((FWHM / np.sqrt(8 * np.log(2))) ** 2 / (3 / 7 * length**2))
    for start in (0, 777, 9999):
        walk = {start: 1.0}
        for _ in range(steps):
            after: dict[int, float] = {}
            for vertex, share in walk.items():
                for other in beside[vertex]:
                    after[other] = after.get(other, 0.0) + share / len(beside[vertex])
            walk = after
        norm = np.sqrt(sum(v**2 for v in walk.values()))
        row = smoother[start].toarray().ravel()
        np.testing.assert_allclose([row[v] for v in walk], [v / norm for v in walk.values()], atol=1e-6)
        assert np.count_nonzero(row) == len(walk)


def test_the_observer_knows_the_covariance_of_the_noise(template: FieldTemplate) -> None:
    noise = cortex_noise(cortex(template)[0], subject=1, seed=0)
    chosen = np.arange(0, 400, 4)
    rows = noise.smoother[chosen].toarray().astype(float)
    known = noise.smooth_covariance(chosen, chosen)
    np.testing.assert_allclose(known, rows @ rows.T, atol=1e-6)
    values = np.zeros((2, 2 * VERTICES))
    values[:, chosen] = np.random.default_rng(0).normal(size=(2, 100))
    np.testing.assert_allclose(noise.smooth_transposed(values), values[:, chosen] @ rows, atol=1e-6)
    drawn = noise.draw([np.random.default_rng(i) for i in range(500)])[:, chosen].astype(float)
    whole = 0.35 * known + 0.15 * noise.loadings[chosen] @ noise.loadings[chosen].T + 0.5 * np.eye(len(chosen))
    np.testing.assert_allclose(np.diag(whole), 1, atol=1e-5)
    error = drawn.T @ drawn / 500 - whole
    assert np.sqrt((error**2).mean()) < 1.15 / np.sqrt(500)  # of a covariance of unit variances from 500 draws


def network(n: int, seed: int) -> tuple[Stimuli, Features]:
    """Images of a small made-up network: three layers of 8 x 8 tokens that vary smoothly over the picture, and an embedding."""
    rng = np.random.default_rng(seed)
    ids = np.array([f"p{i:04d}" for i in range(n)])
    blur = np.exp(-0.5 * (np.subtract.outer(np.arange(8), np.arange(8)) / 1.0) ** 2)
    tokens = {}
    for name in ("block1", "block2", "block3"):
        white = rng.normal(size=(n, 8, 8, 8))
        tokens[name] = np.einsum("nrcd,ra,cb->nabd", white, blur, blur).reshape(n, 64, 8).astype(np.float32)
    data = {name: rng.normal(size=(n, 8)).astype(np.float32) for name in ("block1", "block2", "block3", "image")}
    table = {"split": np.where(np.arange(n) < n - 30, "train", "test")}
    images = np.zeros((n, 2, 2, 3), np.uint8)
    return Stimuli(ids, images, table=pd.DataFrame(table)), Features(data, ids, "made-up", tokens, dict.fromkeys(tokens, (8, 8)))


def found_fields(template: FieldTemplate | None, seed: int) -> tuple[float, float, float]:
    """(Spearman of found and true x, of y, of y in shuffled vertices) over the informative units of V1 to V4 with ncsnr > .3."""
    stimuli, features = network(180, seed)
    truth = phantom_truth(stimuli, features, seed=seed, private=0.0, template=template)
    regions = ["V1", "V2V3"] if template is not None else ["V1", "V2V3", "V4"]
    responses = select_regions(simulate(truth, make_trials(stimuli, seed=seed)), regions)
    design = EncodingDesign(width=24, resamples=0, clusters=3)
    result = encode(responses.zscore(), features, design=design, training=EncodingTraining(steps=0), seed=seed)
    scores, units = selector_truth(result), result.units
    used = ((units["ncsnr"] > 0.3) & units["rf_x"].notna()).to_numpy()
    truth_y, found_y = units["rf_y"].to_numpy()[used], result.arrays["space"][used, 1]
    assert scores["truth/rf_y_spearman"] == pytest.approx(spearmanr(truth_y, found_y).statistic)
    if template is not None:  # the same numbers on any recording that has a template, of this one's reliable vertices
        assert result.metrics["encoding/retinotopy/n"] >= used.sum()
        assert result.metrics["encoding/retinotopy/x_spearman"] == pytest.approx(scores["truth/rf_x_spearman"], abs=0.1)
    mixed = np.random.default_rng(seed).permutation(found_y)
    return scores["truth/rf_x_spearman"], scores["truth/rf_y_spearman"], float(spearmanr(truth_y, mixed).statistic)


def test_factortopy_finds_the_fields_as_it_does_in_the_volume(template: FieldTemplate) -> None:
    """Ten seeds gave rank correlations of .930 to .947 (x) and .902 to .929 (y) on the surface, .971 to .978 and .946 to .967 in
    the volume, and at most .034 where the vertices are shuffled."""
    surface, volume = found_fields(template, 0), found_fields(None, 0)
    assert min(surface[:2]) > 0.8
    assert min(surface[:2]) > min(volume[:2]) - 0.1
    assert abs(surface[2]) < 0.25


def test_a_template_makes_a_recording_from_the_command_line(maps: Path, tmp_path: Path) -> None:
    base = ["encode", "--option", f"retinotopy={maps}", "--train", "60", "--test", "20", "--roi", "V1", "--runs", str(tmp_path)]
    found = CliRunner().invoke(app, [*base, "--steps", "1", "--no-search", "--layer", "vision.2"])
    assert found.exception is None, found.output
    (run,) = tmp_path.glob("encode-*")
    result = store.load_result(run)
    assert {"rf_x", "rf_y", "rf_size", "reference_x", "reference_y", "informative", "layer"} <= set(result.units.columns)
    assert {"encoding/retinotopy/x_spearman", "encoding/retinotopy/y_spearman.high"} <= set(result.metrics)
    assert result.space.mesh == "fsaverage5"
    seen = result.units["rf_x"].notna()
    np.testing.assert_allclose(result.units["reference_x"][seen] / 4.2, result.units["rf_x"][seen], rtol=1e-4)
    np.testing.assert_allclose(-result.units["reference_y"][seen] / 4.2, result.units["rf_y"][seen], rtol=1e-4)


def without(name: str):
    def change(folder: Path) -> None:
        (folder / f"rh.benson14_{name}.v4_0.mgz").unlink()

    return change


def shorter(folder: Path) -> None:
    for path in folder.glob("*.mgz"):
        nib.save(nib.MGHImage(np.zeros((642, 1, 1), np.float32), np.eye(4)), path)


def elsewhere(folder: Path) -> None:
    for side in ("lh", "rh"):
        image = nib.MGHImage(np.full((VERTICES, 1, 1), 9, np.float32), np.eye(4))
        nib.save(image, folder / f"{side}.benson14_varea.v4_0.mgz")


@pytest.mark.parametrize(
    ("change", "options", "text"),
    [
        (without("angle"), {}, r"one rh.\*angle\* are needed, found \[1, 0\]"),
        (without("varea"), {}, r"one rh.\*area\* are needed"),
        (shorter, {}, "maps of 642 vertices a hemisphere are of no fsaverage"),
        (elsewhere, {}, "none of its areas is one of V1, V2, V3, hV4, V4; it has TO1"),
        (None, {"degrees": 0.0}, "above 0, at most 90"),
        (None, {"degrees": 0.001}, "no field of its visual areas has its centre within 0.001 degrees"),
        (None, {"grid": "2mm"}, "grid 2mm is of voxels"),
        (None, {"warp": 3.0}, "warp and motion move a grid"),
        (None, {"retinotopy": None, "degrees": 8.0}, "give both or neither"),
    ],
)
def test_mistakes_are_one_line(maps: Path, tmp_path: Path, change, options: dict, text: str) -> None:
    folder = tmp_path / "maps"
    shutil.copytree(maps, folder)
    if change is not None:
        change(folder)
    given = {"retinotopy": str(folder)} | {name: value for name, value in options.items() if name != "warp"}
    stimuli, features = network(40, 0)
    with pytest.raises(DataError, match=text) as error:
        phantom.truth(stimuli, features, mismatch=Mismatch(warp=options.get("warp", 0.0)), **given)
    assert "\n" not in str(error.value)
