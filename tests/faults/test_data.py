"""The first half of the fault table, rows 1 to 24: what may be wrong with responses, features, ids, spaces and channels."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel as nib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlens import datasets, store
from brainlens.datasets import haxby2001, things_eeg2
from brainlens.datasets.runs import check_same_recording
from brainlens.encode import encode, haxby2001_encode
from brainlens.models.encoding import LayerwiseRidge
from brainlens.signals.epochs import check_rate, match_channels
from brainlens.subjects import check_same_volume
from brainlens.types import DataError, Features, Responses, Result, Surface, Volume

Writers = dict[str, ModuleType]
ROWS: dict[int, Callable[[Any, Writers], None]] = {}


def row(number: int) -> Callable[[Callable[[Any, Writers], None]], Callable[[Any, Writers], None]]:
    def keep(function: Callable[[Any, Writers], None]) -> Callable[[Any, Writers], None]:
        ROWS[number] = function
        return function

    return keep


@pytest.mark.parametrize("number", range(1, 25))
def test_row(number: int, case: Any, writers: Writers) -> None:
    ROWS[number](case, writers)


def planted(repeats: int = 2) -> tuple[Responses, Features]:
    """60 images of 6 numbers; 8 voxels that read them."""
    rng = np.random.default_rng(0)
    ids = np.array([f"i{k:02d}" for k in range(60)])
    z = rng.normal(size=(60, 6)).astype(np.float32)
    data = np.tile(z @ rng.normal(size=(6, 8)), (repeats, 1)) + 0.3 * rng.normal(size=(60 * repeats, 8))
    split = np.where(np.arange(60) < 36, "train", np.where(np.arange(60) < 45, "validation", "test"))
    trials = pd.DataFrame({"stimulus": np.tile(ids, repeats), "split": np.tile(split, repeats)})
    return Responses(data.astype(np.float32), trials, pd.DataFrame(index=range(8))), Features({"a": z}, ids, "made-up")


@row(1)
def rows_are_not_the_trials(case: Any, _: Writers) -> None:
    np.save(case.own / "responses.npy", np.load(case.own / "responses.npy")[:-1])
    said = case.refused(*case.encode())
    assert "(23, 5)" in said
    assert "24 trials" in said


@row(2)
def transposed(case: Any, _: Writers) -> None:
    np.save(case.own / "responses.npy", np.load(case.own / "responses.npy").T)
    assert "axes look swapped" in case.refused(*case.encode())


@row(3)
def nan_and_infinity_in_some_voxels(case: Any, writers: Writers) -> None:
    data, mask, _, _ = writers["haxby"].write_slice(case.tmp / "haxby")
    clean = haxby2001.load(case.tmp / "haxby").responses.data
    spoilt = data.astype(np.float32)
    spoilt[0, 0, 0, 20] = np.inf
    nib.save(nib.Nifti1Image(spoilt, writers["haxby"].AFFINE), case.tmp / "haxby/bold.nii.gz")
    responses = haxby2001.load(case.tmp / "haxby").responses
    gone = np.flatnonzero(mask.ravel()) == 0
    assert np.isnan(responses.data[:, gone]).any()
    np.testing.assert_array_equal(responses.data[:, ~gone], clean[:, ~gone])  # the others are as they were
    cleaned, counts = responses.clean()
    assert counts["units_missing"] == 1
    assert cleaned.data.shape[1] == mask.sum() - 1
    values = np.load(case.own / "responses.npy")
    values[3, :3] = np.nan
    np.save(case.own / "responses.npy", values)
    assert "60% of the 5 units" in case.refused(*case.encode("--method", "ridge"))


@row(4)
@row(5)
def nan_in_features_and_units_that_stand_still(case: Any, _: Writers) -> None:
    responses, features = planted()
    whole = encode(responses, features, method="ridge")
    for image in (3, 50):  # of training, of the test
        z = features.data["a"].copy()
        z[image, 2] = np.nan
        with pytest.raises(DataError, match=rf"layer 'a': image 'i{image:02d}' holds NaN"):
            encode(responses, replace(features, data={"a": z}), method="ridge")
    data = responses.data.copy()
    data[(responses.trials["split"] == "train").to_numpy(), 0] = 1.5
    with pytest.warns(UserWarning, match="1 of 8 units never change in training"):
        found = encode(replace(responses, data=data), features, method="ridge")
    assert found.metrics["encoding/units_constant_in_training"] == 1
    assert len(found.arrays["r2"]) == 7
    np.testing.assert_allclose(found.arrays["r2"], whole.arrays["r2"][1:], atol=1e-5)
    data[:, 0] = 1.5  # everywhere
    found = encode(replace(responses, data=data), features, method="ridge")
    assert found.metrics["encoding/units_constant"] == 1
    assert found.metrics["encoding/r2_mean"] > 0.5


@row(6)
def float16_would_overflow(case: Any, _: Writers) -> None:
    with (
        pytest.raises(DataError, match=r"above the range of float16.*use float32"),
        store.ArrayWriter(case.tmp, "x", (2, 2), "float16", resume=False) as w,
    ):
        w.write(0, np.full((2, 2), 70000.0))
    wide = Features({"a": np.array([[70000.0], [1.0]], np.float32)}, np.array(["x", "y"]), "m")
    store.save_features(wide, case.tmp / "f")
    assert store.load_features(case.tmp / "f").data["a"].dtype == np.float32


@row(7)
@row(15)
def altered_after_it_was_sealed(case: Any, _: Writers) -> None:
    packed = nib.load(case.own / "mask.nii.gz")
    whole = nib.Nifti1Image(np.asarray(packed.dataobj), packed.affine)
    (case.own / "mask.nii.gz").unlink()
    nib.save(whole, case.own / "mask.nii")  # has no checksum of its own
    assert "not sealed: there are errors" in case.say("check", case.own, "--seal", "--out", case.tmp / "page.html")[2]
    assert not (case.own / "brainlens-seal.json").exists()  # images without captions: an error, and no seal
    (case.own / "captions.json").unlink()
    code, out, err = case.say("check", case.own, "--seal", "--out", case.tmp / "page.html")
    assert code == 0, err
    assert "sealed: 16 files" in re.sub(r"\s+", " ", out)
    assert datasets.load("folder", case.own).responses.data.shape == (24, 5)
    trials = pd.read_csv(case.own / "trials.csv", dtype=str)
    shuffled = trials.sample(frac=1, random_state=0)
    kept = (case.own / "trials.csv").read_bytes()
    shuffled.to_csv(case.own / "trials.csv", index=False)
    assert "trials.csv was changed since" in case.refused(*case.encode())
    (case.own / "trials.csv").write_bytes(kept)
    bits = bytearray((case.own / "mask.nii").read_bytes())
    bits[-1] ^= 1
    (case.own / "mask.nii").write_bytes(bits)
    assert "mask.nii was changed since" in case.refused(*case.encode())
    shutil.rmtree(case.own / "images")
    assert "is gone since" in case.refused(*case.encode())
    note = case.own / "brainlens-seal.json"
    note.write_text(note.read_text().replace("responses.npy", "../responses.npy"))
    assert "brainlens-seal.json was altered" in case.refused(*case.encode())


@row(8)
def ids_twice(case: Any, _: Writers) -> None:
    with pytest.raises(DataError, match="occur more than once, first 'x'"):
        Features.from_arrays({"a": np.ones((3, 2))}, ["x", "y", "x"])
    listed = pd.read_csv(case.own / "trials.csv", dtype=str).drop_duplicates("stimulus")["stimulus"]
    table = pd.DataFrame({"stimulus": [*listed, listed.iloc[0]], "stimulus ": "x"})
    table.to_csv(case.own / "stimuli.csv", index=False)
    assert "comes twice" in case.refused(*case.encode())


@row(9)
def a_test_image_in_training(case: Any, _: Writers) -> None:
    shutil.copy(case.own / "images/000.png", case.own / "images/007.png")
    assert "test image '000' has the same pixels as training image '007'" in case.refused(*case.encode())
    trials = pd.read_csv(case.own / "trials.csv", dtype=str)
    trials.loc[0, "split"] = "train"
    trials.to_csv(case.own / "trials.csv", index=False)
    assert "'000' is in two parts" in case.refused(*case.encode())


@row(10)
def repeats_of_an_image_stay_in_one_fold(case: Any, _: Writers) -> None:
    rng = np.random.default_rng(0)
    features = Features({"a": rng.normal(size=(40, 200)).astype(np.float32)}, np.array([f"{i:02d}" for i in range(40)]), "m")
    noise = rng.normal(size=(40, 6))  # of each image its own, which no feature explains
    model = LayerwiseRidge().fit(features, np.tile(noise, (3, 1)), rows=np.tile(np.arange(40), 3))
    assert model.best_score_.max() < 0.3  # with repeats on both sides of a fold it would be near 1


@row(11)
def nothing_is_scaled_by_test_trials(case: Any, _: Writers) -> None:
    responses, features = planted()
    test = (responses.trials["split"] == "test").to_numpy()
    other = replace(responses, data=np.where(test[:, None], 40 * responses.data + 7, responses.data))
    kept = [one.zscore(by=None).data[~test] for one in (responses, other)]
    np.testing.assert_array_equal(*kept)
    fits = [encode(one, features, method="ridge") for one in (responses, other)]
    np.testing.assert_array_equal(fits[0].arrays["alpha"], fits[1].arrays["alpha"])


def larger(folder: Path) -> Path:
    """24 pictures, 64 voxels in a box: enough to train an encoder on."""
    rng = np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    ids = [f"{i:02d}" for i in range(24)]
    for name in ids:
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(folder / "images" / f"{name}.png")
    pd.DataFrame({"stimulus": ids, "split": ["test"] * 6 + ["train"] * 18}).to_csv(folder / "trials.csv", index=False)
    np.save(folder / "responses.npy", rng.normal(size=(24, 64)))
    box(folder, slice(0, 4))
    return folder


def box(folder: Path, layers: slice) -> None:
    mask = np.zeros((4, 4, 5), np.uint8)
    mask[..., layers] = 1
    nib.save(nib.Nifti1Image(mask, np.diag([8.0, 8, 8, 1])), folder / "mask.nii.gz")


def test_a_run_is_not_used_with_another_recording_or_mask(case: Any) -> None:
    """Rows 12 and 13 through the commands."""
    own, runs = larger(case.tmp / "larger"), case.tmp / "runs"
    asked = ("--dataset", "folder", "--data", own, "--runs", runs, "--encoder", "volume", "--steps", "2")
    code, _, err = case.say("align", *asked)
    assert code == 0, err
    (run,) = runs.glob("align-*")
    kept = np.load(own / "responses.npy")
    np.save(own / "responses.npy", kept + (np.arange(24) == 3)[:, None])
    assert "was made from another recording than" in case.refused("attribute", run, "--runs", runs)
    np.save(own / "responses.npy", kept)
    box(own, slice(1, 5))  # as many voxels, one layer higher
    assert "mask" in case.refused("embed", run, "--dataset", "folder", "--data", own, "--runs", runs)
    box(own, slice(0, 4))
    assert case.say("embed", run, "--dataset", "folder", "--data", own, "--runs", runs)[0] == 0


@row(12)
def another_recording_than_that_of_the_run(case: Any, _: Writers) -> None:
    responses, _features = planted()
    made = Result(
        "align",
        {},
        config={"folder": "data"},
        provenance=store.provenance(0, "cpu", [store.fingerprint(responses)], store.Start()),
    )
    check_same_recording("run", made, responses)
    other = replace(responses, data=responses.data + 1)
    with pytest.raises(DataError, match="run was made from another recording than data now gives"):
        check_same_recording("run", made, other)
    elsewhere = replace(made, provenance=made.provenance | {"instructions": "of another processor"})
    with pytest.warns(UserWarning, match="another processor"):
        check_same_recording("run", elsewhere, other)


@row(13)
def another_mask_of_the_same_size(case: Any, _: Writers) -> None:
    a, b = np.zeros((3, 3, 3), bool), np.zeros((3, 3, 3), bool)
    a[0, 0, 0] = b[0, 0, 1] = True
    with pytest.raises(DataError, match="mask"):
        check_same_volume(Volume(a, np.eye(4)), Volume(b, np.eye(4)), "one", "other")


@row(14)
@row(16)
@row(18)
def volumes_that_are_cut_claim_too_much_or_lie_elsewhere(case: Any, _: Writers) -> None:
    mask = nib.load(case.own / "mask.nii.gz")
    values = np.zeros((*mask.shape, 24), np.float32)
    values[np.asarray(mask.dataobj) > 0] = np.load(case.own / "responses.npy").T
    (case.own / "responses.npy").unlink()
    place = case.own / "responses.nii.gz"
    turned = mask.affine @ np.diag([-1.0, 1, 1, 1])
    nib.save(nib.Nifti1Image(values, turned), place)
    assert "left and right look swapped" in case.refused(*case.encode())
    nib.save(nib.Nifti1Image(values, mask.affine), place)
    place.write_bytes(place.read_bytes()[:-40])
    assert "responses.nii.gz" in case.refused(*case.encode())
    image = nib.Nifti1Image(values, mask.affine)
    image.header["dim"][1:5], image.header["vox_offset"] = 32000, 352
    (case.own / "responses.nii").write_bytes(image.header.binaryblock + b"\0" * 5000)
    place.unlink()
    assert "the limit is" in case.refused(*case.encode())


@row(17)
def a_bomb(case: Any, _: Writers) -> None:
    """One of several; the others stand in `test_files.py`."""
    case.bomb(case.own / "mask.nii.gz")
    said = case.refused(*case.encode())
    assert "mask.nii.gz" in said
    assert "more than 200 times" in said


@row(19)
def vertices_of_another_mesh(case: Any, _: Writers) -> None:
    (case.own / "mask.nii.gz").unlink()
    for vertex, mesh in ((163_000, "fsaverage5"), (-1, "fsaverage"), (163_842, "fsaverage")):
        units = pd.DataFrame({"hemisphere": "left", "vertex": [0, 1, 2, 3, vertex]})
        units.to_csv(case.own / "units.csv", index=False)
        assert f"on {mesh}" in case.refused(*case.encode("--option", f"mesh={mesh}"))
        with pytest.raises(DataError, match=f"vertex {vertex} is not one of {mesh}"):
            Surface(mesh, np.array(["left"]), np.array([vertex]))


@row(20)
def hemispheres_swapped(case: Any, writers: Writers) -> None:
    bids = writers["bids"]
    root = case.tmp / "bids"
    bids.write(root)
    for path in root.rglob("*_betas.nii.gz"):
        path.unlink()
    for session in bids.SESSIONS:
        bids.as_gifti(root, session, np.zeros((10, 20_484), np.float32))
    datasets.load("bids", root)
    for path in root.rglob("*_hemi-L_*"):
        image = nib.load(path)
        image.meta["AnatomicalStructurePrimary"] = "CortexRight"
        nib.save(image, path)
    assert "says that it is of the right hemisphere" in case.refused(*case.encode(data=root, dataset="bids"))


@row(21)
def channels_by_name(case: Any, writers: Writers) -> None:
    eeg = writers["recordings"]
    eeg.write_eeg2(case.tmp / "eeg", names=["Pz", "Oz", "Pz", "P1"])
    with pytest.raises(DataError, match="the channel 'Pz' comes twice"):
        things_eeg2.load(case.tmp / "eeg")
    eeg.write_eeg2(case.tmp / "eeg")
    plain = things_eeg2.load(case.tmp / "eeg").responses
    turned = things_eeg2.load(case.tmp / "eeg", channels=("P1", "Oz")).responses
    np.testing.assert_array_equal(turned.data, plain.data[:, [3, 1]])
    np.testing.assert_array_equal(match_channels(plain, ["oz"]).data, plain.data[:, [1]])
    with pytest.raises(DataError, match="1 channels are missing: \\['T9'\\]"):
        match_channels(plain, ["T9"])


@row(22)
def another_rate_or_window(case: Any, writers: Writers) -> None:
    writers["recordings"].write_eeg2(case.tmp / "eeg")
    responses = things_eeg2.load(case.tmp / "eeg").responses
    check_rate(responses, rate=100, window=(0, 0.19))
    for rate, window in ((250, (0, 0.19)), (100, (0, 1.0))):
        with pytest.raises(DataError, match="epoch it again"):
            check_rate(responses, rate=rate, window=window)


@row(23)
@row(24)
def volts_and_flat_channels(case: Any, writers: Writers) -> None:
    own = writers["epochs"]
    folder = case.tmp / "eeg"
    folder.mkdir()
    own.as_csv(folder)
    table = pd.read_csv(folder / "recording.csv")
    table.assign(**{name: table[name] * 1e-6 for name in own.NAMES}).to_csv(folder / "recording.csv", index=False)
    asked = ("epochs", "--dataset", "epochs", "--data", folder, "--runs", case.tmp / "runs")
    assert "looks like volts" in case.refused(*asked)
    table.assign(O1=0.0).to_csv(folder / "recording.csv", index=False)
    code, _, err = case.say(*asked)
    assert code == 0, err
    assert "warning: channels are left out: 1 are flat: O1" in err
    (made,) = (case.tmp / "runs").glob("epochs-*")
    found = store.load_result(made)
    assert found.units is not None
    assert found.units["channel"].tolist() == ["Oz", "O2", "Cz"]
    assert found.arrays["epochs"].shape[1] == 3


def test_every_row_is_there() -> None:
    assert sorted(ROWS) == list(range(1, 25))


def test_a_value_that_float32_cannot_square_is_a_missing_one() -> None:
    responses, features = planted()
    data = responses.data.copy()
    data[5, 0] = 3e38
    found, whole = encode(replace(responses, data=data), features, method="ridge"), encode(responses, features, method="ridge")
    assert found.metrics["encoding/units_missing"] == 1
    np.testing.assert_allclose(found.arrays["r2"], whole.arrays["r2"][1:], atol=1e-5)


def test_categories_with_one_infinite_voxel(tmp_path: Path, writers: Writers) -> None:
    data, _, labels, runs = writers["haxby"].write_slice(tmp_path)
    data = np.concatenate([data.astype(np.float32)] * 2, axis=3)
    data[0, 0, 0, 5] = np.inf
    nib.save(nib.Nifti1Image(data, writers["haxby"].AFFINE), tmp_path / "bold.nii.gz")
    lines = [*zip(labels, runs, strict=True), *((name, str(int(run) + 2)) for name, run in zip(labels, runs, strict=True))]
    (tmp_path / "attributes_literal.txt").write_text("".join(f"{a} {b}\n" for a, b in lines))
    found = haxby2001_encode(haxby2001.load(tmp_path).responses)
    assert found.metrics["encoding/units_missing"] == 1
    assert np.isfinite(found.arrays["r2"]).all()
