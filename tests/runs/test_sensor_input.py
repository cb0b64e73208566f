"""What is wrong with EEG or MEG that is given to the command line is one line that names it."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from brainlens import store
from brainlens.datasets import things_eeg2
from brainlens.datasets.sensors import _joined
from brainlens.models.sensors.stored import load_aligner

Say = Callable[..., tuple[int, str, str]]
NAMES = ["P7", "Oz", "Cz", "P8", "O1", "O2"]
COUNT = {"training": (16, 3), "test": (6, 4)}  # images, repetitions
SAMPLES = 100


def content(part: str, subject: int, **change: object) -> dict[str, object]:
    """The epochs of a part as released: noise and a response that depends on the image."""
    images, repeats = COUNT[part]
    rng = np.random.default_rng([subject, part == "test"])
    shape = (images, repeats, len(NAMES), SAMPLES)
    data = rng.normal(size=shape) + np.linspace(-1, 1, images)[:, None, None, None]
    times = np.arange(SAMPLES) / 100
    return {"preprocessed_eeg_data": data.astype(np.float32), "ch_names": list(NAMES), "times": times} | change


def write(folder: Path, subject: int = 1, part: str = "training", **change: object) -> None:
    place = folder / f"sub-{subject:02d}"
    place.mkdir(parents=True, exist_ok=True)
    (place / f"preprocessed_eeg_{part}.npy").write_bytes(pickle.dumps(content(part, subject, **change), protocol=4))


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A THINGS-EEG2 folder with two subjects, 16 training and 6 test images."""
    folder = tmp_path_factory.mktemp("things_eeg2")
    rng = np.random.default_rng(0)
    meta: dict[str, list[str]] = {}
    for short, part in (("train", "training"), ("test", "test")):
        n = COUNT[part][0]
        names = [f"{short}{chr(97 + i)}" for i in range(n)]
        meta |= {
            f"{short}_img_concepts": [f"{i:05d}_{name}" for i, name in enumerate(names)],
            f"{short}_img_concepts_THINGS": [f"{2 * i:05d}_{name}" for i, name in enumerate(names)],
            f"{short}_img_files": [f"{name}_01b.jpg" for name in names],
        }
        for i, name in enumerate(names):
            place = folder / "image_set" / f"{part}_images" / f"{i:05d}_{name}"
            place.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 255, (70, 70, 3), dtype=np.uint8)).save(place / f"{name}_01b.jpg")
    np.save(folder / "image_set" / "image_metadata.npy", meta, allow_pickle=True)
    for subject in (1, 2):
        for part in COUNT:
            write(folder, subject, part)
    return folder


@pytest.fixture
def given(things: Path, tmp_path: Path) -> Path:
    """A copy of the folder that a test may spoil."""
    return Path(shutil.copytree(things, tmp_path / "things"))


ALIGN = ("align", "--dataset", "things_eeg2", "--encoder", "nice", "--epochs", "1")


def align(given: Path, say: Say, *more: str) -> tuple[int, str, str]:
    return say(*ALIGN, "--data", str(given), "--runs", str(given / "runs"), *more)


class Evil:
    def __reduce__(self) -> tuple:
        return (open, ("evil-was-here", "w"))


def flat() -> np.ndarray:
    data = np.array(content("training", 1)["preprocessed_eeg_data"])
    data[:, :, 2] = 0.5
    return data


def missing() -> np.ndarray:
    data = np.array(content("training", 1)["preprocessed_eeg_data"])
    data[3, 1, 4, 50] = np.nan
    return data


