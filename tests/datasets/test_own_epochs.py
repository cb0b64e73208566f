"""EEG and MEG of one's own: every way to store a recording gives the same epochs, and every mistake is one line."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import mne
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlens import datasets, store
from brainlens.align.sensor_options import DEFAULT, QUICK, SensorOptions, suited
from brainlens.datasets.source import Source
from brainlens.encode.repeats import images_apart
from brainlens.encode.run_decode import first_target, run_decode
from brainlens.encode.time_decoding import OverTime
from brainlens.plots.decoding import over_time
from brainlens.report import build
from brainlens.types import DataError, Responses, Sensors

NAMES = ["O1", "Oz", "O2", "Cz"]
RATE = 100.0
ONSETS = np.arange(1.0, 61.0, 1.5)  # 40 events


def signal(seed: int = 0) -> np.ndarray:
    """62 s in uV; Oz rises by 8 uV from 100 to 300 ms after every second event."""
    data = np.random.default_rng(seed).normal(0, 5, (4, 6200))
    for onset in ONSETS[::2]:
        data[1, round((onset + 0.1) * RATE) : round((onset + 0.3) * RATE)] += 8
    return data


def table() -> pd.DataFrame:
    kinds = ["face" if i % 2 == 0 else "house" for i in range(len(ONSETS))]
    return pd.DataFrame({"onset": ONSETS, "stimulus": [f"{i % 20:02d}" for i in range(len(ONSETS))], "condition": kinds})


def recording() -> mne.io.Raw:
    return mne.io.RawArray(signal() * 1e-6, mne.create_info(NAMES, RATE, "eeg"), verbose="error")


def as_fif(folder: Path) -> None:
    recording().save(folder / "rec_raw.fif", verbose="error")
    table().to_csv(folder / "events.csv", index=False)


def as_cropped_fif(folder: Path) -> None:
    padded = np.concatenate([np.zeros((4, 700)), signal()], axis=1) * 1e-6
    raw = mne.io.RawArray(padded, mne.create_info(NAMES, RATE, "eeg"), verbose="error").crop(7.0, None)
    raw.save(folder / "rec_raw.fif", verbose="error")
    table().to_csv(folder / "events.csv", index=False)


def as_csv(folder: Path) -> None:
    frame = pd.DataFrame({"time": np.arange(6200) / RATE, **dict(zip(NAMES, signal(), strict=True))})
    frame.to_csv(folder / "recording.csv", index=False)
    table().to_csv(folder / "events.csv", index=False)


def as_brainvision(folder: Path) -> None:
    """Multiplexed float32 in uV with its header and markers, as the format's description has it."""
    signal().T.astype("<f4").tofile(folder / "rec.eeg")
    channels = "\n".join(f"Ch{i}={name},,1,µV" for i, name in enumerate(NAMES, 1))
    (folder / "rec.vhdr").write_text(
        "Brain Vision Data Exchange Header File Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile=rec.eeg\n"
        "MarkerFile=rec.vmrk\n"
        f"DataFormat=BINARY\nDataOrientation=MULTIPLEXED\nNumberOfChannels=4\nSamplingInterval={1e6 / RATE:.0f}\n"
        f"[Binary Infos]\nBinaryFormat=IEEE_FLOAT_32\n[Channel Infos]\n{channels}\n",
        encoding="utf-8",
    )
    marks = "\n".join(f"Mk{i}=Stimulus,S{i:3d},{round(onset * RATE) + 1},1,0" for i, onset in enumerate(ONSETS, 1))
    (folder / "rec.vmrk").write_text(
        f"Brain Vision Data Exchange Marker File, Version 1.0\n[Common Infos]\nCodepage=UTF-8\nDataFile=rec.eeg\n"
        f"[Marker Infos]\n{marks}\n",
        encoding="utf-8",
    )
    events = table().drop(columns="onset").assign(event=[f"Stimulus/S{i:3d}" for i in range(1, len(ONSETS) + 1)])
    events.to_csv(folder / "events.csv", index=False)


