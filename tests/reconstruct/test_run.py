"""The verb from end to end on a pipeline of the size of a thumb, and its parts against plain computations."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.covariance import ledoit_wolf
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_val_predict

from brainlens import miniatures, store
from brainlens.backbones.clip import embed_images, load_clip
from brainlens.backbones.diffusion import load_diffusion
from brainlens.datasets.source import Opened, Source, open_recording
from brainlens.metrics.reconstruction import pixel_correlation, two_way
from brainlens.models.generation.adapter_tables import ALPHAS, match_images
from brainlens.models.generation.adapter_training import AdapterTraining
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.models.generation.pretraining import pretrain_attention
from brainlens.plots import reconstruct as figures
from brainlens.plots import style
from brainlens.plots.attribution import overlay
from brainlens.reconstruct import starting
from brainlens.reconstruct.asked import WIDTH, Asked
from brainlens.reconstruct.asked import preset as preset_of
from brainlens.reconstruct.material import material
from brainlens.reconstruct.prompts import PromptAxes
from brainlens.reconstruct.regions import Partition, block_parcels, named_sets, partition, patch_parcels, region_sets
from brainlens.reconstruct.run import Reconstruction, reconstruct_opened, run_reconstruct
from brainlens.reconstruct.scoring import Scorer, exchanges, metrics_of, score_rows
from brainlens.reconstruct.starting import predicted_responses
from brainlens.report.sections import sections
from brainlens.solvers.ridge import ridge_cv
from brainlens.subjects import held_out
from brainlens.types import DataError, Stimuli, Volume

SHIPPED = miniatures.folder
SMALL = Source(n_train=40, n_test=6)
QUICK = {
    "pretrain": 24, "pretrain_steps": 4, "steps": 6, "candidates": 2, "sampling_steps": 3, "regions": 20, "explain": 3,
    "changes": {"training": {"batch": 8, "draws": 8}},
}  # fmt: skip


def silent(text: str, share: float | None = None) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def pipeline(made_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_pipeline.build_pipeline(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def recording() -> Opened:
    return open_recording(SMALL, layers=True)


@pytest.fixture(scope="module")
def run(pipeline: Path, recording: Opened, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A whole run with everything that is asked for."""
    asked = Asked(pipeline=str(pipeline), lesions=("V1+V2V3",), low_level=0.8, **QUICK)
    return drawn(recording, asked, tmp_path_factory.mktemp("runs"))


def drawn(recording: Opened, asked: Asked, runs: Path, tell=silent) -> Path:
    return reconstruct_opened(recording, SMALL, runs, asked, diffusion=load_diffusion(asked.place), tell=tell)


def test_a_run_holds_pictures_scores_baselines_and_what_explains_them(run: Path, recording: Opened) -> None:
    result = store.load_result(run)
    assert result.task == "reconstruct"
    assert result.arrays["pictures/seen"].shape == (6, 16, 16, 3)
    assert result.arrays["pictures/candidates"].shape == (6, 2, 16, 16, 3)
    assert result.arrays["value_contribution/parcels"].shape == (3, 3, 20)
    np.testing.assert_allclose(result.arrays["contribution/parcels"].sum(axis=2), 1, rtol=1e-5)
    rows = set(result.tables["comparison"]["pictures"])
    others = {"retrieval", "evidence retrieval", "random picture", "low level", "shuffled"}
    assert rows == {"chosen", "first", "mean", "best"} | others
    assert len(result.units) == len(recording.responses.units)
    shown = np.isfinite(result.arrays["map/value_contribution"])
    assert shown.sum() == len(result.arrays["columns"])
    assert result.metrics["reconstruct/lesion/V1+V2V3/change"] > 0
    assert result.metrics["reconstruct/best/two_way_clip"] >= result.metrics["reconstruct/two_way_clip"]
    assert not (run.parent / "unfinished" / run.name).exists()
    assert result.provenance["data"]
    seen = set(result.arrays["ids"])
    assert not seen & set(recording.responses.where(split="train").trials["stimulus"])


