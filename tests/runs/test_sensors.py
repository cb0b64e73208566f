"""`align` on EEG and MEG as the command runs it: simulated recordings, a THINGS-EEG2 folder, what is stored and drawn."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from brainlens import report, store
from brainlens.align.embed_sensors import embed_sensor_run
from brainlens.align.run_sensors import run_align_sensors
from brainlens.align.sensor_options import SensorOptions, is_sensors, preset
from brainlens.attribute.run_sensors import is_sensor_run, run_attribute_sensors
from brainlens.datasets import phantom_eeg
from brainlens.datasets.epoching import run_epochs
from brainlens.datasets.sensors import number_of, prompted
from brainlens.datasets.source import Source
from brainlens.metrics.retrieval import nearest_share
from brainlens.models.sensors import checkpoint
from brainlens.models.sensors.contributions import METHODS
from brainlens.models.sensors.decoder import NICE_TRAINING, THINGS_EEG2, THINGS_MEG, UNFILTERED
from brainlens.models.sensors.stored import load_aligner
from brainlens.subjects import Protocol
from brainlens.types import DataError


def silent(text: str, share: float | None = None) -> None:
    pass


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made embeddings of 24 images and of their concepts' centres, under the names that the real ones have."""
    folder = tmp_path_factory.mktemp("things")
    rng = np.random.default_rng(0)
    centre = rng.normal(size=(24, 12)).astype(np.float32)
    np.save(folder / "center_clip.npy", centre)
    np.save(folder / "clip_feature_maps_test.npy", (centre + 0.3 * rng.normal(size=centre.shape).astype(np.float32))[:, None])
    return folder