def as_triggers(folder: Path) -> None:
    codes = np.zeros((1, 6200))
    for i, onset in enumerate(ONSETS, 1):
        codes[0, round(onset * RATE) : round(onset * RATE) + 5] = i
    raw = recording()
    raw.add_channels([mne.io.RawArray(codes, mne.create_info(["STI"], RATE, "stim"), verbose="error")], force_update_info=True)
    raw.save(folder / "rec_raw.fif", verbose="error")
    table().drop(columns="onset").assign(event=range(1, len(ONSETS) + 1)).to_csv(folder / "events.csv", index=False)


def as_saved(folder: Path) -> None:
    events = np.column_stack([np.round(ONSETS * RATE).astype(int), np.zeros(40, int), np.ones(40, int)])
    metadata = table()[["stimulus", "condition"]]
    epochs = mne.Epochs(
        recording(), events, tmin=-0.2, tmax=0.8, baseline=(None, 0), metadata=metadata, preload=True, verbose="error"
    )
    epochs.save(folder / "rec-epo.fif", verbose="error")


def as_array(folder: Path) -> None:
    as_saved(folder)
    epochs = mne.read_epochs(folder / "rec-epo.fif", verbose="error")
    (folder / "rec-epo.fif").unlink()
    np.save(folder / "epochs.npy", epochs.get_data(copy=False) * 1e6)
    pd.DataFrame({"channel": NAMES}).to_csv(folder / "channels.csv", index=False)
    pd.DataFrame({"time": epochs.times}).to_csv(folder / "times.csv", index=False)
    table().drop(columns="onset").to_csv(folder / "trials.csv", index=False)


WAYS: list[Callable[[Path], None]] = [as_fif, as_cropped_fif, as_csv, as_brainvision, as_triggers, as_saved, as_array]


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    """Epochs by hand, -.2 to .8 s, less the mean of what lies before 0 (and at it, as MNE has it)."""
    data = signal()
    cut = np.stack([data[:, round(onset * RATE) - 20 : round(onset * RATE) + 81] for onset in ONSETS])
    return cut - cut[:, :, :21].mean(axis=2, keepdims=True)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_storing_gives_the_same_epochs(tmp_path: Path, way: Callable[[Path], None], expected: np.ndarray) -> None:
    way(tmp_path)
    responses, stimuli = datasets.load("epochs", tmp_path)
    np.testing.assert_allclose(responses.data, expected, atol=2e-3)
    assert responses.measure == "uV"
    assert responses.times[[0, -1]] == pytest.approx([-0.2, 0.8])
    assert list(responses.units["channel"]) == NAMES
    assert responses.trials["stimulus"].tolist() == table()["stimulus"].tolist()
    assert responses.trials["condition"].tolist() == table()["condition"].tolist()
    assert responses.trials["repeat"].tolist() == [1] * 20 + [2] * 20
    assert responses.trials["subject"].unique().tolist() == ["1"]
    assert len(stimuli) == 20


def test_channels_get_other_names_and_pictures_a_split(tmp_path: Path) -> None:
    as_fif(tmp_path)
    (tmp_path / "images").mkdir()
    for name in sorted(set(table()["stimulus"])):
        Image.new("RGB", (4, 4)).save(tmp_path / "images" / f"{name}.png")
    with pytest.warns(UserWarning, match="4 of 20 images are drawn for the test"):
        found = datasets.load("epochs", tmp_path, rename=("O1=PO7", "Cz=CPz"), window=(0.0, 0.5), band=(0.5, 30.0), rate=50.0)
    assert list(found.responses.units["channel"]) == ["PO7", "Oz", "O2", "CPz"]
    assert len(found.responses.times) == 26
    assert set(found.responses.trials["split"]) == {"train", "test"}


def test_channels_of_an_array_lie_where_their_table_says(tmp_path: Path) -> None:
    as_array(tmp_path)
    places = np.array([[-30.0, -90, 30], [0, -95, 30], [30, -90, 30], [0, 0, 100]])
    table_ = pd.DataFrame({"Channel": NAMES, **dict(zip("XYZ", places.T, strict=True))})
    table_.to_csv(tmp_path / "channels.csv", index=False)
    space = datasets.load("epochs", tmp_path).responses.space
    assert isinstance(space, Sensors)
    assert space.names.tolist() == NAMES
    np.testing.assert_allclose(space.positions, places / 1000)
    table_.assign(X=["", *places[1:, 0]]).to_csv(tmp_path / "channels.csv", index=False)
    assert datasets.load("epochs", tmp_path).responses.space is None


