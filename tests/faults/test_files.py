"""The second half of the fault table, rows 25 to 50: files, writers, runs, pictures, texts, devices and networks."""

from __future__ import annotations

import fcntl
import json
import os
import pickle
import re
import struct
import subprocess
import sys
import tracemalloc
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch

import brainlens
from brainlens import datasets, store
from brainlens.backbones import vision
from brainlens.datasets import images92, nsd, stored_arrays
from brainlens.datasets.pictures import read_image
from brainlens.encode import encode
from brainlens.metrics.encoding import noise_ceiling
from brainlens.models.encoding import RidgeCV
from brainlens.report import render
from brainlens.types import DataError, Features, Responses, Result, Stimuli

Writers = dict[str, ModuleType]
Try = Callable[[Any, Writers], None]
ROWS: dict[int, Try] = {}
SOURCES = Path(brainlens.__file__).parent
ELSEWHERE = {  # rows that other tests hold through their doors, alone or with the one here
    31: "datasets/test_recordings.py::test_eeg2_of_both_releases_becomes_trials",
    33: "test_share.py::test_an_altered_archive_leaves_nothing",
    34: "remote/test_remote.py::test_what_changed_there_or_here_is_fetched_again_and_nothing_else",
    35: "remote/test_remote.py::test_a_download_cut_off_leaves_no_half_file_and_goes_on",
    37: "align/test_killed.py::test_",
    38: "test_store.py::test_a_kill_between_data_and_manifest_leaves_nothing_to_read",
    39: "faults/test_writers.py::test_two_writers_of_one_run_leave_one_whole_run",
    41: "datasets/test_files.py::test_every_kind_of_image_becomes_rgb",
    43: "align/test_bad_input.py::test_captions_beyond_the_limit_or_said_twice_are_counted",
    45: "align/test_steps.py::test_a_loss_that_is_not_finite_names_image_and_trials_and_leaves_the_last_checkpoint",
}


def row(number: int) -> Callable[[Try], Try]:
    def keep(function: Try) -> Try:
        ROWS[number] = function
        return function

    return keep


@pytest.mark.parametrize("number", range(25, 51))
def test_row(number: int, case: Any, writers: Writers) -> None:
    if number in ELSEWHERE:
        file, _, name = ELSEWHERE[number].partition("::")
        assert f"def {name}" in (Path(__file__).parents[1] / file).read_text()
    if number in ROWS:
        ROWS[number](case, writers)


def as_hdf5(case: Any, **options: Any) -> Path:
    data = np.load(case.own / "responses.npy")
    (case.own / "responses.npy").unlink()
    with h5py.File(case.own / "responses.h5", "w") as handle:
        handle.create_dataset("responses", data=data, **options)
    return case.own / "responses.h5"