def test_a_lesion_by_refit_is_a_fit_that_never_saw_the_regions(
    run: Path, recording: Opened, pipeline: Path, tmp_path: Path
) -> None:
    """The model of a refit is the same whatever the voxels of the regions say; the whole brain's picture is that of removal."""
    asked = Asked(pipeline=str(pipeline), lesions=("V1+V2V3",), lesion_by="refit", low_level=0.8, **QUICK)
    found, removed = store.load_result(drawn(recording, asked, tmp_path)), store.load_result(run)
    assert np.array_equal(found.arrays["lesion/whole"], removed.arrays["lesion/whole"])
    assert not np.array_equal(found.arrays["lesion/V1+V2V3"], removed.arrays["lesion/V1+V2V3"])

    diffusion = load_diffusion(asked.place)
    given = material(recording, asked.parcels, 20, True, trials=None, size=16)
    early = [name for name in given.parcels.names if name.split(" ")[0] in ("V1", "V2V3")]
    data = given.train.data.copy()
    data[:, np.isin(given.parcels.label, given.parcels.find(early))] = 1e3
    other = replace(given, train=replace(given.train, data=data))
    models = []
    for name, each in (("a", given), ("b", other)):
        made = Reconstruction(each, asked, SMALL, diffusion, tmp_path / name, 0, "cpu", silent)
        models.append(made.model(early))
    assert set(models[0].parcels_.names) == set(given.parcels.names) - set(early)
    for name, value in models[0].adapter_.items():
        assert torch.equal(value, models[1].adapter_[name]), name
    with pytest.raises(DataError, match="leaves nothing to fit"):
        made.model(given.parcels.names)


def test_regions_write_tokens_together_by_default_and_one_each_when_asked(
    run: Path, recording: Opened, pipeline: Path, tmp_path: Path
) -> None:
    """The code of joint tokens is a ridge prediction of the embeddings from all parcels; training leaves it as it is."""
    model, result = NeuroAdapter.load(run / "model"), store.load_result(run)
    _, adapter = model._ready()
    assert model.joint == len(adapter.tokens.bias) == 8  # states of a text of this pipeline
    given = material(recording, Partition(), 20, True, trials=None, size=16)
    x = model.inputs(given.mean_responses())
    embedding = embed_images(load_clip(SHIPPED("clip")), replace(given.train_stimuli, images=given.train_pictures))["image"]
    prompts = PromptAxes.whitened(embedding)(embedding)
    held = held_out(len(x), 0.1, 0)
    code = adapter.tokens.codes(torch.from_numpy(x)).sum(1).numpy()
    rows = match_images(given.train_stimuli, given.train_names, len(given.train), None).at  # images as the fit holds them back
    trained = rows[~held]
    known = [Ridge(alpha).fit(x[trained], prompts[trained]) for alpha in ALPHAS]  # each channel has a penalty of its own
    errors = np.stack([np.abs(one.predict(x) - one.intercept_ - code).max(axis=0) for one in known])
    assert (errors.min(axis=0) < 1e-3 * np.abs(code).max()).all()
    one_each = Asked(pipeline=str(pipeline), tokens="region", **{**QUICK, "explain": 0, "trials": 4})
    assert NeuroAdapter.load(drawn(recording, one_each, tmp_path) / "model").joint is None
    assert result.config["tokens"] is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": "both"}, "tokens 'both' is not one of joint, region"),
        ({"tokens": "joint", "start": "ridge"}, "ask for start attention"),
        ({"tokens": "joint", "preset": "paper"}, "ask for start attention"),
        ({"tokens": "region", "chooser": "evidence"}, "evidence and width are of joint tokens"),
        ({"start": "ridge", "width": 0.3}, "evidence and width are of joint tokens"),
        ({"width": 1.5}, "width 1.5 lies in"),
        ({"chooser": "dice"}, "chooser 'dice' is not one of evidence, ridge, predictor"),
    ],
)
def test_tokens_that_cannot_be_are_refused_in_one_line(changes, message) -> None:
    with pytest.raises(DataError, match=message) as error:
        Asked(**changes)
    assert "\n" not in str(error.value)