@pytest.mark.parametrize("way", [as_fif, as_csv, as_brainvision])
def test_channels_of_ten_twenty_names_without_places_get_the_standard_ones(tmp_path: Path, way: Callable[[Path], None]) -> None:
    way(tmp_path)
    space = datasets.load("epochs", tmp_path).responses.space
    assert isinstance(space, Sensors)
    assert space.names.tolist() == NAMES
    x, y, z = space.positions.T
    assert x[0] < x[1] < x[2]  # O1, Oz, O2 from left to right
    assert (y[:3] < y[3]).all()  # the back of the head
    assert z[3] == z.max()  # its top
    assert datasets.load("epochs", tmp_path, rename=("Cz=Q7",)).responses.space is None


def test_a_recording_of_bids_with_its_events_and_bad_channels(tmp_path: Path, expected: np.ndarray) -> None:
    as_fif(tmp_path)
    (tmp_path / "events.csv").unlink()
    shown = table().rename(columns={"stimulus": "stim_file", "condition": "trial_type"}).assign(duration=0.1)
    shown.loc[3, "stim_file"] = "n/a"
    shown.to_csv(tmp_path / "sub-01_task-view_events.tsv", sep="\t", index=False)
    status = pd.DataFrame({"name": NAMES, "status": ["good", "good", "bad", "good"]})
    status.to_csv(tmp_path / "sub-01_task-view_channels.tsv", sep="\t", index=False)
    with pytest.warns(UserWarning, match="1 of 40 events name no stim_file"), pytest.warns(UserWarning, match="left out: O2"):
        responses = datasets.load("epochs", tmp_path, stimulus="stim_file").responses
    np.testing.assert_allclose(responses.data, np.delete(np.delete(expected, 3, axis=0), 2, axis=1), atol=2e-3)
    assert responses.trials["trial_type"].tolist() == table()["condition"].drop(3).tolist()


@pytest.mark.parametrize("way", [as_fif, as_saved])
def test_eeg_gets_another_reference_and_loses_epochs_of_large_range(
    tmp_path: Path, way: Callable[[Path], None], expected: np.ndarray
) -> None:
    way(tmp_path)
    mean = datasets.load("epochs", tmp_path, reference=("average",)).responses
    np.testing.assert_allclose(mean.data, expected - expected.mean(axis=1, keepdims=True), atol=2e-3)
    against = datasets.load("epochs", tmp_path, reference=("Cz",)).responses
    assert list(against.units["channel"]) == NAMES[:-1]
    np.testing.assert_allclose(against.data, expected[:, :-1] - expected[:, -1:], atol=2e-3)
    size = np.ptp(expected, axis=2).max(axis=1)
    limit = float(np.median(size))
    kept = size <= limit
    with pytest.warns(UserWarning, match=rf"{(~kept).sum()} of 40 epochs exceed {limit:g} uV"):
        clean = datasets.load("epochs", tmp_path, reject=limit).responses
    np.testing.assert_allclose(clean.data, expected[kept], atol=2e-3)
    assert clean.trials["stimulus"].tolist() == table()["stimulus"][kept].tolist()


@pytest.mark.parametrize(
    ("way", "options", "match"),
    [
        (as_saved, {"window": (0.0, 0.5)}, "option window: rec-epo.fif holds epochs that are cut already"),
        (as_saved, {"rate": 50.0}, "option rate: rec-epo.fif"),
        (as_array, {"band": (1.0, 30.0)}, "option band: epochs.npy"),
        (as_array, {"reject": 100.0}, "option reject: epochs.npy is an array as it is"),
    ],
)
def test_options_of_another_way_of_storing_are_refused(
    tmp_path: Path, way: Callable[[Path], None], options: dict[str, object], match: str
) -> None:
    way(tmp_path)
    with pytest.raises(DataError, match=match):
        datasets.load("epochs", tmp_path, **options)


