"""Files from elsewhere: damage, lies, traps and slips give one typed error and touch nothing."""

from __future__ import annotations

import gzip
import os
import pickle
import resource
import struct
import warnings
import zlib
from contextlib import suppress
from pathlib import Path

import h5py
import nibabel as nib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from brainlens.datasets import hdf5, pictures, unpickle, volumes
from brainlens.types import DataError, Volume
from brainlens.warned import BrainlensWarning

AFFINE = np.diag([-2.0, 2, 2, 1])
AFFINE[:3, 3] = (90, -126, -72)


def save(path: Path, data: np.ndarray, affine: np.ndarray = AFFINE, **header: float) -> Path:
    image = nib.Nifti1Image(data, affine)
    for key, value in header.items():
        image.header[key] = value
    nib.save(image, path)
    return path


def raw_header(path: Path, **values: object) -> None:
    """Rewrites header fields of a .nii or .nii.gz behind the library's back."""
    packed = path.suffix == ".gz"
    data = gzip.decompress(path.read_bytes()) if packed else path.read_bytes()
    header = nib.Nifti1Header(data[:348], check=False)
    for key, value in values.items():
        header[key] = value
    new = header.binaryblock + data[348:]
    path.write_bytes(gzip.compress(new) if packed else new)


def bold(shape=(5, 6, 4, 7), dtype="i2", seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-300, 300, shape).astype(dtype)