def test_near_training_pictures_nothing_is_trained_on_the_recording_unless_asked(
    recording: Opened, pipeline: Path, tmp_path: Path
) -> None:
    """The attention stays as it was trained on other pictures, and the code is ridge: both are what the model keeps."""
    assert (Asked().training_steps, Asked(steps=5).training_steps) == (0, 5)
    assert Asked(width=0.0).training_steps is None
    assert Asked(tokens="region").training_steps is None
    quick = {name: value for name, value in QUICK.items() if name != "steps"}
    folder = drawn(recording, Asked(pipeline=str(pipeline), **{**quick, "explain": 0, "trials": 4}), tmp_path)
    model, log = NeuroAdapter.load(folder / "model"), store.load_result(folder).tables["log"]
    assert log["step"].tolist() == [0.0]
    assert (model.training["epochs"], model.training["steps"]) == (0, 0)


def test_the_kept_model_draws_the_kept_pictures(run: Path, recording: Opened) -> None:
    """The run's columns and model are all that new responses of the same brain need."""
    result, model = store.load_result(run), NeuroAdapter.load(run / "model")
    test = recording.responses.columns(result.arrays["columns"]).zscore().where(split="test").average()
    pictures = model.reconstruct(test.data, 2, guidance=4.0, steps=3, width=WIDTH)
    np.testing.assert_array_equal(pictures, result.arrays["pictures/candidates"])


def test_evidence_chooses_the_candidate_that_fits_best(run: Path, recording: Opened) -> None:
    """Written out: errors of ridge without the row, their covariance by scikit-learn, cosines in its metric."""
    result, model = store.load_result(run), NeuroAdapter.load(run / "model")
    test = recording.responses.columns(result.arrays["columns"]).zscore().where(split="test").average()
    candidates = result.arrays["pictures/candidates"]
    flat = np.asarray(candidates).reshape(-1, *candidates.shape[2:])
    stimuli = Stimuli(np.array([f"{i:03d}" for i in range(len(flat))]), flat, [[] for _ in flat])
    given = material(recording, Partition(), 20, True, trials=None, size=16)
    clip = load_clip(SHIPPED("clip"))
    seen = embed_images(clip, replace(given.train_stimuli, images=given.train_pictures))["image"]
    axes = PromptAxes.whitened(seen)
    found = axes(embed_images(clip, stimuli)["image"]).reshape(6, 2, -1)
    x, prompts = model.inputs(given.mean_responses()), axes(seen)
    trained = np.flatnonzero(~held_out(len(x), 0.1, 0))
    rows = match_images(given.train_stimuli, given.train_names, len(given.train), None).at[trained]
    alphas = ridge_cv(x[rows], prompts[rows], ALPHAS).alpha.numpy()
    errors = np.empty((len(rows), prompts.shape[1]))
    predicted = np.empty((6, prompts.shape[1]))
    for alpha in np.unique(alphas):
        own = alphas == alpha
        left_out = cross_val_predict(Ridge(alpha), x[rows], prompts[rows][:, own], cv=len(rows))
        errors[:, own] = prompts[rows][:, own] - left_out.reshape(len(rows), -1)
        predicted[:, own] = Ridge(alpha).fit(x[rows], prompts[rows][:, own]).predict(model.inputs(test.data)).reshape(6, -1)
    root = np.linalg.cholesky(np.linalg.inv(ledoit_wolf(errors, assume_centered=True)[0]))
    a, b = (each - prompts[rows].mean(axis=0) for each in (predicted, found))
    a, b = a @ root, b @ root
    match = np.einsum("nd,ncd->nc", a, b) / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=2)
    np.testing.assert_allclose(match, result.arrays["choice/correlation"], atol=2e-3)
    np.testing.assert_array_equal(match.argmax(1), result.arrays["chosen"])