BAD: dict[str, tuple[Callable[[Path], object], tuple[str, ...], str]] = {
    "channels that a subject lacks": (
        lambda f: [write(f, 2, part, ch_names=["X1", *NAMES[1:]]) for part in COUNT],
        ("--protocol", "across"),
        "1 channels are missing: ['P7']",
    ),
    "flat channel": (lambda f: write(f, preprocessed_eeg_data=flat()), (), "1 channels are flat: ['Cz']"),
    "NaN channel": (lambda f: write(f, preprocessed_eeg_data=missing()), (), "1 channels hold NaN or infinite values: ['O1']"),
    "fewer times than samples": (lambda f: write(f, times=np.arange(7.0)), (), "7 times for 100 samples"),
    "parts cut otherwise": (lambda f: write(f, times=np.arange(SAMPLES) / 50), (), "other times"),
    "a pickle that would run": (lambda f: write(f, ch_names=Evil()), (), "blocked"),
    "images of another release": (
        lambda f: write(f, preprocessed_eeg_data=np.zeros((5, 3, 6, SAMPLES), np.float32)),
        (),
        "16 train images, the epochs have 5",
    ),
    "centres of other images": (
        lambda f: np.save(f / "center_clip.npy", np.ones((3, 64), np.float32)),
        ("--gallery", "concept"),
        "does not fit 6 test images",
    ),
    "no centres": (lambda f: None, ("--gallery", "concept"), "center_clip.npy"),
    "fewer repetitions than asked": (lambda f: None, ("--repeats", "9"), "9 repetitions are asked for, a test image has 4"),
    "a subject that is not there": (lambda f: None, ("--subject", "7"), "subjects 1, 2"),
    "across with one subject": (lambda f: shutil.rmtree(f / "sub-02"), ("--protocol", "across"), "2 subjects or more"),
    "one part in volts": (
        lambda f: write(f, 1, "test", preprocessed_eeg_data=np.array(content("test", 1)["preprocessed_eeg_data"]) * 1e-5),
        (),
        "looks like volts, not noise-normalised units; say so by --option unit=V",
    ),
    "a missing part": (lambda f: (f / "sub-01" / "preprocessed_eeg_test.npy").unlink(), (), "preprocessed_eeg_test.npy"),
    "a missing image": (
        lambda f: next((f / "image_set/test_images").rglob("*.jpg")).unlink(), (), "the images are not in",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_bad_recordings_are_one_line(given: Path, say: Say, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil, more, text = BAD[kind]
    monkeypatch.chdir(given)
    spoil(given)
    code, out, err = align(given, say, *more)
    assert code == 2, err
    assert out == ""
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert text in err
    assert not (given / "evil-was-here").exists()


def test_a_good_folder_is_aligned_within_and_across(given: Path, say: Say) -> None:
    code, out, err = align(given, say, "--repeats", "2", "--subject", "sub-02")
    assert (code, err) == (0, "")
    assert "retrieval/brain->image/top1" in out
    (folder,) = (given / "runs").glob("align-*")
    result = store.load_result(folder)
    assert result.metrics["data/test_repeats"] == 2
    assert result.config["protocol"]["subject"] == "2"
    assert result.config["training"]["batch"] == 1000  # the preset of NICE
    code, _, err = align(given, say, "--protocol", "across", "--encoder", "linear")
    assert (code, err) == (0, "")


def test_channels_in_another_order_and_longer_times_change_nothing(given: Path, say: Say) -> None:
    assert align(given, say)[0] == 0
    (first,) = (given / "runs").glob("align-*")
    order = [3, 1, 0, 5, 2, 4]
    data = np.array(content("test", 1)["preprocessed_eeg_data"])[:, :, order]
    write(given, 1, "test", preprocessed_eeg_data=data, ch_names=[NAMES[i] for i in order], times=np.arange(-20, SAMPLES) / 100)
    shutil.move(given / "runs", given / "before")
    with pytest.warns(UserWarning, match="120 times for 100 samples"):
        code, _, err = align(given, say)
    assert code == 0, err
    (second,) = (given / "runs").glob("align-*")
    before, after = (store.load_result(path) for path in (given / "before" / first.name, second))
    assert np.array_equal(before.arrays["embedding/brain"], after.arrays["embedding/brain"])


def test_a_stored_run_refuses_another_rate_and_other_channels(given: Path, say: Say) -> None:
    assert align(given, say)[0] == 0
    (run,) = (given / "runs").glob("align-*")
    assert say("attribute", str(run), "--method", "deeplift", "--runs", str(given / "runs"))[0] == 0
    for change, text in (
        ({"times": np.arange(SAMPLES) / 50}, "was made from another recording"),
        ({"ch_names": ["X1", *NAMES[1:]]}, "was made from another recording"),
    ):
        for part in COUNT:
            write(given, 1, part, **change)
        code, out, err = say("attribute", str(run), "--runs", str(given / "runs"))
        assert (code, out) == (2, "")
        assert text in err
        assert len(err.splitlines()) == 1


def test_volts_become_microvolts_where_the_user_says_so(given: Path, say: Say) -> None:
    assert align(given, say)[0] == 0
    (first,) = (given / "runs").glob("align-*")
    shutil.move(given / "runs", given / "before")
    for part in COUNT:
        write(given, 1, part, preprocessed_eeg_data=np.array(content(part, 1)["preprocessed_eeg_data"]) * 1e-5)
    code, _, err = align(given, say)
    assert code == 2
    assert "say so by --option unit=V" in err
    code, _, err = align(given, say, "--option", "unit=uV")  # a wrong word is as much an error
    assert code == 2
    assert "--option unit=V" in err
    code, _, err = align(given, say, "--option", "unit=V")
    assert code == 0, err
    (second,) = (given / "runs").glob("align-*")
    before, after = (store.load_result(path) for path in (given / "before" / first.name, second))
    scales = [load_aligner(path).decoder_.scale[1].numpy() for path in (given / "before" / first.name, second)]
    assert (scales[0] == 1).all()  # whitened as released: taken as it is
    deviation = content("training", 1)["preprocessed_eeg_data"].mean(1).std((0, 2))[:, None]
    assert scales[1] == pytest.approx(10 * deviation, rel=0.15)  # microvolts, but for the images that are held back
    assert after.arrays["embedding/brain"].shape == before.arrays["embedding/brain"].shape


def test_joined_subjects_are_read_from_where_they_lie(things: Path, tmp_path: Path) -> None:
    parts = []
    for subject in (1, 2):
        responses = things_eeg2.load(things, subject=subject, cache=tmp_path).responses
        parts.append(responses)
    turned = parts[1].columns(np.array([4, 2, 0, 1, 5, 3]))
    joined = _joined([parts[0], turned])
    assert isinstance(joined.data, store.LazyRows)
    assert np.array_equal(joined.data, np.concatenate([part.data for part in parts]))
    assert joined.trials["subject"].tolist() == ["1"] * len(parts[0]) + ["2"] * len(parts[1])


@pytest.mark.parametrize(
    "arguments, thing, way",
    [
        (("--dataset", "nsd"), "'nsd'", "eeglab_visual, things_eeg2, things_meg"),
        ((), "'epochs' needs its folder: give it", "--data"),
        (("--data", "empty"), "--data is the folder", "--dataset NAME"),
        (("--dataset", "eeglab_visual", "--data", "empty"), "empty", "eeglab_data.set"),
        (("--dataset", "things_eeg2", "--data", "empty"), "empty", "sub-01"),
        (("--dataset", "things_eeg2", "--data", "nowhere"), "'nowhere'", "name the one that holds the recording"),
    ],
)
def test_epochs_of_what_is_no_recording_says_what_is_missing_and_writes_nothing(
    say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], thing: str, way: str
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    code, out, err = say("epochs", *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert thing in err
    assert way in err
    assert not [place for place in tmp_path.rglob("*") if place.is_file()]


def test_epochs_of_a_things_folder_have_an_evoked_response(given: Path, say: Say) -> None:
    runs = given / "runs"
    code, out, err = say("epochs", "--dataset", "things_eeg2", "--data", str(given), "--runs", str(runs))
    assert (code, err) == (0, "")
    assert "epochs/train/peak_ms" in out
    (folder,) = runs.glob("epochs-*")
    result = store.load_result(folder)
    expected = np.array(content("training", 1)["preprocessed_eeg_data"]).reshape(-1, 6, SAMPLES).mean(0)
    assert result.arrays["evoked/train"] == pytest.approx(expected, abs=2e-3)