@row(25)
@row(28)
def hdf5_cut_short_and_with_slow_chunks(case: Any, _: Writers) -> None:
    path = as_hdf5(case, chunks=(8, 2), compression="gzip")
    with pytest.warns(UserWarning, match=r"chunks \(8, 2\) make random rows slow.*h5repack -l CHUNK=1x5"):
        datasets.load("folder", case.own)
    with open(path, "rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)  # as HDF5 does while a file is written
        assert "responses.h5 is cut short or being written" in case.refused(*case.encode())
    path.write_bytes(path.read_bytes()[:-500])
    assert "responses.h5" in case.refused(*case.encode())


@row(26)
@row(27)
@row(40)
def hdf5_of_elsewhere_of_40_tb_and_with_a_chunk_missing(case: Any, _: Writers) -> None:
    path = as_hdf5(case)
    path.rename(case.tmp / "other.h5")
    for link in (h5py.ExternalLink(str(case.tmp / "other.h5"), "responses"), h5py.SoftLink("/x")):
        with h5py.File(path, "w") as handle:
            handle["responses"] = link
            handle["x"] = np.ones((24, 5))
        assert "is a link to elsewhere" in case.refused(*case.encode("--option", "variable=responses"))
    with h5py.File(path, "w") as handle:
        handle.create_dataset("responses", (10**7, 10**6), "f4", chunks=(1000, 1000))
    assert "claims (10000000, 1000000) float32, 4e+04 GB" in case.refused(*case.encode())
    with h5py.File(path, "w") as handle:
        handle.create_dataset("responses", (24, 5), "f4", chunks=(12, 5))[:12] = 1
    assert "lacks 1 of 2 chunks" in case.refused(*case.encode())


@row(29)
def mat_of_either_version(case: Any, writers: Writers) -> None:
    writers["recordings"].write_nsd(case.tmp / "nsd", sessions=1)
    place = case.tmp / "nsd/nsddata/experiments/nsd/nsd_expdesign.mat"
    old = nsd.design(case.tmp / "nsd", 1, 1)
    content = scipy.io.loadmat(place)
    with h5py.File(place, "w", userblock_size=512) as handle:
        for name in ("masterordering", "subjectim", "sharedix"):
            handle[name] = content[name].T.astype(float)
    head = b"MATLAB 7.3 MAT-file".ljust(124) + b"\0\2IM"
    place.write_bytes(head + place.read_bytes()[len(head) :])
    with pytest.raises(DataError, match="MATLAB did not write it and its axes may be in either order"):
        nsd.design(case.tmp / "nsd", 1, 1)
    with h5py.File(place, "r+") as handle:
        for name in handle:
            handle[name].attrs["MATLAB_class"] = np.bytes_("double")
    place.write_bytes(head + place.read_bytes()[len(head) :])
    pd.testing.assert_frame_equal(nsd.design(case.tmp / "nsd", 1, 1), old)


class Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {FLAG}",)


FLAG = Path(f"/tmp/brainlens-evil-{os.getpid()}")


@row(30)
@row(32)
def pickles_that_call(case: Any, _: Writers) -> None:
    np.save(case.own / "responses.npy", np.array(Evil(), dtype=object), allow_pickle=True)
    assert "holds Python objects" in case.refused(*case.encode())
    torch.save({"model": Evil()}, case.tmp / "evil.pth")
    assert "cannot be read as plain weights" in case.refused("convert", case.tmp / "evil.pth", case.tmp / "out")
    with open(case.tmp / "evil.npy", "wb") as handle:
        pickle.dump(Evil(), handle)
    with pytest.raises(DataError, match=r"evil\.npy"):
        datasets.unpickle.load_pickled(case.tmp / "evil.npy")
    assert not FLAG.exists()


def test_no_archive_is_unpacked_and_nothing_is_run_or_fetched_by_hand() -> None:
    """Rows 30 to 35: `open_archive` and S3 have tests of their own; all else is fetched, and checked, by nilearn and the hub."""
    wrong = re.compile(
        r"extractall|unpack_archive|tarfile|urlopen|urlretrieve|import requests|pickle\.load|allow_pickle=True|"
        r"weights_only=False|trust_remote_code=True|yaml\.load|subprocess\.|os\.system|[^.\w]eval\([^)]|[^.\w]exec\("
    )
    found = {path.relative_to(SOURCES).as_posix(): wrong.findall(path.read_text()) for path in SOURCES.rglob("*.py")}
    assert {name: several for name, several in found.items() if several} == {}


FULL = """
import resource, signal, sys
import numpy as np
from brainlens import store
from brainlens.types import DataError, Result
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
try:
    store.save_result(Result("encode", {"m": 2.0}, {"a": np.ones(10), "b": np.ones(100_000)}), sys.argv[1])
except DataError as error:
    print(error)
"""


@row(36)
def a_full_disk_leaves_the_old_run(case: Any, _: Writers) -> None:
    run = case.tmp / "runs/encode-1"
    store.save_result(Result("encode", {"m": 1.0}, {"a": np.zeros(10)}), run)
    before = sorted(path.name for path in run.iterdir())
    said = subprocess.run([sys.executable, "-c", FULL, str(run)], capture_output=True, text=True, timeout=200, check=True)
    assert "could not be written" in said.stdout
    found = store.load_result(run)
    assert found.metrics == {"m": 1.0}
    np.testing.assert_array_equal(found.arrays["a"], 0)
    assert sorted(path.name for path in run.iterdir()) == before
    with pytest.raises(DataError, match="nothing can be written there"):
        store.check_writable("/proc/runs")
    assert "nothing can be written there" in case.refused("encode", "--runs", "/proc/runs", "--method", "ridge")  # before the fit


def png(width: int, height: int) -> bytes:
    """A black grey-scale picture of this size, packed as tightly as it goes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@row(42)
def pictures_damaged_or_huge(case: Any, _: Writers) -> None:
    place = case.own / "images/003.png"
    whole = place.read_bytes()
    for content, match in (
        (whole[:60], "003.png cannot be opened as an image"),
        (png(20_000, 20_000), r"003.png cannot be opened as an image \(DecompressionBombError"),
        (png(8_100, 8_100), "003.png claims 8100 x 8100 pixels"),
        (png(7_800, 7_800), "more than 200 times"),
    ):
        place.write_bytes(content)
        said = case.refused(*case.encode())
        assert re.search(match, said), said


def test_bombs_end_before_they_are_unpacked(case: Any, writers: Writers) -> None:
    """Row 17: an .npz, a .mat and a picture that unpack to gigabytes are refused within 150 MB."""
    with zipfile.ZipFile(case.tmp / "k2008_92.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in images92.KEYS:
            with archive.open(f"{name}.npy", "w") as handle:
                np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": (60_000_000,)})
                for _ in range(15):
                    handle.write(bytes(4_000_000))
    scipy.io.savemat(case.tmp / "a.mat", {"responses": np.zeros((3000, 20_000))}, do_compression=True)
    (case.tmp / "a.png").write_bytes(png(7_900, 7_900))
    doors: list[tuple[Callable[[], Any], str]] = [
        (lambda: images92.load(case.tmp), "k2008_92.npz"),
        (lambda: stored_arrays.read_array(case.tmp / "a.mat", "responses"), "a.mat"),
        (lambda: read_image(case.tmp / "a.png"), "a.png"),
    ]
    for door, name in doors:
        tracemalloc.start()
        with pytest.raises(DataError, match=rf"{re.escape(name)}: .* MB unpack to .* more than 200 times"):
            door()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 150e6, name


@row(43)
def captions_of_every_kind(case: Any, _: Writers) -> None:
    ids = np.array(["a", "b"])
    nasty = "<script>alert(1)</script> \u202eevil\u202c " + "x" * 100_000
    given: Any = [unicodedata.normalize("NFD", "café"), [nasty, "", "🐕 \0"]]
    found = Stimuli(ids, np.zeros((2, 2, 2, 3), np.uint8), given)
    assert found.captions[0] == ["café"]
    page = render([("run", Result("align", {"m": 1.0}, tables={"words": pd.DataFrame({"caption": [nasty, "🐕 \0"]})}))])
    assert "<script>alert" not in page
    for captions in ('{"000": "\\ud800"}', '{"000": 5}', '{"000": [null]}'):
        (case.own / "captions.json").write_text(captions)
        assert "captions" in case.refused(*case.encode())


@row(44)
def ids_stay_texts(case: Any, _: Writers) -> None:
    assert list(datasets.load("folder", case.own).stimuli.ids)[:2] == ["000", "001"]


@row(45)
@row(47)
@row(48)
def losses_folds_and_ceilings(case: Any, _: Writers) -> None:
    rng = np.random.default_rng(0)
    with pytest.raises(DataError, match="cannot cut 4 groups into 5 folds"):
        RidgeCV(cv=5).fit(rng.normal(size=(4, 3)), rng.normal(size=4))
    ids = np.array([f"{i:02d}" for i in range(40)])
    trials = pd.DataFrame({"stimulus": ids, "split": np.where(np.arange(40) < 28, "train", "test")})
    responses = Responses(rng.normal(size=(40, 3)).astype(np.float32), trials, pd.DataFrame(index=range(3)))
    features = Features({"a": rng.normal(size=(40, 4)).astype(np.float32)}, ids, "m")
    once = encode(responses, features, method="ridge")  # nothing is repeated
    assert once.metrics["encoding/ceiling_undefined"] == 1.0
    assert np.isnan(once.metrics["encoding/r2_of_ceiling"])
    ceiling = noise_ceiling(rng.normal(size=(60, 50)), np.tile(np.arange(20).astype(str), 3)).ceiling
    assert ceiling.min() >= 0
    assert ceiling.max() <= 1
    spoilt = responses.data.copy()
    spoilt[3, 0] = 3e38
    with pytest.raises(DataError, match="33% of the 3 units"):
        encode(Responses(spoilt, trials, pd.DataFrame(index=range(3))), features, method="ridge")


@row(46)
def a_device_that_is_full(case: Any, _: Writers) -> None:
    images = np.random.default_rng(0).integers(0, 255, (10, 4, 4, 3), dtype=np.uint8)
    stimuli = Stimuli(np.array([f"{i}" for i in range(10)]), images)
    sizes: list[int] = []

    def forward(holds: int) -> Callable[..., Any]:
        def run(pictures: list[np.ndarray], _ids: np.ndarray) -> Any:
            sizes.append(len(pictures))
            if len(pictures) > holds:
                raise torch.OutOfMemoryError("CUDA out of memory")
            x = torch.from_numpy(np.stack(pictures)).float()
            yield "a", x.flatten(1) @ torch.arange(48.0), None

        return run

    def features(holds: int) -> np.ndarray:
        run = forward(holds)

        def one(pictures: list[np.ndarray], ids: np.ndarray) -> Any:
            return ((name, whole[:, None], parts) for name, whole, parts in run(pictures, ids))

        return vision.stream(stimuli, one, {"name": "m"}, pool_grid=None, batch=8, dtype=np.dtype("f4"), cache=None).data["a"]

    whole = features(100)
    np.testing.assert_array_equal(features(3), whole)
    assert max(sizes[-4:]) == 2
    with pytest.raises(DataError, match="one picture is more than the device can hold"):
        features(0)


@row(49)
def runs_of_other_versions(case: Any, _: Writers) -> None:
    run = case.tmp / "runs/encode-1"
    place = store.save_result(Result("encode", {"m": 1.0}), run)
    whole = json.loads(place.read_text())
    for change, match in (
        ({"format": "1"}, "has format '1', a number is expected"),
        ({"format": 99}, "this version reads up to 2; update brainlens"),
        ({"metrics": {"m": 2.0}}, "was altered after it was written"),
        ({"sha256": None}, "was altered after it was written"),
        ({"arrays": 5}, "result.json"),
    ):
        place.write_text(json.dumps(whole | change))
        assert match in case.refused("report", case.tmp / "runs", "--out", case.tmp / "page.html")
    old = {key: value for key, value in whole.items() if key != "sha256"} | {"format": 1}  # of before results had a hash
    place.write_text(json.dumps(old))
    assert store.load_result(run).metrics == {"m": 1.0}


@row(50)
def no_network(case: Any, _: Writers) -> None:
    import huggingface_hub.constants

    case.patch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    said = case.refused("features", "nobody/no-such-model", "--dataset", "folder", "--data", case.own, "--out", case.tmp / "f")
    assert "give that folder instead" in said


def test_every_row_is_there() -> None:
    assert sorted({*ROWS, *ELSEWHERE}) == list(range(25, 51))