def test_saved_epochs_are_read_without_a_word(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    as_saved(tmp_path)
    epochs = mne.read_epochs(tmp_path / "rec-epo.fif", verbose="error")
    epochs.metadata = epochs.metadata.assign(number=np.arange(len(epochs)))  # a column of numbers is made text
    epochs.save(tmp_path / "rec-epo.fif", overwrite=True, verbose="error")
    capfd.readouterr()
    assert datasets.load("epochs", tmp_path).responses.trials["number"].tolist()[:2] == ["0", "1"]
    assert capfd.readouterr() == ("", "")


def test_epochs_go_back_to_mne_as_they_came(tmp_path: Path, expected: np.ndarray) -> None:
    as_fif(tmp_path)
    responses = datasets.load("epochs", tmp_path).responses
    epochs = responses.to_epochs()
    assert isinstance(epochs, mne.EpochsArray)
    np.testing.assert_allclose(epochs.get_data(copy=False) * 1e6, expected, atol=2e-3)
    again = Responses.from_epochs(epochs)
    np.testing.assert_array_equal(again.data, responses.data)
    np.testing.assert_allclose(again.times, responses.times)
    assert again.trials["stimulus"].tolist() == responses.trials["stimulus"].tolist()
    assert epochs.metadata["condition"].tolist() == responses.trials["condition"].tolist()
    if responses.space is not None:
        np.testing.assert_allclose(again.space.positions, responses.space.positions)
    for wrong, said in (
        (Responses(responses.data, responses.trials, responses.units, None, responses.times, "z"), "numbers are in 'z'"),
        (Responses.from_arrays(np.ones((2, 3)), ["a", "b"]), "no times and channels"),
    ):
        with pytest.raises(DataError, match=said):
            wrong.to_epochs()


def test_the_names_of_events_are_what_was_seen_without_a_table(tmp_path: Path) -> None:
    raw = recording().set_annotations(mne.Annotations([*ONSETS, 20.6], 0.0, [*table()["condition"], "BAD_x"]))
    raw.save(tmp_path / "rec_raw.fif", verbose="error")
    with pytest.warns(UserWarning, match="1 lie in a stretch marked 'BAD_x'"):
        responses = datasets.load("epochs", tmp_path).responses
    assert responses.trials["stimulus"].value_counts().to_dict() == {"face": 20, "house": 19}


def events(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Callable[[Path], None]:
    return lambda folder: change(table()).to_csv(folder / "events.csv", index=False)


BAD: list[tuple[str, Callable[[Path], object], dict[str, object], str]] = [
    ("nothing", lambda f: [p.unlink() for p in f.iterdir()], {}, "holds no recording: a file that MNE reads"),
    ("two recordings", lambda f: shutil.copy(f / "rec_raw.fif", f / "b_raw.fif"), {}, "holds b_raw.fif and rec_raw.fif"),
    ("no events", lambda f: (f / "events.csv").unlink(), {}, "events.csv is missing, and the recording holds no events"),
    ("another column", events(lambda t: t.rename(columns={"stimulus": "image"})), {}, "it needs 'stimulus' and either onset"),
    ("no onset", events(lambda t: t.drop(columns="onset")), {}, "either onset .* or event"),
    ("onsets in ms", events(lambda t: t.assign(onset=1000 * t["onset"])), {}, "40 events lie at 1000 to 59500 s, are onsets"),
    ("no stimulus named", events(lambda t: t.assign(stimulus="n/a")), {}, "no line names a stimulus; .*--option stimulus=COLUMN"),
    ("two tables of events", lambda f: (f / "events.csv").unlink() or [(f / f"{n}_events.tsv").touch() for n in "ab"], {},
     "holds a_events.tsv and b_events.tsv"),
    ("onset in words", events(lambda t: t.assign(onset=["soon", *t["onset"][1:]])), {}, "onset 'soon' in line 2"),
    ("an event that is not there", events(lambda t: t.drop(columns="onset").assign(event="S1").head(1)), {}, "does not occur"),
    ("an event twice", events(lambda t: t.drop(columns="onset").assign(event="S1")), {}, "'S1' comes twice"),
    ("a window that is too long", lambda f: None, {"window": (-70.0, 70.0)}, "no event leaves a whole epoch"),
    ("rename without =", lambda f: None, {"rename": ("O1",)}, "'O1' is not OLD=NEW"),
    ("rename of nothing", lambda f: None, {"rename": ("X9=O1",)}, "there is no channel 'X9'; the recording has O1, Oz"),
    ("rename to one that is there", lambda f: None, {"rename": ("O1=Oz",)}, "gives two channels the name 'Oz'"),
    ("a reference that is absent", lambda f: None, {"reference": ("M1",)}, "'M1' is not found; give average, or any of O1, Oz"),
    ("a range that no epoch keeps", lambda f: None, {"reject": 0.001}, "all 40 epochs exceed 0.001 uV"),
    ("unit of a fif", lambda f: None, {"unit": "uV"}, "holds volts or tesla by its format"),
    ("cut short", lambda f: (f / "rec_raw.fif").write_bytes((f / "rec_raw.fif").read_bytes()[:3000]), {}, "cannot be read"),
    ("subjects by name", events(lambda t: t.assign(subject="Anna")), {}, "subject 'Anna' is not a number"),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "options", "match"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_mistakes_are_one_line(tmp_path: Path, spoil: Callable[[Path], object], options: dict[str, object], match: str) -> None:
    as_fif(tmp_path)
    spoil(tmp_path)
    with pytest.raises(DataError, match=match) as caught:
        datasets.load("epochs", tmp_path, **options)
    assert len(str(caught.value).splitlines()) == 1


def test_mistakes_of_tables_and_arrays_are_one_line(tmp_path: Path) -> None:
    as_csv(tmp_path)
    text = (tmp_path / "recording.csv").read_text(encoding="utf-8")
    for wrong, match in (
        (text.replace("time", "t", 1), "has no column 'time'"),
        (text.replace("\n0.01,", "\n0.5,", 1), "should rise in even steps"),
        (text.replace("\n0.01,", "\n0.01,x", 1), "line 3, column 'O1' is not a number"),
    ):
        (tmp_path / "recording.csv").write_text(wrong, encoding="utf-8")
        with pytest.raises(DataError, match=match):
            datasets.load("epochs", tmp_path)
    (tmp_path / "recording.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"flat|no recording in uV"):
        datasets.load("epochs", tmp_path, unit="V")
    other = tmp_path / "array"
    other.mkdir()
    as_array(other)
    np.save(other / "epochs.npy", np.load(other / "epochs.npy") * 1e-6)
    with pytest.raises(DataError, match=r"looks like volts .* say what its numbers are by --option unit=V"):
        datasets.load("epochs", other)
    assert datasets.load("epochs", other, unit="V").responses.measure == "uV"
    np.save(other / "epochs.npy", np.zeros((40, 4)))
    with pytest.raises(DataError, match="--dataset folder"):
        datasets.load("epochs", other)


# --- decoding


def test_two_conditions_in_a_csv_are_decoded_from_raw_in_one_call(tmp_path: Path) -> None:
    """Signals of seeds 0 to 9: AUC .95 to 1 at 145 or 245 ms with p = .005, and the smallest p before the signal .31."""
    as_csv(tmp_path)
    source = Source("epochs", tmp_path)
    how = OverTime(window=0.1, permutations=200)
    folder, rows = run_decode(source, tmp_path / "runs", options=how, tell=lambda text, share=None: None)
    result = store.load_result(folder)
    course = result.tables["timecourse"]
    assert result.config["target"] == "condition"
    assert 0.1 <= result.metrics["decode/peak_time"] <= 0.3
    assert result.metrics["decode/peak_p"] < 0.05
    assert (course.loc[course["time"] < 0.05, "p_fwe"] > 0.05).all()
    assert result.metrics["decode/peak_auc.low"] > 0.5
    assert {"decode/peak_auc", "decode/peak_p", "decode/trials_face"} <= {row["metric"] for row in rows}
    page = build(folder, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "face, house: area under the ROC curve of a linear discriminant" in page
    with pytest.raises(DataError, match="no column 'p_fwe'"):
        over_time(course.drop(columns="p_fwe"))


def made(kinds: list[str], images: list[str]) -> Responses:
    data = np.random.default_rng(0).normal(size=(len(kinds), 2, 3)).astype(np.float32)
    return Responses.from_arrays(data, images, times=[0.0, 0.1, 0.2]).rows(np.arange(len(kinds)))


def test_repeats_of_an_image_stand_in_one_fold() -> None:
    images = [f"{i % 12:02d}" for i in range(48)]
    responses = made(["a"] * 48, images)
    named = Responses(
        responses.data,
        responses.trials.assign(kind=["ab"[int(i) // 6] for i in images], answer=["xy"[i % 5 > 2] for i in range(48)]),
        responses.units,
        times=responses.times,
    )
    rows, group, folds, notes = images_apart(named, "kind", "run", 5)
    assert (len(rows), group, folds) == (12, "run", 5)
    assert notes == ["48 trials were averaged to 12 images, each in one fold."]
    np.testing.assert_allclose(rows.data[0], named.data[[0, 12, 24, 36]].mean(axis=0), rtol=1e-5)
    rows, _, folds, notes = images_apart(named, "kind", None, 7)
    assert (len(rows), folds) == (12, 6)
    assert "6 images, so there are 6 folds and not 7" in notes[1]
    assert images_apart(named, "answer", None, 5) == (named, None, 5, [])  # the subject's answer is no property of the image
    assert images_apart(named, "stimulus", None, 5) == (named, None, 5, [])
    runs = replace(named, trials=named.trials.assign(run=np.arange(48) // 12))
    rows, group, _, notes = images_apart(runs, "kind", "run", 5)
    assert (len(rows), group) == (12, None)
    assert "No run is left out" in notes[1]


def test_the_column_that_is_told_apart() -> None:
    responses = made(["a"] * 20, ["x", "y"] * 10)
    assert first_target(responses) == "stimulus"
    with pytest.raises(DataError, match=r"name one by --target: stimulus \(20 values\)"):
        first_target(made(["a"] * 20, [str(i) for i in range(20)]))


@pytest.mark.parametrize(
    ("images", "change", "dataset", "expected"),
    [
        (20, {}, "epochs", QUICK),
        (1000, {}, "epochs", DEFAULT),
        (20, {}, "phantom_eeg", DEFAULT),
        (20, {"epochs": 3}, "epochs", DEFAULT),
        (20, {"preset": "paper"}, "epochs", DEFAULT),
        (20, {"encoders": ("nice",)}, "epochs", ("nice",)),
        (20, {"repeats": 2}, "epochs", QUICK),
    ],
)
def test_small_recordings_are_aligned_by_what_is_solved(
    images: int, change: dict[str, object], dataset: str, expected: tuple[str, ...]
) -> None:
    ids = [f"{i:04d}" for i in range(images)]
    responses = Responses.from_arrays(np.ones((images, 1, 1)), ids, times=[0.0], split="train")
    assert suited(SensorOptions(**change), Source(dataset, Path()), responses).encoders == expected


def test_a_folder_of_epochs_alone_is_known_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "s01-epo.fif").touch()
    assert datasets.recognised(tmp_path) == "epochs"
    array = tmp_path / "array"
    array.mkdir()
    for name in ("epochs.npy", "trials.csv", "channels.csv", "times.csv"):
        (array / name).touch()
    assert datasets.recognised(array) == "epochs"  # trials.csv alone would be fMRI
    (array / "channels.csv").unlink()
    assert datasets.recognised(array) == "folder"


def test_a_file_in_place_of_its_folder_is_said(tmp_path: Path) -> None:
    file = tmp_path / "s01-epo.fif"
    file.touch()
    with pytest.raises(DataError, match=r"s01-epo\.fif is a file; give the folder that it lies in with --data .+"):
        run_decode(Source("epochs", file), tmp_path / "runs", tell=lambda text, share=None: None)