def test_scores_of_a_run_are_those_of_its_pictures(run: Path) -> None:
    result = store.load_result(run)
    at = np.arange(6), result.arrays["chosen"]
    found = pixel_correlation(result.arrays["pictures/seen"], result.arrays["pictures/candidates"][at])
    assert result.metrics["reconstruct/pixcorr"] == pytest.approx(found.mean(), abs=1e-6)
    np.testing.assert_array_equal(result.arrays["choice/correlation"].argmax(axis=1), result.arrays["chosen"])


def test_a_stopped_run_goes_on_to_the_same_pictures(run: Path, recording: Opened, pipeline: Path, tmp_path: Path) -> None:
    """Stopped while pictures are drawn: what was trained is not trained again, and the result is that of one go."""
    asked = Asked(pipeline=str(pipeline), lesions=("V1+V2V3",), low_level=0.8, **QUICK)

    def stop(text: str, share: float | None = None) -> None:
        if text == "scores":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(recording, asked, tmp_path, stop)
    said: list[str] = []
    again = drawn(recording, asked, tmp_path, lambda text, share=None: said.append(text))
    assert "training the adapter" not in said
    assert again.name == run.name
    first, second = (store.load_result(folder) for folder in (run, again))
    np.testing.assert_array_equal(first.arrays["pictures/candidates"], second.arrays["pictures/candidates"])
    assert first.metrics == pytest.approx(second.metrics, rel=1e-9)  # sums of another order differ in the last digit


def test_test_responses_shape_nothing_that_is_fitted(run: Path, recording: Opened, pipeline: Path, tmp_path: Path) -> None:
    data = recording.responses.data.copy()
    test = (recording.responses.trials["split"] == "test").to_numpy()
    data[test] = np.random.default_rng(0).normal(size=data[test].shape).astype(data.dtype)
    asked = Asked(pipeline=str(pipeline), low_level=0.8, **{**QUICK, "explain": 0, "candidates": 1})
    other = drawn(replace(recording, responses=replace(recording.responses, data=data)), asked, tmp_path)
    models = [NeuroAdapter.load(folder / "model") for folder in (run, other)]
    for name, value in models[0].adapter_.items():
        np.testing.assert_array_equal(value.numpy(), models[1].adapter_[name].numpy())


@pytest.mark.parametrize(
    "start, chooser, preset", [("predicted", "predictor", "default"), ("random", "ridge", "paper"), ("ridge", "ridge", "default")]
)
def test_other_starts_choosers_and_the_paper_run(
    start: str, chooser: str, preset: str, recording: Opened, pipeline: Path, tmp_path: Path
) -> None:
    asked = Asked(pipeline=str(pipeline), start=start, chooser=chooser, preset=preset, **{**QUICK, "explain": 0, "trials": 4})
    folder = drawn(recording, asked, tmp_path)
    result, model = store.load_result(folder), NeuroAdapter.load(folder / "model")
    assert len(result.arrays["pictures/seen"]) == 4
    assert model.removal == ("zero" if preset == "paper" else "mask")
    assert (folder / "chooser").is_dir()


@pytest.mark.realdata
def test_a_recording_without_repeats_or_places_runs(test_data: Path, pipeline: Path, tmp_path: Path) -> None:
    source = Source("digits69", test_data / "digits69")
    asked = Asked(pipeline=str(pipeline), parcels=Partition(edge=100), **{**QUICK, "regions": None})
    folder, rows = run_reconstruct(source, tmp_path, asked, tell=silent)
    result = store.load_result(folder)
    assert len(result.arrays["pictures/seen"]) == 10
    assert result.metrics["data/parcels"] == 30
    assert rows[0]["metric"] == "reconstruct/two_way_clip"
    with pytest.raises(DataError, match="no training image is repeated, so parcels cannot be ranked"):
        run_reconstruct(source, tmp_path, replace(asked, regions=5), tell=silent)


