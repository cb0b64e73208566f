"""Tables from a user's own arrays, images and epochs: their arithmetic against plain loops, and what they refuse."""

from __future__ import annotations

import gzip

import mne
import nibabel as nib
import numpy as np
import pandas as pd
import pytest
import torch

from brainlens.types import DataError, Features, Recording, Responses, Sensors, Stimuli, Volume

IDS = ["a", "b", "c", "a"]
AFFINE = np.diag([2.0, 3.0, 4.0, 1.0]) + np.array([[0, 0, 0, -10.0], [0, 0, 0, 5], [0, 0, 0, 1], [0, 0, 0, 0]])


def one_line(error: pytest.ExceptionInfo[DataError]) -> bool:
    return len(str(error.value).splitlines()) == 1


# --- Responses.from_arrays


@pytest.mark.parametrize("kind", ["numpy", "torch", "list"])
def test_arrays_of_any_kind_become_responses(kind) -> None:
    y = np.arange(12, dtype=np.float32).reshape(4, 3)
    given = {"numpy": y, "torch": torch.from_numpy(y).requires_grad_(), "list": y.tolist()}[kind]
    xyz = np.arange(9).reshape(3, 3)
    made = Responses.from_arrays(given, IDS, split=["train"] * 3 + ["test"], subject=1, xyz=xyz, roi=["V1", "V1", "FFA"])
    np.testing.assert_array_equal(made.data, y)
    assert made.trials.to_dict("list") == {"stimulus": IDS, "split": ["train", "train", "train", "test"], "subject": ["1"] * 4}
    np.testing.assert_array_equal(made.units[["x", "y", "z"]], xyz)
    assert made.pick(roi="FFA").data.shape == (4, 1)
    assert made.average().trials["stimulus"].tolist() == ["a", "b", "c"]


def test_arrays_with_times_and_channels() -> None:
    made = Responses.from_arrays(
        np.ones((2, 3, 5)), ["a", "b"], times=np.arange(5) / 100, channels=["Oz", "Pz", "Cz"], measure="uV"
    )
    assert made.data.shape == (2, 3, 5)
    assert made.units["channel"].tolist() == ["Oz", "Pz", "Cz"]
    assert made.measure == "uV"


@pytest.mark.parametrize("kind", ["image", "path", "volume"])
def test_a_mask_gives_the_voxels_their_places(tmp_path, kind) -> None:
    mask = np.zeros((2, 3, 4), np.uint8)
    voxels = [(0, 0, 1), (0, 2, 3), (1, 1, 0)]
    for voxel in voxels:
        mask[voxel] = 1
    image = nib.Nifti1Image(mask, AFFINE)
    nib.save(image, tmp_path / "mask.nii.gz")
    given = {"image": image, "path": tmp_path / "mask.nii.gz", "volume": Volume(mask > 0, AFFINE)}[kind]
    made = Responses.from_arrays(np.ones((4, 3)), IDS, mask_img=given)
    assert isinstance(made.space, Volume)
    for row, (i, j, k) in zip(made.units.itertuples(), voxels, strict=True):
        assert (row.x, row.y, row.z) == (2 * i - 10, 3 * j + 5, 4 * k + 1)