@pytest.fixture(scope="module")
def stored(embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    """A run of two encoders, two epochs each."""
    source = Source("phantom_eeg", embeddings, n_train=120)
    options = SensorOptions(("linear", "nice"), epochs=2, repeats=8)
    return run_align_sensors(source, tmp_path_factory.mktemp("runs"), options, tell=silent)


@pytest.fixture(scope="module")
def network(embeddings: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list]:
    """A run of the network alone, which after two epochs is behind the linear encoder and would not be the one that is kept."""
    source = Source("phantom_eeg", embeddings, n_train=120)
    options = SensorOptions(("nice",), epochs=2, repeats=8)
    return run_align_sensors(source, tmp_path_factory.mktemp("network"), options, tell=silent)


def test_a_run_holds_scores_analyses_and_weights(stored: tuple[Path, list]) -> None:
    folder, rows = stored
    result = store.load_result(folder)
    shown = {row["metric"]: row for row in rows}
    assert {"retrieval/brain->image/top1", "retrieval/brain->image/top5"} <= set(shown)
    assert float(shown["retrieval/brain->image/top5"]["chance"]) == pytest.approx(5 / 24, abs=1e-3)
    assert result.metrics["retrieval/brain->image/chance1"] == pytest.approx(1 / 24)
    assert result.metrics["data/test_repeats"] == 8
    assert result.tables["repeats"]["repeats"].tolist() == [1, 2, 4, 8]
    best = max(("linear", "nice"), key=lambda name: result.metrics[f"align/{name}/validation/mrr"])
    assert result.config["main"] == best == result.tables["comparison"]["encoder"].tolist()[-1]
    windows = result.tables["time_windows"]
    assert set(windows["kind"]) == {"growing", "shrinking", "sliding"}
    assert result.arrays["generalisation"].shape == (50, 50)
    assert result.arrays["topomap/contribution_by_time"].shape == (10, 63)
    assert result.arrays["topomap/contribution"] == pytest.approx(result.arrays["topomap/contribution_by_time"].sum(0))
    assert "step" in result.tables["log"].columns
    assert load_aligner(folder).network == best
    assert "simulation" in report.render([("run", result)])


def test_a_stopped_run_goes_on_with_the_fit_that_was_stopped(
    embeddings: Path, stored: tuple[Path, list], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, options = Source("phantom_eeg", embeddings, n_train=120), SensorOptions(("linear", "nice"), epochs=2, repeats=8)
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)  # a state after every epoch
    said: list[tuple[str, float | None]] = []

    def stop(text: str, share: float | None = None) -> None:
        if (text, share) == ("training nice", 1.0):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_align_sensors(source, tmp_path, options, tell=stop)
    (unfinished,) = (tmp_path / "unfinished").iterdir()
    assert {path.name for path in unfinished.iterdir()} == {"linear", "nice"}
    folder, _ = run_align_sensors(source, tmp_path, options, tell=lambda *told: said.append(told))
    assert [told for told in said if told[0].startswith("training")] == [("training nice", 1.0)]
    assert not unfinished.exists()
    one, two = (store.load_result(path) for path in (stored[0], folder))
    assert np.array_equal(one.arrays["embedding/brain"], two.arrays["embedding/brain"])
    scores = [{k: v for k, v in result.metrics.items() if "seconds" not in k} for result in (one, two)]
    assert scores[0] == scores[1]


def test_a_stored_run_embeds_its_recording_as_it_was_scored(stored: tuple[Path, list], tmp_path: Path) -> None:
    folder, rows = embed_sensor_run(stored[0], tmp_path, tell=silent)
    found, aligned = store.load_result(folder), store.load_result(stored[0])
    place = {name: i for i, name in enumerate(found.arrays["ids"])}
    own = [place[name] for name in aligned.arrays["ids"]]
    assert np.allclose(found.arrays["embedding/brain"][own], aligned.arrays["embedding/brain"], atol=1e-5)
    assert len(found.tables["rows"]) == found.metrics["embed/rows"] == 120 + 24
    assert {row["metric"] for row in rows} == {"embed/rows", "embed/dimensions"}


def test_a_file_of_epochs_is_embedded_row_by_row(stored: tuple[Path, list], tmp_path: Path) -> None:
    import mne

    model = load_aligner(stored[0])
    data = np.random.default_rng(0).normal(size=(5, 63, 250)).astype(np.float32)  # whitened, as the phantom is
    info = mne.create_info(list(model.channels_), 250.0, "eeg")
    events = np.column_stack([np.arange(5), np.zeros(5, int), [1, 2, 1, 2, 1]])
    epochs = mne.EpochsArray(data, info, events, tmin=model.times_[0], event_id={"cat": 1, "dog": 2}, verbose=False)
    epochs.save(tmp_path / "some-epo.fif", verbose=False)
    folder, _ = embed_sensor_run(stored[0], tmp_path, source=Source("phantom_eeg", tmp_path / "some-epo.fif"), tell=silent)
    found = store.load_result(folder)
    assert found.arrays["ids"].tolist() == ["cat", "dog", "cat", "dog", "cat"]
    assert np.allclose(found.arrays["embedding/brain"], model.transform(data), atol=1e-3)
    mne.EpochsArray(data * 1e-6, info, events, tmin=model.times_[0], verbose=False).save(
        tmp_path / "volts-epo.fif", verbose=False
    )
    with pytest.raises(DataError, match="looks like volts or tesla"):
        embed_sensor_run(stored[0], tmp_path, source=Source("phantom_eeg", tmp_path / "volts-epo.fif"), tell=silent)
    (tmp_path / "none-epo.fif").write_bytes(b"nothing")
    with pytest.raises(DataError, match="no file of epochs"):
        embed_sensor_run(stored[0], tmp_path, source=Source("phantom_eeg", tmp_path / "none-epo.fif"), tell=silent)


def test_a_training_goes_on_from_a_stored_run(network: tuple[Path, list], embeddings: Path, tmp_path: Path) -> None:
    source = Source("phantom_eeg", embeddings, n_train=120)
    options = SensorOptions(("nice",), epochs=1, repeats=8, start=str(network[0]))
    folder, _ = run_align_sensors(source, tmp_path, options, tell=silent)
    plain, _ = run_align_sensors(source, tmp_path, replace(options, start=None), tell=silent)
    first = [store.load_result(path).tables["log"]["validation_loss"].iloc[0] for path in (network[0], folder, plain)]
    assert first[2] == first[0]  # the same start at random
    assert first[1] < first[0]  # one that has learnt
    with pytest.raises(DataError, match="keeps 'nice'"):
        run_align_sensors(source, tmp_path, replace(options, encoders=("linear",)), tell=silent)
    with pytest.raises(DataError, match="keeps no model"):
        run_align_sensors(source, tmp_path, replace(options, start=str(tmp_path)), tell=silent)


def test_windows_rise_with_the_signal_and_not_before(stored: tuple[Path, list]) -> None:
    table = store.load_result(stored[0]).tables["time_windows"]
    sliding = table[table["kind"] == "sliding"].set_index("start")
    assert sliding["twoway"].loc[0.1:0.3].min() > sliding["twoway.low"].loc[0.0] > 0
    assert sliding["twoway"].loc[0.1:0.3].max() > 0.75  # 8 repetitions, sources from 90 ms on
    assert sliding["twoway"].loc[0.0] < 0.7


def test_images_and_centres_are_two_galleries(embeddings: Path, tmp_path: Path) -> None:
    options = SensorOptions(("linear",), Protocol(gallery="concept"), epochs=1, repeats=2)
    folder, _ = run_align_sensors(Source("phantom_eeg", embeddings, n_train=60), tmp_path, options, tell=silent)
    result = store.load_result(folder)
    assert result.config["gallery_layer"] == "concept"
    truth = np.load(embeddings / "center_clip.npy")
    cosine = result.arrays["embedding/image"] @ truth.T / np.linalg.norm(truth, axis=1)
    assert np.diag(cosine) == pytest.approx(1.0, abs=1e-5)


def test_across_leaves_one_out_and_shares_the_epochs(embeddings: Path, tmp_path: Path) -> None:
    options = SensorOptions(("linear",), Protocol("across", "2"), epochs=1, repeats=2)
    folder, _ = run_align_sensors(Source("phantom_eeg", embeddings, n_train=60), tmp_path, options, tell=silent)
    config = store.load_result(folder).config
    assert config["protocol"] == {"kind": "across", "subject": "2", "gallery": "image"}
    assert preset("phantom_eeg", "nice", SensorOptions(), subjects=3).epochs == 10


def test_drawn_training_images_hold_no_test_image(embeddings: Path) -> None:
    seen = phantom_eeg.shown(embeddings, n_train=300)
    train = seen.images["image"][:300]
    assert np.linalg.norm(train, axis=1) == pytest.approx(1.0, abs=1e-5)
    changed = np.load(embeddings / "clip_feature_maps_test.npy")[::-1] * 2
    other = embeddings.parent / "other"
    other.mkdir()
    np.save(other / "clip_feature_maps_test.npy", changed)
    np.save(other / "center_clip.npy", np.load(embeddings / "center_clip.npy"))
    assert np.array_equal(phantom_eeg.shown(other, n_train=300).images["image"][:300], train)


def test_presets_are_those_of_the_paper() -> None:
    none = SensorOptions()
    assert preset("things_eeg2", "neuroalign", none) == THINGS_EEG2
    assert preset("things_eeg2", "nice", none) == NICE_TRAINING
    assert preset("things_eeg2", "unfiltered", none) == UNFILTERED
    assert preset("things_eeg2", "nice", SensorOptions(batch=64, precision="bfloat16")).precision == "bfloat16"
    assert preset("things_meg", "neuroalign", none) == THINGS_MEG
    assert preset("things_meg", "atm", none).epochs == 100
    assert preset("things_eeg2", "neuroalign", SensorOptions(epochs=7, leave_out=("guidance",))).epochs == 7
    assert not preset("things_eeg2", "neuroalign", SensorOptions(leave_out=("guidance",))).guidance


def test_what_is_a_sensor_alignment() -> None:
    assert is_sensors("phantom_eeg", None)
    assert is_sensors("phantom", ["sensors"])
    assert is_sensors("phantom", ["neuroalign"])
    assert not is_sensors("phantom", ["linear", "volume"])
    assert not is_sensors("nsd", None)


def test_prompts_say_more_and_more() -> None:
    from brainlens.datasets import phantom

    scenes = phantom.scenes(n_train=5, n_test=2)
    said = [[captions[0] for captions in prompted(scenes, prompt)] for prompt in ("label", "A", "B", "C")]
    for label, a, b, c in zip(*said):
        assert a == f"a picture of a {label}"
        assert set(label.split()) <= set(b.split()) <= set(c.split())
        assert len(b.split()) < len(c.split())
    with pytest.raises(DataError, match="label, A, B, C"):
        prompted(scenes, "D")


def test_without_captions_neuroalign_says_what_to_leave_out(embeddings: Path, tmp_path: Path) -> None:
    source = Source("phantom_eeg", embeddings, n_train=60)
    with pytest.raises(DataError, match="--without guidance"):
        run_align_sensors(source, tmp_path, SensorOptions(("neuroalign",), epochs=1, repeats=1), tell=silent)
    options = SensorOptions(("sensors",), epochs=1, repeats=1, leave_out=("guidance", "adjustment"))
    folder, _ = run_align_sensors(source, tmp_path, options, tell=silent)
    result = store.load_result(folder)
    assert result.config["encoder"] == "neuroalign"
    assert not [name for name in result.tables["log"].columns if name.startswith("weight_")]  # fixed, so there is nothing to draw


def test_categories_have_a_ceiling_and_a_model_without_guidance(tmp_path: Path) -> None:
    source = Source("phantom_eeg", n_train=40, n_test=24)
    folder, _ = run_align_sensors(
        source, tmp_path, SensorOptions(("neuroalign",), epochs=1, repeats=2, ablation=True), tell=silent
    )
    result = store.load_result(folder)
    share = {
        name: result.metrics[f"category/{name}/nearest_share"]
        for name in ("before", "without_guidance", "after", "target", "picture", "caption")
    }
    assert result.metrics["category/after/nearest_share.ceiling"] == share["target"]
    for name, value in share.items():
        low, high = (result.metrics[f"category/{name}/nearest_share.{side}"] for side in ("low", "high"))
        assert low <= value <= high, name
    groups = result.arrays["groups"]
    assert share["without_guidance"] == nearest_share(result.arrays["embedding_without_guidance"], groups)[""]
    assert share["target"] == nearest_share(result.arrays["embedding/image"], groups)[""]
    page = report.render([("run", result)])
    assert f"{100 * share['target']:.1f} %" in page
    assert "which a perfect alignment would give" in page


@pytest.mark.parametrize("subject", [1, "1", "01", "sub-01", "P1"])
def test_subjects_have_one_number(subject: str | int) -> None:
    assert number_of(subject, [1, 2]) == 1
    with pytest.raises(DataError, match="1, 2"):
        number_of("sub-03", [1, 2])


@pytest.mark.parametrize("method", METHODS)
def test_channels_of_a_stored_run_are_attributed(network: tuple[Path, list], method: str, tmp_path: Path) -> None:
    assert is_sensor_run(network[0])
    folder, _ = run_attribute_sensors(network[0], tmp_path, method=method, tell=silent)
    found, aligned = store.load_result(folder), store.load_result(network[0])
    assert found.arrays["contribution"].shape == (63, 250)
    assert found.arrays["topomap/contribution"] == pytest.approx(found.arrays["contribution"].sum(1), abs=1e-9)
    if method == "gradient_x_input":  # the weights came back as they were
        assert found.arrays["topomap/contribution"] == pytest.approx(aligned.arrays["topomap/contribution"], abs=1e-6)


def test_deeplift_and_integrated_gradients_agree_on_what_a_decoder_adds(network: tuple[Path, list], tmp_path: Path) -> None:
    maps = []
    for method in ("integrated_gradients", "deeplift"):
        folder, _ = run_attribute_sensors(network[0], tmp_path, method=method, tell=silent)
        maps.append(np.asarray(store.load_result(folder).arrays["contribution"]))
    assert np.corrcoef(maps[0].ravel(), maps[1].ravel())[0, 1] > 0.8
    with pytest.raises(DataError, match="deeplift"):
        run_attribute_sensors(network[0], tmp_path, method="rise", tell=silent)


@pytest.mark.realdata
def test_a_real_recording_has_a_p3_over_the_parietal_lobe(test_data: Path, tmp_path: Path) -> None:
    folder, rows = run_epochs(Source("eeglab_visual", test_data / "eeglab_visual"), tmp_path, tell=silent)
    result = store.load_result(folder)
    assert result.metrics["epochs/square/n"] == 80
    assert result.metrics["epochs/square/baseline_ratio"] > 3
    assert 300 < result.metrics["epochs/square/peak_ms"] < 500
    assert result.arrays["topomap/evoked_by_time"].shape == (8, 30)
    assert "Not drawn" not in report.render([("run", result)])
    shown = {row["metric"]: row for row in rows}
    (channel,) = result.tables["peaks"]["channel"]
    assert (shown["epochs/square/peak"]["unit"], shown["epochs/square/peak"]["channel"]) == ("uV", channel)
    assert (shown["epochs/square/peak_ms"]["unit"], shown["epochs/square/baseline_ratio"]["unit"]) == ("ms", "")


@pytest.mark.realdata
@pytest.mark.parametrize("gallery", ["image", "concept"])
def test_real_embeddings_give_a_200_way_run(test_data: Path, tmp_path: Path, gallery: str) -> None:
    source = Source("phantom_eeg", test_data / "things", n_train=300)
    options = SensorOptions(("linear",), Protocol(gallery=gallery), epochs=8, repeats=20)
    folder, _ = run_align_sensors(source, tmp_path, options, tell=silent)
    metrics = store.load_result(folder).metrics
    assert metrics["retrieval/brain->image/gallery"] == 200
    assert metrics["retrieval/brain->image/top5.low"] > metrics["retrieval/brain->image/chance5"]