BAD_PIPELINES = {
    "safety_checker": "has a safety checker",
    "unet": "has no unet",
    "text_encoder": "has no text_encoder",
}


@pytest.mark.parametrize("part", BAD_PIPELINES)
def test_pipelines_that_cannot_draw_are_refused_first(part: str, pipeline: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(pipeline, bad)
    if part == "safety_checker":
        (bad / part).mkdir()
    else:
        shutil.rmtree(bad / part)
    with pytest.raises(DataError, match=BAD_PIPELINES[part]):
        run_reconstruct(SMALL, tmp_path, Asked(pipeline=str(bad)), tell=silent)


def test_recordings_that_cannot_be_reconstructed_are_refused(recording: Opened, pipeline: Path, tmp_path: Path) -> None:
    asked = Asked(pipeline=str(pipeline), **QUICK)

    def refused(match: str, changed: Opened = recording, how: Asked = asked) -> None:
        with pytest.raises(DataError, match=match) as error:
            drawn(changed, how, tmp_path)
        assert "\n" not in str(error.value)

    responses = recording.responses
    refused("9999 parcels are asked for", how=replace(asked, regions=9999))
    refused(
        "no split into train and test",
        replace(recording, responses=replace(responses, trials=responses.trials.drop(columns="split"))),
    )
    two = responses.trials.assign(subject=np.where(np.arange(len(responses)) % 2, "1", "2"))
    refused("one subject at a time", replace(recording, responses=replace(responses, trials=two)))
    empty = responses.data.copy()
    empty[3, ::2] = np.nan
    refused("units hold NaN", replace(recording, responses=replace(responses, data=empty)))
    refused("no kept parcel is called 'EAR'", how=replace(asked, lesions=("EAR",)))
    with pytest.raises(DataError, match="give 2 or more"):
        exchanges(1)


def test_a_half_written_checkpoint_is_refused(recording: Opened, pipeline: Path, tmp_path: Path) -> None:
    asked = Asked(pipeline=str(pipeline), **{**QUICK, "start": "random", "explain": 0})

    def stop(text: str, share: float | None = None) -> None:
        if text == "training the adapter" and share is not None and share > 0.6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        drawn(recording, asked, tmp_path, stop)
    kept = sorted((tmp_path / "unfinished").rglob("*.safetensors"))
    assert kept
    for file in kept:
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.warns(UserWarning, match="is not used"), pytest.raises(DataError, match="checkpoints is whole") as error:
        drawn(recording, asked, tmp_path)
    assert "\n" not in str(error.value)


def test_patches_stay_inside_their_region_and_their_cube() -> None:
    mask = np.zeros((6, 6, 6), bool)
    mask[:, :, :3] = True
    space = Volume(mask, np.diag([4.0, 4, 4, 1]))
    regions = np.where(space.coordinates()[:, 0] < 8, "V1", "none")
    found = patch_parcels(space, 3, regions)
    xyz = space.coordinates() / 4
    for name, members in zip(found.names, found.members, strict=True):
        assert len(np.unique(xyz[members] // 3, axis=0)) == 1
        assert set(regions[members]) == ({"V1"} if name.startswith("V1") else {"none"})
    assert set(np.flatnonzero(found.label < 0)) == set()  # cubes of 27, of which V1 takes 18: none is below four
    assert region_sets(found).keys() == {"V1"}
    assert named_sets(found, ["V1+patch0003"])["V1+patch0003"] == [
        n for n in found.names if n.startswith("V1") or n == "patch0003"
    ]


def test_blocks_hold_every_unit_once() -> None:
    found = block_parcels(64, 10)
    assert found.sizes.tolist() == [10, 10, 10, 10, 10, 14]
    assert found.names[-1] == "units 50 to 63"


def test_kinds_of_parcels_that_a_recording_cannot_have_are_refused(recording: Opened) -> None:
    bare = replace(recording.responses, space=None, units=recording.responses.units[["x"]])
    assert len(partition(bare, Partition())) == len(bare.units) // 30
    for kind, match in (("patches", "need voxels with coordinates"), ("regions", "no column 'roi'")):
        with pytest.raises(DataError, match=match):
            partition(bare, Partition(kind))
    assert set(partition(recording.responses, Partition("regions")).names) >= {"V1", "FFA", "PPA"}


def test_prompts_keep_distances_where_there_is_room() -> None:
    rng = np.random.default_rng(0)
    e = rng.normal(size=(30, 6)) * [3, 2, 1, 1, 0.5, 0.1] + 5
    wide = PromptAxes.fit(e, 16)(e)
    assert wide.shape == (30, 16)
    assert np.square(wide).mean() == pytest.approx(1, rel=1e-4)
    before, after = (np.linalg.norm(x[:, None] - x[None], axis=2) for x in (e, wide))
    np.testing.assert_allclose(after[before > 0] / before[before > 0], (after / before.clip(1e-9)).max(), rtol=1e-4)
    assert PromptAxes.fit(e, 4)(e[:2]).shape == (2, 4)
    with pytest.raises(DataError, match="all embeddings are the same"):
        PromptAxes.fit(np.ones((5, 3)), 4)
    with pytest.raises(DataError, match="all embeddings are the same"):
        PromptAxes.whitened(np.ones((5, 3)))
    white = PromptAxes.whitened(rng.normal(size=(400, 5)) * [3, 2, 1, 0.5, 1e-6] + 5)
    assert white.turn.shape == (5, 4)  # what does not vary is no axis


def test_training_pictures_are_embedded_like_all_others(pipeline: Path, recording: Opened, tmp_path: Path) -> None:
    """Embeddings of a recording are z-scored by its training images; those that the shipped attention was trained on are not."""
    given = material(recording, Partition(), 20, True, trials=None, size=16)
    asked = Asked(pipeline=str(pipeline), **QUICK)
    parts = Reconstruction(given, asked, SMALL, load_diffusion(pipeline), tmp_path, 0, "cpu", silent)
    found = parts.embed()(np.concatenate([given.seen, given.train_pictures]))[len(given.seen) :]
    np.testing.assert_allclose(parts.embedded, found, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)
    assert np.linalg.norm(given.train_embedding, axis=1).min() > 2


def test_rows_of_the_table_are_what_their_names_say() -> None:
    rng = np.random.default_rng(1)
    seen = rng.integers(0, 256, (5, 12, 12, 3), dtype=np.uint8)
    noise = [np.clip(seen + rng.normal(scale=s, size=seen.shape), 0, 255).astype(np.uint8) for s in (200, 20)]
    candidates = np.stack(noise, axis=1)
    embed = lambda p: p.reshape(len(p), -1).astype(np.float32)  # noqa: E731
    rows = score_rows(Scorer.of(seen, embed), candidates, np.array([1, 1, 0, 1, 0]), {"shuffled": seen[exchanges(5)[0]]})
    each = np.stack([pixel_correlation(seen, n) for n in noise], axis=1)
    np.testing.assert_allclose(rows["chosen"]["pixcorr"], each[np.arange(5), [1, 1, 0, 1, 0]], atol=1e-6)
    np.testing.assert_allclose(rows["first"]["pixcorr"], each[:, 0], atol=1e-6)
    np.testing.assert_allclose(rows["mean"]["pixcorr"], each.mean(1), atol=1e-6)
    np.testing.assert_allclose(rows["best"]["pixcorr"], each.max(1), atol=1e-6)
    np.testing.assert_allclose(rows["first"]["two_way_clip"], two_way(embed(seen), embed(noise[0])))
    assert rows["shuffled"]["two_way_clip"].max() < 1  # each shows another image perfectly
    metrics = metrics_of(rows)
    assert metrics["reconstruct/two_way_clip.chance"] == 0.5
    assert metrics["reconstruct/first/pixcorr"] == pytest.approx(each[:, 0].mean(), abs=1e-6)
    flat = Scorer.of(seen, lambda p: embed(p) + np.arange(432))(np.full_like(seen, 7))
    np.testing.assert_array_equal(flat["pixcorr"], 0)  # a picture of one value counts as unlike


def test_no_image_stays_in_an_exchange() -> None:
    for n in (2, 3, 17):
        orders = exchanges(n)
        assert orders.shape == (20, n)
        assert (np.sort(orders, axis=1) == np.arange(n)).all()
        assert (orders != np.arange(n)).all()
    assert len(np.unique(orders, axis=0)) == 20
    np.testing.assert_array_equal(exchanges(17, 3, 2), exchanges(17, 3)[:2])
    first = np.random.default_rng([3, 71]).permutation(17)  # whose pictures the judges of the claims see
    assert (exchanges(17, 3)[0][first] == np.roll(first, 1)).all()


def test_predicted_trials_carry_the_noise_of_the_recording() -> None:
    rng = np.random.default_rng(2)
    root = rng.normal(size=(3, 3))
    residual = rng.normal(size=(4000, 3)) @ root
    signal = rng.normal(size=(3000, 3)) * 5
    y, group = predicted_responses(signal, residual, seed=0)
    assert np.bincount(group).tolist() == [2] * 3000
    noise = y - signal[group]
    np.testing.assert_allclose(np.cov(noise.T), np.cov(residual.T), atol=0.15 * np.abs(np.cov(residual.T)).max())
    assert abs(np.corrcoef(noise[::2, 0], noise[1::2, 0])[0, 1]) < 0.1  # repeats share the signal alone


def test_an_adapter_of_another_brain_is_refused(run: Path, recording: Opened) -> None:
    model = NeuroAdapter.load(run / "model")
    with pytest.raises(DataError, match="the model was fitted on"):
        model.reconstruct(np.zeros((2, 7), np.float32))
    with pytest.raises(DataError, match="no parcel is called"):
        model.reconstruct(np.zeros((2, model.n_units_), np.float32), without=["V9"])
    note = json.loads((run / "result.json").read_text())
    assert note["config"]["method"] == "NeuroAdapter (default)"


def test_attention_that_ships_is_used_for_its_own_pipeline_alone(
    recording: Opened, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run begins with what ships and trains no other; of another pipeline, or where training is asked for, it is not used."""
    diffusion = load_diffusion(pipeline)
    place = tmp_path / "attention"
    place.mkdir()
    attention = pretrain_attention(
        pipeline, np.zeros((20, 16, 16, 3), np.uint8), np.eye(20, 191, dtype=np.float32),
        training=AdapterTraining(steps=1, batch=4, draws=4),
    )  # fmt: skip
    axes = PromptAxes.whitened(np.random.default_rng(0).normal(size=(300, 192)) * np.arange(1, 193))
    attention["tokens.weight"] = torch.zeros(20, axes.turn.shape[1], 16)
    store.save_weights(place, "attention", {name: value.half() for name, value in attention.items()})
    store.save_weights(place, "axes", {"mean": torch.from_numpy(axes.mean), "turn": torch.from_numpy(axes.turn)})
    store.save_json(place / "config.json", {"pipeline": diffusion.files})
    monkeypatch.setattr(starting.miniatures, "folder", lambda name: place if name == "attention" else SHIPPED(name))
    found = starting.shipped_attention(diffusion.files)
    assert found is not None
    assert {name: value.shape for name, value in found[0].items()} == {name: value.shape for name, value in attention.items()}
    np.testing.assert_array_equal(found[1].turn, axes.turn)
    assert starting.shipped_attention("another") is None
    plain = {name: value for name, value in QUICK.items() if not name.startswith("pretrain")} | {"explain": 0, "candidates": 1}
    for more, trained in (({}, False), ({"pretrain": 24, "pretrain_steps": 2}, True)):
        said: list[str] = []

        def hear(text: str, share: float | None = None, heard: list[str] = said) -> None:
            heard.append(text)

        drawn(recording, Asked(pipeline=str(pipeline), **plain, **more), tmp_path, hear)
        assert ("training the attention on other pictures" in said) == trained


def test_maps_along_denoising_are_those_of_the_arrays(run: Path) -> None:
    """Lines are the sets that contribute most, and the numbers below are shares of a parcel in the stretch of each column."""
    result = store.load_result(run)
    shares, groups = result.arrays["value_contribution/parcels"], figures.groups_of(result)  # three steps, in three bins
    mean = {name: shares[:, :, groups[name]].mean() for name in figures.map_sets(result)}
    order = sorted(mean, key=lambda name: -mean[name])[:2]
    axes = figures.region_map_strip(result, image=1, most=2).axes
    assert [axes[0].get_ylabel(), axes[3].get_ylabel()] == [style.printable(name, 18) for name in order]
    for line, name in enumerate(order):
        for k in range(3):
            assert axes[3 * line + k].get_xlabel() == f"{20 * shares[:, k, groups[name]].mean():.2f}"
    own = np.stack([result.arrays[f"maps/{name}"][1] for name in mean])
    above = np.clip(own - own.mean(axis=0), 0, None)
    top = max(above[list(mean).index(name)].max() for name in order)
    expected = overlay(result.arrays["maps/pictures"][1], above[list(mean).index(order[1]), 2], most=top)
    np.testing.assert_allclose(axes[5].get_images()[0].get_array(), expected, atol=1e-6)
    for given, message in (({"image": 3}, "images 0 to 2"), ({"sets": ["nose"]}, "no set of regions is called 'nose'")):
        with pytest.raises(DataError, match=message):
            figures.region_map_strip(result, **given)


def test_the_scheduler_is_a_part_of_what_was_asked_and_the_papers_is_the_released_codes() -> None:
    assert "scheduler" not in Asked().settings()  # runs from before it could be asked for are found again
    assert Asked(scheduler="dpm").settings()["scheduler"] == "dpm"
    paper = Asked(**preset_of("paper"))
    assert paper.drawing == {"guidance": 4.0, "steps": 50, "width": None, "scheduler": "ddpm", "grey": True}
    before = replace(paper, scheduler="ddim")
    assert not before.grey
    assert "scheduler" not in before.settings()
    assert not replace(paper, low_level=0.7).grey


def test_the_page_draws_everything_that_a_run_holds(run: Path) -> None:
    """Every figure is drawn (a note says why one is not), and curves stand at the shares that the arrays hold."""
    result = store.load_result(run)
    made = {section.title: section for section in sections(result, dpi=40)}
    assert len(made["Reconstructed pictures"].pictures) == 1
    assert len(made["Which region drew what"].pictures) == 5  # curves, cortex, maps, maps along denoising, lesions
    notes = [picture.note for section in made.values() for picture in section.pictures if picture.note]
    assert not notes
    groups = figures.groups_of(result)
    assert sum(map(len, groups.values())) == 20
    drawn = figures.contribution_curves(result).axes[0]
    assert all(float(tick).is_integer() for tick in drawn.get_xticks())  # there is no step 2.5
    lines = {line.get_label().split(",")[0]: line for line in drawn.lines}
    shown = set(lines) & set(groups)
    assert shown
    for name in shown:
        share = result.arrays["value_contribution/parcels"][:, :, groups[name]].mean(axis=(0, 2)) * 20
        np.testing.assert_allclose(lines[name].get_ydata(), share, rtol=1e-4)
    with pytest.raises(DataError, match="rows must lie in"):
        figures.candidate_grid(result, rows=np.array([99]))
    with pytest.raises(DataError, match="no array"):
        figures.lesion_grid(replace(result, arrays={"pictures/seen": result.arrays["pictures/seen"]}))
