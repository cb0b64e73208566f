"""Doors that take the path of a file by itself: an atlas, a mask, a run, a table of names."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest

from brainlens import miniatures, store
from brainlens.backbones.diffusion import load_diffusion
from brainlens.models.volume.arrays import as_volume
from brainlens.parcels import atlas_parcels, lookup
from brainlens.types import DataError, Result, Volume, check_fif

Spoil = Callable[[Path], None]


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-40])


def words(path: Path) -> None:
    path.write_text("no image")


def flat(path: Path) -> None:
    image = nib.load(path)
    affine = np.diag([1.0, 1.0, 0.0, 1.0])
    whole = nib.Nifti1Image(np.asarray(image.dataobj), None)
    whole.header.set_sform(affine, code=1)
    nib.save(whole, path)


@pytest.mark.parametrize("spoil", ["cut", "words", "bomb", "flat"])
def test_an_image_given_by_its_path_goes_through_the_door(tmp_path: Path, bomb: Spoil, spoil: str) -> None:
    """An atlas of `reconstruct --parcels` and the mask of an aligner on arrays."""
    place = tmp_path / "atlas.nii.gz"
    nib.save(nib.Nifti1Image(np.ones((4, 3, 2), np.int16), np.eye(4)), place)
    space = Volume(np.ones((4, 3, 2), bool), np.eye(4))
    assert atlas_parcels(space, place, {1: "V1"}).names == ("V1",)
    np.testing.assert_array_equal(as_volume(place).mask, space.mask)
    {"cut": cut, "words": words, "bomb": bomb, "flat": flat}[spoil](place)
    for door in (lambda: atlas_parcels(space, place, {1: "V1"}), lambda: as_volume(place)):
        with pytest.raises(DataError, match=r"atlas\.nii\.gz|affine") as error:
            door()
        assert "\n" not in str(error.value)


def test_a_run_whose_config_is_gone_is_one_line(case: Any) -> None:
    run = case.tmp / "runs/align-1"
    place = store.save_result(Result("align", {"m": 1.0}), run)
    place.write_text(json.dumps(json.loads(place.read_text()) | {"config": 5}))
    assert "align-1" in case.refused("attribute", run, "--runs", case.tmp / "runs")


def test_digits_that_are_no_numbers_are_one_line(case: Any) -> None:
    """`str.isdigit` takes superscripts, `int` does not."""
    assert "²" in case.refused("sweep", "encode", "--parts", "²", "--dataset", "folder", "--data", case.own)
    (case.tmp / "names.txt").write_text("1 V1\n² V2\n")
    with pytest.raises(DataError, match="line 2"):
        lookup(case.tmp / "names.txt")


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("scheduler/scheduler_config.json", {"num_train_timesteps": "x"}),
        ("scheduler/scheduler_config.json", {"beta_schedule": 5}),
        ("scheduler/scheduler_config.json", {"steps_offset": None}),
        ("unet/config.json", {"sample_size": [1]}),
        ("tokenizer/tokenizer_config.json", {"model_max_length": "x"}),
    ],
)
def test_a_diffusion_model_of_parts_that_do_not_fit_is_one_line(tmp_path: Path, file: str, change: dict[str, Any]) -> None:
    folder = Path(shutil.copytree(miniatures.folder("diffusion"), tmp_path / "diffusion"))
    place = folder / file
    place.write_text(json.dumps(json.loads(place.read_text()) | change))
    with pytest.raises(DataError, match="diffusion") as error:
        load_diffusion(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("following", "passes"), [((0, 0, -1), True), ((0, 0, 0), True), ((0, 60, 0), True), ((0, 0, 20), False), ((0, 20, 0), False)]
)
def test_tags_of_a_fif_file_that_lead_in_a_circle_are_one_line(tmp_path: Path, following: tuple[int, ...], passes: bool) -> None:
    """Three tags of 4 bytes each, at 0, 20 and 40, with the place of the next; 60 is the end. MNE would follow without end."""
    place = tmp_path / "rec_raw.fif"
    place.write_bytes(b"".join(struct.pack(">iIii4x", 100, 3, 4, one) for one in following))
    if passes:
        check_fif(place)
    else:
        with pytest.raises(DataError, match="tags lead in a circle"):
            check_fif(place)
