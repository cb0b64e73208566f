"""What holds for every dataset: facts, a clear way in, and photographs whose patterns come from dissimilarities."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from scipy.ndimage import binary_fill_holes
from scipy.spatial.distance import squareform

from brainlens import datasets
from brainlens.cli import main
from brainlens.datasets import digits69, eeglab_visual, images92
from brainlens.types import DataError


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_dataset_states_its_facts_and_loads_by_name(name):
    facts = datasets.facts(name)
    assert facts["name"] == name
    for key in ("title", "licence", "citation"):
        assert isinstance(facts[key], str)
        assert facts[key]
    module = datasets.module(name)
    assert module.__doc__
    assert module.load.__doc__
    later = list(inspect.signature(module.load).parameters.values())[1:]
    assert all(p.kind == p.KEYWORD_ONLY for p in later)
    # how many scenes there are, and what kind of brain sees them, where it lies; captions that a recording keeps apart; how a
    # recording is cut and cleaned; what a folder of BIDS may hold twice
    more = {"phantom": 9, "phantom_eeg": 1, "nsd": 2, "epochs": 3, "bids": 1}.get(name, 0)
    assert len(later) <= 7 + more


@pytest.mark.parametrize("name", [n for n in datasets.DATASETS if n != "phantom"])
def test_an_empty_folder_says_what_is_missing(tmp_path, name):
    with pytest.raises(DataError) as caught:
        datasets.load(name, tmp_path)
    assert len(str(caught.value).splitlines()) == 1
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(DataError, match="is not found"):
        datasets.load(name, tmp_path / "nowhere")
    with pytest.raises(DataError, match="no option 'colour'"):
        datasets.load(name, tmp_path, colour="red")


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_a_warning_of_a_drawn_test_names_options_that_there_are(name):
    """Who calls `with_split` warns of --option test= and draw=, and must have both."""
    draws = "with_split(" in inspect.getsource(datasets.module(name))
    assert not draws or {"test", "draw"} <= set(datasets.options(name))


@pytest.mark.parametrize(
    "verb, name, said",
    [
        ("encode", "epochs", "encode reads fMRI, and epochs is EEG; it is read by decode, align, attribute"),
        ("describe", "things_meg", "describe reads fMRI, and things_meg is MEG"),
        ("decode", "folder", "decode reads EEG and MEG, and folder is fMRI; it is read by encode"),
    ],
)
def test_a_verb_for_another_kind_of_recording_says_who_reads_it(tmp_path, monkeypatch, capsys, verb, name, said):
    monkeypatch.setattr("sys.argv", ["brainlens", verb, "--dataset", name, "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 2
    assert said in capsys.readouterr().err


def test_unknown_names_list_the_known():
    with pytest.raises(DataError, match="haxby2001") as caught:
        datasets.load("haxby", ".")
    assert all(name in str(caught.value) for name in datasets.DATASETS)


@pytest.mark.parametrize("name", ["nsd", "algonauts2023", "things_eeg2", "things_meg", "nod"])
def test_what_cannot_be_fetched_says_where_to_ask(tmp_path, name):
    module = datasets.module(name)
    with pytest.raises(DataError, match=module.FACTS["url"]):
        module.fetch(tmp_path)


# --- images92


def test_patterns_give_back_their_dissimilarities():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 30))
    rdm = 1 - np.corrcoef(x)
    np.fill_diagonal(rdm, 0)
    patterns, negative = images92.responses_from_rdm((rdm + rdm.T) / 2)
    np.testing.assert_allclose(1 - patterns @ patterns.T, rdm, atol=1e-8)
    assert negative < 1e-10
    centred = x - x.mean(axis=1, keepdims=True)
    truth = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    u, _, vt = np.linalg.svd(truth.T @ np.pad(patterns, ((0, 0), (0, 30 - patterns.shape[1]))))
    np.testing.assert_allclose(truth @ (u @ vt), np.pad(patterns, ((0, 0), (0, 30 - patterns.shape[1]))), atol=1e-7)


def test_negative_eigenvalues_are_cut_and_reported():
    rdm = np.array([[0, 0.1, 1.9], [0.1, 0, 0.1], [1.9, 0.1, 0]])
    patterns, negative = images92.responses_from_rdm(rdm)
    values = np.linalg.eigvalsh(1 - rdm)
    assert negative == pytest.approx(-values[values < 0].sum() / np.abs(values).sum())
    assert negative > 0.1
    best = (np.linalg.eigh(1 - rdm)[1] * np.clip(values, 0, None)) @ np.linalg.eigh(1 - rdm)[1].T
    np.testing.assert_allclose(patterns @ patterns.T, best, atol=1e-12)


@pytest.mark.parametrize("rdm", [np.zeros((2, 3)), np.array([[0, 1.0], [2, 0]]), np.eye(3), np.full((2, 2), np.nan)])
def test_what_is_no_rdm_is_refused(rdm):
    with pytest.raises(DataError, match="RDM"):
        images92.responses_from_rdm(rdm)


@pytest.mark.realdata
def test_the_real_photographs_and_their_patterns(test_data):
    recording = images92.load(test_data / "images92")
    responses, stimuli = recording.responses, recording.stimuli
    assert len(stimuli) == images92.FACTS["images"]
    assert stimuli.images[0].shape == (175, 175, 3)
    rdms = images92.load_rdms(test_data / "images92")
    assert rdms["human"].shape == (images92.FACTS["subjects"] * images92.FACTS["sessions"], 92, 92)
    assert len(squareform(rdms["monkey"][0])) == images92.FACTS["pairs"]
    rebuilt = 1 - responses.data.astype(float) @ responses.data.T.astype(float)
    close = np.corrcoef(squareform(rebuilt, checks=False), squareform(rdms["human"].mean(axis=0)))[0, 1]
    assert close > 0.99
    monkey = images92.load(test_data / "images92", source="monkey", rank=10).responses
    assert monkey.data.shape == (92, 10)
    with pytest.raises(DataError, match="subject4"):
        images92.load(test_data / "images92", source="mouse")


@pytest.mark.parametrize("content", [b"", b"junk", b"PK\x03\x04junk"])
def test_a_damaged_npz_is_one_line(tmp_path, content):
    (tmp_path / images92.FILE).write_bytes(content)
    with pytest.raises(DataError, match=images92.FILE):
        images92.load(tmp_path)


def test_an_npz_with_objects_is_refused(tmp_path):
    np.savez(tmp_path / images92.FILE, **{key: np.array([{"a": 1}], dtype=object) for key in images92.KEYS})
    with pytest.raises(DataError, match="damaged or not a plain"):
        images92.load(tmp_path)


# --- eeglab_visual


@pytest.mark.realdata
def test_the_real_eeg_becomes_epochs_with_an_evoked_response(test_data):
    responses = eeglab_visual.load(test_data / "eeglab_visual").responses
    facts = eeglab_visual.FACTS
    assert responses.data.shape[0] == facts["targets"]
    assert responses.data.shape[1] == facts["channels"] - len(eeglab_visual.EYES)
    assert responses.times is not None
    assert round(1 / np.diff(responses.times).mean()) == facts["rate_hz"]
    baseline = responses.data[:, :, responses.times <= 0].mean(axis=2)
    assert np.abs(baseline).max() < 1e-3  # microvolts
    evoked = responses.data.mean(axis=0)
    late = (responses.times > 0.25) & (responses.times < 0.6)
    pz = list(responses.units["channel"]).index("Pz")
    assert evoked[pz, late].max() > 3 * evoked[pz, responses.times < 0].std()
    with pytest.raises(DataError, match="square"):
        eeglab_visual.load(test_data / "eeglab_visual", event="circle")


@pytest.mark.realdata
def test_a_cut_recording_is_noticed(test_data, tmp_path):
    import shutil

    for name in ("eeglab_data.set", "eeglab_data.fdt"):
        shutil.copy(test_data / "eeglab_visual" / name, tmp_path)
    data = (tmp_path / "eeglab_data.fdt").read_bytes()
    (tmp_path / "eeglab_data.fdt").write_bytes(data[:-1280])
    with pytest.raises(DataError, match="fetch it again"):
        eeglab_visual.load_raw(tmp_path)


# --- digits69


def digits_file(folder, **change):
    """The file in small: 12 responses of 5 voxels, the last 2 for the test; change: other arrays, None leaves one out."""
    rng = np.random.default_rng(0)
    content = {
        "bold": rng.normal(size=(12, 5)).astype(np.float32),
        "images": rng.integers(0, 255, (12, 28, 28)).astype(np.uint8),
        "label": np.tile([1, 2], 6).astype(np.uint8),
        "test": np.arange(12) >= 10,
    } | change
    np.savez(folder / digits69.FILE, **{key: value for key, value in content.items() if value is not None})
    return content


def test_digits_are_standardised_on_training_trials_alone(tmp_path):
    bold = digits_file(tmp_path)["bold"]
    recording = digits69.load(tmp_path)
    train = recording.responses.where(split="train").data
    np.testing.assert_allclose(train.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(train.std(axis=0), 1, atol=1e-5)
    expected = (bold[10:] - bold[:10].mean(axis=0)) / bold[:10].std(axis=0)
    np.testing.assert_allclose(recording.responses.where(split="test").data, expected, atol=1e-5)
    np.testing.assert_array_equal(digits69.load(tmp_path, standardise=False).responses.data, bold)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"label": None}, "has no 'label'"),
        ({"label": np.arange(12)}, r"label is \[1, 2\]"),
        ({"test": np.zeros(12, bool)}, "test bool with both values"),
        ({"test": np.ones(12)}, "test bool with both values"),
        ({"images": np.zeros((11, 28, 28), np.uint8)}, "must fit"),
        ({"bold": np.zeros((12, 5, 2), np.float32)}, "must fit"),
        ({"bold": np.full((12, 5), np.nan, np.float32)}, "NaN or infinity in 60 values"),
        ({"bold": np.ones((12, 5), np.float32)}, "5 voxels never vary"),
    ],
)
def test_a_wrong_file_of_digits_is_one_line(tmp_path, change, message):
    digits_file(tmp_path, **change)
    with pytest.raises(DataError, match=message) as caught:
        digits69.load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.realdata
def test_the_real_digits_have_the_published_split(test_data):
    recording = digits69.load(test_data / "digits69")
    facts, stimuli = digits69.FACTS, recording.stimuli
    assert recording.responses.data.shape == (facts["images"], facts["voxels"])
    assert stimuli.images[0].shape == (facts["pixels"], facts["pixels"], 3)
    split = recording.responses.trials["split"]
    assert (split == "test").sum() == facts["test_images"]
    assert (split == "train").sum() == facts["images"] - facts["test_images"]
    counts = stimuli.table.groupby(["split", "category"]).size().to_dict()
    assert counts == {("train", "6"): 45, ("train", "9"): 45, ("test", "6"): 5, ("test", "9"): 5}
    six = (stimuli.table["category"] == "6").to_numpy()
    ink = stimuli.images[..., 0] > 100
    holes = np.stack([binary_fill_holes(one) & ~one for one in ink])
    height = np.array([np.argwhere(one)[:, 0].mean() if one.any() else np.nan for one in holes])
    centre = np.array([np.argwhere(one)[:, 0].mean() for one in ink])
    below = (height > centre)[np.isfinite(height)]  # some loops are filled with ink
    assert np.isfinite(height).sum() > 60
    # upright, a six has its loop below and a nine above: true of 77 of 78, and of 60 were the pictures on their side
    assert (below == six[np.isfinite(height)]).mean() > 0.95