# --- volumes


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", ["i2", "u1", "f4", "f8", ">i2", "i4"])
def test_volumes_are_read_as_nibabel_reads_them(tmp_path, suffix, dtype):
    data = bold(dtype="u1" if dtype == "u1" else "i2").astype(dtype)
    path = save(tmp_path / f"a{suffix}", data)
    header = volumes.read_header(path)
    assert header.shape == data.shape
    frames = np.stack(list(volumes.read_frames(header)), axis=-1)
    np.testing.assert_allclose(frames, nib.load(path).get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(header.affine, AFFINE)


def test_scaling_is_applied(tmp_path):
    path = save(tmp_path / "a.nii.gz", bold())
    raw_header(path, scl_slope=0.5, scl_inter=3.0)
    space = Volume(np.ones((5, 6, 4), bool), AFFINE)
    expected = nib.load(path).get_fdata().reshape(-1, 7).T
    np.testing.assert_allclose(volumes.read_masked(path, space), expected, rtol=1e-6)
    raw_header(path, scl_slope=np.nan)
    with pytest.warns(UserWarning, match="scaling"):
        volumes.read_header(path)


def test_masked_voxels_come_in_the_order_of_the_space(tmp_path):
    data = bold()
    mask = np.random.default_rng(1).random((5, 6, 4)) > 0.5
    save(tmp_path / "mask.nii.gz", mask.astype("u1"))
    space = volumes.read_mask(tmp_path / "mask.nii.gz")
    values = volumes.read_masked(save(tmp_path / "a.nii.gz", data), space)
    np.testing.assert_array_equal(values, data[mask].T)
    np.testing.assert_array_equal(space.fill(values[2])[mask], data[mask][:, 2])


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_tail(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 4)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def junk(path: Path) -> None:
    path.write_bytes(b"<html>not found</html>" * 50)


def claims_more(path: Path) -> None:
    raw_header(path, dim=[4, 32000, 32000, 32000, 1, 1, 1, 1])


def claims_longer(path: Path) -> None:
    raw_header(path, dim=[4, 5, 6, 4, 900, 1, 1, 1])


def claims_negative(path: Path) -> None:
    raw_header(path, dim=[4, 5, -6, 4, 7, 1, 1, 1])


def flat_affine(path: Path) -> None:
    raw_header(path, srow_x=[0, 0, 0, 0], sform_code=1)


def grows(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0" * 30_000_000))


DAMAGES = [truncate, cut_tail, flip, empty, junk, claims_more, claims_longer, claims_negative, flat_affine, grows, Path.unlink]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_nii_gz_is_an_error_before_its_values_are_used(tmp_path, damage):
    path = save(tmp_path / "a.nii.gz", bold())
    space = Volume(np.ones((5, 6, 4), bool), AFFINE)
    volumes.read_masked(path, space)
    damage(path)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"a\.nii\.gz") as caught:
        volumes.read_masked(path, space)
    assert len(str(caught.value).splitlines()) == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("damage", [truncate, empty, junk, claims_more, claims_longer, claims_negative, flat_affine])
def test_a_damaged_nii_is_an_error(tmp_path, damage):
    path = save(tmp_path / "a.nii", bold())
    damage(path)
    with pytest.raises(DataError, match=r"a\.nii"):
        volumes.read_masked(path, Volume(np.ones((5, 6, 4), bool), AFFINE))


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_one_flipped_byte_never_gives_other_values(tmp_path, at, change):
    path = tmp_path / "f.nii.gz"
    data = bold()
    save(path, data)
    content = bytearray(path.read_bytes())
    content[at % len(content)] ^= change
    path.write_bytes(content)
    try:
        values = volumes.read_masked(path, Volume(np.ones((5, 6, 4), bool), AFFINE))
    except DataError:
        return
    np.testing.assert_array_equal(values, data.reshape(-1, 7).T)  # a byte of the gzip header, which holds no values


@pytest.mark.parametrize(
    "space, match",
    [
        (Volume(np.ones((5, 6, 5), bool), AFFINE), "grid"),
        (Volume(np.ones((6, 5, 4), bool), AFFINE), "grid"),
        (Volume(np.ones((5, 6, 4), bool), np.diag([2.0, 2, 2, 1])), "left and right look swapped"),
        (Volume(np.ones((5, 6, 4), bool), AFFINE + np.eye(4, k=3) * 0.5), "affine differs"),
    ],
)
def test_another_space_is_never_resampled_silently(tmp_path, space, match):
    path = save(tmp_path / "a.nii.gz", bold())
    with pytest.raises(DataError, match=match):
        volumes.read_masked(path, space)


def test_an_empty_mask_is_an_error(tmp_path):
    with pytest.raises(DataError, match="empty"):
        volumes.read_mask(save(tmp_path / "m.nii.gz", np.zeros((3, 3, 3), "u1")))
    with pytest.raises(DataError, match="7 frames"):
        volumes.read_volume(save(tmp_path / "b.nii.gz", bold()))


# --- pickles


class Evil:
    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


EVIL = [
    lambda flag: Evil(os.system, f"touch {flag}"),
    lambda flag: Evil(eval, f"open({str(flag)!r}, 'w')"),
    lambda flag: Evil(open, str(flag), "w"),
    lambda flag: {"preprocessed_eeg_data": np.ones(3), "ch_names": [Evil(os.mkdir, str(flag))]},
    lambda flag: Evil(getattr, "x", "upper"),
    lambda flag: np.random.default_rng(0),
    lambda flag: Evil(np.load, str(flag)),
    lambda flag: {"a": np.dtype([("x", "f4")])},
    lambda flag: os.system,
]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("make", EVIL)
def test_an_evil_pickle_is_blocked_and_runs_nothing(tmp_path, make, protocol):
    flag = tmp_path / "flag"
    path = tmp_path / "evil.npy"
    path.write_bytes(pickle.dumps(make(flag), protocol=protocol))
    with pytest.raises(DataError, match=r"evil\.npy"):
        unpickle.load_pickled(path)
    assert not flag.exists()
    np.save(path, np.array(make(flag), dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"evil\.npy"):
        unpickle.load_dictionary(path)
    assert not flag.exists()


def content() -> dict:
    rng = np.random.default_rng(0)
    return {
        "preprocessed_eeg_data": rng.normal(size=(20, 4, 17, 100)),
        "half": rng.normal(size=(300, 200)).astype("f2"),
        "fortran": np.asfortranarray(rng.normal(size=(100, 200))),
        "turned": rng.normal(size=(100, 200)).T,
        "big_endian": rng.normal(size=5).astype(">f4"),
        "ch_names": ["Pz", "Oz"],
        "names": np.array(["Pz", "Oz"]),
        "objects": np.array(["x", "yyy"], dtype=object),
        "times": np.linspace(-0.2, 0.8, 100),
        "sfreq": np.float64(250),
        "many": list(range(3000)),
        "nested": {"a": (1, -5, 2**40, 1.5, None, True), "b": [[], {}]},
        "empty": np.empty((0, 3)),
        "mask": np.array([True, False]),
    }


def same(a: object, b: object) -> None:
    assert np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b  # type: ignore[arg-type]
    if isinstance(a, np.ndarray):
        assert a.dtype == b.dtype  # type: ignore[attr-defined]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_plain_dictionaries_come_back_as_python_would_give_them(tmp_path, protocol):
    path = tmp_path / "a.npy"
    path.write_bytes(pickle.dumps(content(), protocol=protocol))
    back = unpickle.load_dictionary(path, ("times",))
    for key, value in content().items():
        same(value, back[key])
    if protocol > 2:
        assert isinstance(back["preprocessed_eeg_data"], np.memmap)


def test_a_dictionary_under_an_npy_header_comes_back(tmp_path):
    np.save(tmp_path / "a.npy", content(), allow_pickle=True)
    for key, value in unpickle.load_dictionary(tmp_path / "a.npy").items():
        same(content()[key], value)


def test_large_arrays_stay_in_the_file(tmp_path):
    path = tmp_path / "big.npy"
    with open(path, "wb") as handle:
        pickle.dump({"x": np.ones((4000, 4000))}, handle, protocol=4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    back = unpickle.load_dictionary(path)
    assert back["x"][3999, 3999] == 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000


@pytest.mark.parametrize("key, match", [("nothing", "no key"), (None, "list")])
def test_a_pickle_of_another_kind_is_named(tmp_path, key, match):
    (tmp_path / "a.npy").write_bytes(pickle.dumps({"x": 1} if key else [1]))
    with pytest.raises(DataError, match=match):
        unpickle.load_dictionary(tmp_path / "a.npy", ("nothing",))


def test_a_plain_array_is_not_a_dictionary(tmp_path):
    np.save(tmp_path / "a.npy", np.ones(3))
    with pytest.raises(DataError, match="plain array"):
        unpickle.load_pickled(tmp_path / "a.npy")


@given(st.integers(0, 10**6), st.integers(1, 255), st.booleans())
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_pickle_is_a_typed_error_or_plain_values(tmp_path, at, change, cut):
    data = bytearray(pickle.dumps({"x": np.arange(20.0), "y": ["a", 1], "z": np.float32(2)}, protocol=4))
    at %= len(data)
    data[at] ^= change
    path = tmp_path / "a.npy"
    path.write_bytes(data[:at] if cut else data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with suppress(DataError):
            unpickle.load_pickled(path)


def test_a_pickle_that_repeats_itself_does_not_explode(tmp_path):
    nest: list = ["x"]
    for _ in range(60):
        nest = [nest, nest]
    (tmp_path / "a.npy").write_bytes(pickle.dumps(nest, protocol=4))
    assert len(unpickle.load_pickled(tmp_path / "a.npy")) == 2


# --- HDF5


def test_hdf5_links_to_elsewhere_are_not_followed(tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as f:
        f["data"] = np.ones(5)
    (tmp_path / "raw.bin").write_bytes(b"\0" * 40)
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f["mine"] = np.arange(5.0)
        f["group/inner"] = np.arange(5.0)
        f["external"] = h5py.ExternalLink("secret.h5", "/data")
        f["soft"] = h5py.SoftLink("/mine")
        f["folder"] = h5py.ExternalLink("secret.h5", "/")
        f.create_dataset("outside", (5,), "f8", external=[(str(tmp_path / "raw.bin"), 0, 40)])
        layout = h5py.VirtualLayout((5,), "f8")
        layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "data", (5,))
        f.create_virtual_dataset("virtual", layout)
        f.create_dataset("sparse", (10**7, 10**6), "f4", chunks=(10, 10))
        f.create_dataset("holes", (100, 10), "f4", chunks=(10, 10))[:50] = 1
        f.create_dataset("words", data=["a"])
    for name in ("mine", "group/inner"):
        with hdf5.open_dataset(tmp_path / "a.h5", name) as data:
            assert data[2] == 2
    cases = {"external": "link", "soft": "link", "folder/data": "link", "outside": "other files", "virtual": "other files"}
    cases |= {
        "sparse": "claims",
        "holes": "lacks 5 of 10 chunks",
        "words": "numbers",
        "missing": "no dataset",
        "group": "is a group",
    }
    for name, match in cases.items():
        with pytest.raises(DataError, match=match), hdf5.open_dataset(tmp_path / "a.h5", name):
            pass
    truncate(tmp_path / "a.h5")
    with pytest.raises(DataError, match="cannot be opened"), hdf5.open_dataset(tmp_path / "a.h5", "mine"):
        pass


def test_slow_chunks_are_told(tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as f:
        f.create_dataset("naive", data=np.ones((400, 3000), "f4"), compression="gzip")
        f.create_dataset("rows", data=np.ones((400, 3000), "f4"), compression="gzip", chunks=(1, 3000))
    with hdf5.open_dataset(tmp_path / "a.h5", "naive") as data, pytest.warns(UserWarning, match="slow"):
        hdf5.warn_if_slow(data, "a.h5")
    with hdf5.open_dataset(tmp_path / "a.h5", "rows") as data:
        hdf5.warn_if_slow(data, "a.h5")


# --- pictures


def test_every_kind_of_image_becomes_rgb(tmp_path):
    rng = np.random.default_rng(0)
    grey = rng.integers(0, 255, (6, 8)).astype("u1")
    Image.fromarray(grey).save(tmp_path / "grey.png")
    Image.fromarray(grey.astype("u2") * 257).save(tmp_path / "deep.png")
    rgba = np.dstack([grey, grey, grey, np.zeros_like(grey)])
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    Image.fromarray(np.dstack([grey] * 3)).convert("CMYK").save(tmp_path / "cmyk.jpg")
    Image.fromarray(grey).convert("P").save(tmp_path / "palette.png")
    turned = Image.fromarray(np.dstack([grey] * 3))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    with pytest.warns(BrainlensWarning, match="16 bit are scaled") as said:
        read = {p.stem: pictures.read_image(p) for p in tmp_path.iterdir()}
    assert len(said) == 1  # of one of them
    for name in ("grey", "deep", "palette"):
        np.testing.assert_array_equal(read[name], np.dstack([grey] * 3))
    assert (read["clear"] == 255).all()
    assert read["cmyk"].shape == (6, 8, 3)
    np.testing.assert_array_equal(read["turned"][..., 0], np.rot90(grey, -1))


@pytest.mark.parametrize("top", [255, 0.9])  # 0.9: so dark that 16 bit hold at most 231, a picture that is black in 8 bit
def test_the_depth_of_a_picture_says_its_scale_and_not_its_content(tmp_path, top):
    grey = np.tile(np.linspace(0, top, 32), (16, 1))
    deep = (grey * 257).round()
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "a.png")
    Image.fromarray(deep.astype(np.uint16)).save(tmp_path / "a.tif")
    Image.fromarray(deep.astype(np.int32)).save(tmp_path / "b.tif")
    Image.fromarray((grey / 255).astype(np.float32)).save(tmp_path / "c.tif")
    for name in ("a.png", "a.tif", "b.tif"):
        with pytest.warns(BrainlensWarning, match=r"pictures of 16 bit are scaled to 8 \(65535 becomes 255\)"):
            read = pictures.read_image(tmp_path / name)
        assert np.abs(read[..., 1] - grey).max() <= 0.5 + 1 / 257
    with pytest.raises(DataError, match=r"c\.tif: image of mode F .* save it as 8 or 16 bit"):
        pictures.read_image(tmp_path / "c.tif")


def test_colour_of_16_bit_is_said_too_and_8_bit_is_not(tmp_path):
    rows = np.random.default_rng(0).integers(0, 65536, (4, 5, 3)).astype(">u2")
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 5, 4, 16, 2, 0, 0, 0))]  # which PIL itself does not write
    chunks += [(b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))), (b"IEND", b"")]
    parts = [struct.pack(">I", len(c)) + kind + c + struct.pack(">I", zlib.crc32(kind + c)) for kind, c in chunks]
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(parts))
    with pytest.warns(BrainlensWarning, match="pictures of 16 bit are scaled to 8"):
        read = pictures.read_image(tmp_path / "deep.png")
    assert np.abs(read - rows / 257).max() <= 1
    Image.fromarray(read).save(tmp_path / "plain.png")
    Image.fromarray(read[..., 0]).save(tmp_path / "grey.tif")
    Image.fromarray(read).save(tmp_path / "plain.bmp")
    for name in ("plain.png", "plain.bmp", "grey.tif"):  # warnings are errors here
        assert pictures.read_image(tmp_path / name).shape == (4, 5, 3)


def test_damaged_and_giant_images_are_named(tmp_path, monkeypatch):
    Image.fromarray(np.zeros((50, 50, 3), "u1")).save(tmp_path / "a.png")
    files = pictures.ImageFiles([tmp_path / "a.png"])
    assert files[0].shape == (50, 50, 3)
    monkeypatch.setattr(pictures, "MAX_PIXELS", 100)
    with pytest.raises(DataError, match="50 x 50"):
        files[0]
    truncate(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png"):
        files[0]
    with pytest.raises(DataError, match="missing"):
        pictures.ImageFiles([tmp_path / "none.png"])
    with pytest.raises(DataError, match="do this"):
        pictures.NoImages(3, "do this")[0]