BAD_ARRAYS = [
    ({"stimulus_ids": [1, 2, 3, 1]}, "ids are strings, got int 1; read them with dtype=str"),
    ({"stimulus_ids": np.array([1, 2, 3, 1])}, "ids are strings, got int64"),
    ({"stimulus_ids": ["a"]}, "1 ids for 4 trials"),
    ({"Y": np.ones(4)}, r"Y is \(trial, unit\) or \(trial, unit, time\), got shape \(4,\)"),
    ({"Y": np.ones((4, 3, 2))}, "2 time points but no times"),
    ({"Y": np.ones((4, 3, 2)), "times": [0.1]}, "2 time points but times has 1"),
    ({"times": [0.1]}, "no time axis"),
    ({"Y": np.array([["x"] * 3] * 4)}, "Y should hold real numbers"),
    (
        {"Y": np.array([[1, np.nan, 0]] * 4)},
        r"NaN or infinity in 1 of 3 units, first unit 1; drop them first: keep = np.isfinite",
    ),
    ({"xyz": np.ones((2, 3))}, r"xyz should be finite \(unit, 3\) in mm for 3 units, got shape \(2, 3\)"),
    ({"xyz": np.full((3, 3), np.nan)}, "xyz should be finite"),
    ({"roi": ["V1"]}, "roi: 1 names for 3 units"),
    ({"channels": ["Oz"]}, "channels: 1 names for 3 units"),
    ({"split": ["train"]}, "split: 1 values for 4 trials"),
    ({"colour": "red"}, "no column 'colour'; choose from split, subject"),
    ({"Y": np.full((4, 3, 2), 7e-6), "times": [0, 0.1], "measure": "uV"}, r"looks like volts.*give them in this unit"),
    ({"measure": "V"}, "measure 'V' is not one of z, psc, uV, fT, fT/cm"),
    ({"mask_img": nib.Nifti1Image(np.ones((2, 2, 2), np.uint8), AFFINE)}, "Y has 3 units but mask_img 8 voxels"),
    ({"mask_img": nib.Nifti1Image(np.zeros((2, 2, 2), np.uint8), AFFINE)}, "the mask is empty"),
    ({"mask_img": nib.Nifti1Image(np.ones((2, 2, 2, 3), np.uint8), AFFINE)}, "three axes"),
    ({"mask_img": np.ones((2, 2, 2))}, "should be a nibabel image or the path of one, got ndarray"),
    ({"mask_img": "nowhere.nii"}, "nowhere.nii is not found"),
    ({"mask_img": nib.Nifti1Image(np.ones((3, 1, 1), np.uint8), AFFINE), "xyz": np.ones((3, 3))}, "give one of them"),
]


@pytest.mark.parametrize(("change", "match"), BAD_ARRAYS)
def test_wrong_arrays_are_one_line(change, match) -> None:
    given = {"Y": np.ones((4, 3)), "stimulus_ids": IDS} | change
    with pytest.raises(DataError, match=match) as caught:
        Responses.from_arrays(given.pop("Y"), given.pop("stimulus_ids"), **given)
    assert one_line(caught)


# --- Responses.from_images


@pytest.fixture
def images() -> tuple[nib.Nifti1Image, nib.Nifti1Image, np.ndarray]:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3, 4, 2, 4)).astype(np.float32)
    mask = rng.random((3, 4, 2)) > 0.5
    return nib.Nifti1Image(values, AFFINE), nib.Nifti1Image(mask.astype(np.uint8), AFFINE), values


@pytest.mark.parametrize("ending", [None, "nii", "nii.gz"])
def test_images_are_read_voxel_by_voxel(tmp_path, images, ending) -> None:
    nifti, mask, values = images
    chosen = [tuple(index) for index in np.argwhere(np.asarray(mask.dataobj))]
    if ending is not None:
        for name, image in (("betas", nifti), ("mask", mask)):
            nib.save(image, tmp_path / f"{name}.{ending}")
        nifti, mask = str(tmp_path / f"betas.{ending}"), tmp_path / f"mask.{ending}"
    made = Responses.from_images(nifti, mask, IDS, split="train", measure="psc")
    assert made.data.shape == (4, len(chosen))
    for unit, (i, j, k) in enumerate(chosen):
        np.testing.assert_array_equal(made.data[:, unit], values[i, j, k])
    assert made.measure == "psc"
    assert made.trials["split"].tolist() == ["train"] * 4


def test_nilearn_reads_the_same_voxels_in_the_same_order(images) -> None:
    from nilearn.maskers import NiftiMasker

    nifti, mask, _ = images
    masker = NiftiMasker(mask_img=mask, standardize=None, memory=None).fit()
    np.testing.assert_allclose(Responses.from_images(nifti, mask, IDS).data, masker.transform(nifti), rtol=1e-6)


def test_wrong_images_are_one_line(tmp_path, images) -> None:
    nifti, mask, values = images
    moved = AFFINE.copy()
    moved[0, 3] += 1
    holes = values.copy()
    holes[:] = np.nan
    nib.save(nifti, tmp_path / "betas.nii.gz")
    whole = (tmp_path / "betas.nii.gz").read_bytes()
    (tmp_path / "cut.nii.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "no.nii.gz").write_bytes(gzip.compress(b"nothing"))
    small = nib.Nifti1Image(np.ones((2, 4, 2), np.uint8), AFFINE)
    for given, match in [
        ((nifti, small, IDS), r"grid \(3, 4, 2\), the mask \(2, 4, 2\); resample"),
        ((nifti, nib.Nifti1Image(np.asarray(mask.dataobj), moved), IDS), "affine differs from the mask's by 1 mm"),
        ((mask, mask, IDS), r"should be 4-D \(x, y, z, trial\), got shape \(3, 4, 2\)"),
        ((nifti, mask, IDS[:3]), "3 ids for 4 trials"),
        ((nifti, mask, [1, 2, 3, 4]), "ids are strings"),
        ((nib.Nifti1Image(holes, AFFINE), mask, IDS), "take these voxels out of the mask"),
        ((tmp_path / "cut.nii.gz", mask, IDS), "damaged or not an image"),
        ((tmp_path / "no.nii.gz", mask, IDS), "damaged or not an image"),
        ((values, mask, IDS), "nibabel image or the path of one, got ndarray"),
    ]:
        with pytest.raises(DataError, match=match) as caught:
            Responses.from_images(*given)
        assert one_line(caught)


# --- Responses.from_epochs


def made_epochs(kinds: str | list[str], scale: float, *, metadata: pd.DataFrame | None = None, montage: bool = False):
    names = ["Oz", "Pz", "Cz"]
    info = mne.create_info(names, 100.0, kinds)
    data = scale * np.random.default_rng(0).normal(size=(4, 3, 20))
    events = np.column_stack([np.arange(4) * 100, np.zeros(4, int), [1, 2, 3, 1]])
    epochs = mne.EpochsArray(data, info, events, tmin=-0.1, event_id={"a": 1, "b": 2, "c": 3}, metadata=metadata, verbose="error")
    if montage:
        epochs.set_montage("standard_1020")
    return epochs, data


@pytest.mark.parametrize(
    ("kind", "scale", "measure", "factor"), [("eeg", 1e-5, "uV", 1e6), ("mag", 1e-13, "fT", 1e15), ("grad", 1e-11, "fT/cm", 1e13)]
)
def test_epochs_come_in_the_unit_of_their_channels(kind, scale, measure, factor) -> None:
    epochs, data = made_epochs(kind, scale)
    made = Responses.from_epochs(epochs, split=["train", "train", "train", "test"])
    np.testing.assert_allclose(made.data, data * factor, rtol=1e-5)
    assert made.measure == measure
    assert made.trials["stimulus"].tolist() == IDS
    assert made.trials["split"].tolist() == ["train", "train", "train", "test"]
    assert made.units["channel"].tolist() == ["Oz", "Pz", "Cz"]
    np.testing.assert_allclose(made.times, epochs.times)
    assert made.space is None


def test_epochs_keep_places_and_metadata() -> None:
    table = pd.DataFrame({"image": ["p", "q", "r", "p"], "session": [1, 1, 2, 2], "rt": [0.1, 0.2, 0.3, 0.4]})
    epochs, _ = made_epochs("eeg", 1e-5, metadata=table, montage=True)
    made = Responses.from_epochs(epochs, stimulus="image")
    assert made.trials.to_dict("list") == {
        "stimulus": ["p", "q", "r", "p"],
        "session": ["1", "1", "2", "2"],
        "rt": [0.1, 0.2, 0.3, 0.4],
    }
    events = Responses.from_epochs(epochs)
    assert events.trials["stimulus"].tolist() == IDS
    assert events.trials["image"].tolist() == ["p", "q", "r", "p"]
    assert isinstance(made.space, Sensors)
    place = epochs.get_montage().get_positions()["ch_pos"]
    np.testing.assert_allclose(made.units[["x", "y", "z"]], 1e3 * np.array([place[name] for name in epochs.ch_names]))


def test_channels_that_are_no_data_and_bad_ones_are_left_out() -> None:
    epochs, data = made_epochs(["eeg", "eeg", "eog"], 1e-5)
    made = Responses.from_epochs(epochs)
    assert made.units["channel"].tolist() == ["Oz", "Pz"]
    epochs.info["bads"] = ["Oz"]
    with pytest.warns(UserWarning, match="1 of 2 channels are marked bad and left out: Oz"):
        made = Responses.from_epochs(epochs)
    np.testing.assert_allclose(made.data, 1e6 * data[:, 1:2], rtol=1e-5)


def test_wrong_epochs_are_one_line() -> None:
    numbered = pd.DataFrame({"image": [1, 2, 3, 1]})
    holes = made_epochs("eeg", 1e-5)[0]
    holes._data[0, 1, 2] = np.nan
    for epochs, more, match in [
        (made_epochs(["eeg", "mag", "eeg"], 1e-5)[0], {}, r"types eeg, mag .* pick one, e.g. epochs.copy\(\).pick\('eeg'\)"),
        (made_epochs("misc", 1.0)[0], {}, "no good channel of EEG or MEG is found; the types are misc"),
        (made_epochs("eeg", 10.0)[0], {}, "MNE keeps volts and tesla: scale them"),
        (made_epochs("mag", 1.0)[0], {}, r"Responses.from_arrays\(epochs.get_data\(\)"),
        (made_epochs("eeg", 1e-9)[0], {}, "uV, which looks like volts or tesla, and no recording in uV"),
        (holes, {}, r"NaN or infinity in 1 of 3 channels, first channel 'Pz' in epoch 0; drop these epochs \(epochs.drop\)"),
        ("x-epo.fif", {}, r"got str; read the file first, mne.read_epochs\('x-epo.fif'\)"),
        (made_epochs("eeg", 1e-5)[0], {"stimulus": "image"}, r"no metadata column 'image'; they have \[\]"),
        (made_epochs("eeg", 1e-5, metadata=numbered)[0], {"stimulus": "picture"}, r"they have \['image'\]"),
        (made_epochs("eeg", 1e-5, metadata=numbered)[0], {"stimulus": "image"}, "ids are strings, got int"),
        (made_epochs("eeg", 1e-5)[0], {"split": ["train"]}, "split: 1 values for 4 trials"),
        (np.ones((4, 3, 20)), {}, "should be mne.Epochs, got ndarray"),
    ]:
        with pytest.raises(DataError, match=match) as caught:
            Responses.from_epochs(epochs, **more)
        assert one_line(caught)


# --- Features.from_arrays


def test_layers_of_every_form() -> None:
    rng = np.random.default_rng(0)
    vector, hidden, square = rng.normal(size=(3, 7)), rng.normal(size=(3, 1 + 9, 5)), rng.normal(size=(3, 4, 5))
    maps, wide = rng.normal(size=(3, 6, 2, 3)), rng.normal(size=(3, 1 + 6, 4))
    layers = {"v": vector, "vit": torch.from_numpy(hidden), "square": square, "cnn": maps, "wide": wide}
    made = Features.from_arrays(layers, ["a", "b", "c"], grid={"wide": (2, 3)}, model="mine")
    assert made.layer == ["v", "vit", "square", "cnn", "wide"]
    assert made.grid == {"vit": (3, 3), "square": (2, 2), "cnn": (2, 3), "wide": (2, 3)}
    np.testing.assert_array_equal(made["v"], vector)
    np.testing.assert_array_equal(made["vit"], hidden[:, 0])
    np.testing.assert_array_equal(made.tokens["vit"], hidden[:, 1:])
    np.testing.assert_array_equal(made["wide"], wide[:, 0])
    np.testing.assert_allclose(made["square"], square.mean(1))
    np.testing.assert_allclose(made["cnn"], maps.mean((2, 3)))
    for row in range(2):
        for column in range(3):
            np.testing.assert_array_equal(made.tokens["cnn"][:, 3 * row + column], maps[:, :, row, column])


def test_hidden_states_are_split_as_the_backbones_split_them() -> None:
    from brainlens.backbones.vision import Backbone, _split_tokens

    class Config:
        patch_size = 2
        model_type = "vit"

    class Model:
        config = Config()

    hidden = torch.randn(2, 1 + 9, 4)
    backbone = Backbone.__new__(Backbone)
    object.__setattr__(backbone, "model", Model())
    object.__setattr__(backbone, "name", "vit")
    whole, parts = _split_tokens(backbone, hidden, (6, 6))
    made = Features.from_arrays({"h": hidden}, ["a", "b"])
    np.testing.assert_array_equal(made["h"], whole.numpy())
    np.testing.assert_array_equal(made.tokens["h"], parts.flatten(2).transpose(1, 2).numpy())


BAD_FEATURES = [
    ({"ids": [1, 2]}, "ids are strings, got int 1"),
    ({"ids": ["a"]}, "layer 'l' has 2 rows for 1 ids"),
    ({"ids": ["a", "a"]}, "occur more than once, first 'a'"),
    ({"layers": {}}, "give at least one layer"),
    ({"layers": np.ones((2, 3))}, "features are a dict of arrays by layer"),
    ({"layers": {"l": np.array([[np.inf, 1], [0, 0]])}}, "layer 'l': image 'a' holds NaN or infinity"),
    ({"layers": {"l": np.ones((2, 261, 3))}}, r"261 tokens are neither a square .* give grid=\(rows, columns\)"),
    ({"layers": {"l": np.ones((2, 10, 3))}, "grid": (2, 4)}, "10 tokens are not a grid of 2 x 4"),
    (
        {"layers": {"l": np.ones((2, 9, 3))}, "grid": {"other": (3, 3)}},
        r"grid names the layer 'other', .* the layers are \['l'\]",
    ),
    ({"layers": {"l": np.ones(2)}}, r"layer 'l' has shape \(2,\)"),
    ({"layers": {"l": np.array([["x"], ["y"]])}}, "should hold real numbers"),
]


@pytest.mark.parametrize(("change", "match"), BAD_FEATURES)
def test_wrong_features_are_one_line(change, match) -> None:
    given = {"layers": {"l": np.ones((2, 3))}, "ids": ["a", "b"]} | change
    with pytest.raises(DataError, match=match) as caught:
        Features.from_arrays(**given)
    assert one_line(caught)


def test_a_layer_that_is_not_there_lists_those_that_are() -> None:
    with pytest.raises(DataError, match=r"no layer 'layer.9'; it has \['layer.1'\]"):
        Features.from_arrays({"layer.1": np.ones((1, 2))}, ["a"])["layer.9"]


# --- Recording


def test_a_recording_refuses_trials_of_stimuli_that_are_not_there() -> None:
    stimuli = Stimuli(np.array(["a", "b"]), np.zeros((2, 4, 4, 3), np.uint8))
    fits = Recording(Responses.from_arrays(np.ones((3, 2)), ["a", "b", "a"]), stimuli)
    assert fits.truth is None
    with pytest.raises(DataError, match=r"1 of 2 stimuli of the trials are not among the 2 stimuli, first 'c'") as caught:
        Recording(Responses.from_arrays(np.ones((2, 2)), ["a", "c"]), stimuli)
    assert one_line(caught)
    responses, seen = fits
    assert responses is fits.responses
    assert seen is stimuli
