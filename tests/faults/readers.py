"""The readers of the library and the files that they read, in small: a table of (writer of a folder, reader of it) by name."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import h5py
import nibabel as nib
import numpy as np
import pandas as pd
import safetensors.torch
import scipy.io
import torch
from PIL import Image

from brainlens import datasets, miniatures, store
from brainlens.attribute.run_sensors import is_sensor_run
from brainlens.backbones.clip import embed_texts, load_clip
from brainlens.backbones.convert import convert_checkpoint
from brainlens.backbones.diffusion import load_diffusion
from brainlens.backbones.fine_tuning import read_labels as read_classes
from brainlens.backbones.picture_features import read_state
from brainlens.backbones.preprocess import read_preprocess
from brainlens.cli.axes import table_pieces
from brainlens.datasets import coco, digits69, images92, mosaic, runs, sealed, stored_arrays, surface_files, unpickle, volumes
from brainlens.datasets.pictures import NoImages, read_image
from brainlens.datasets.source import picture_folder
from brainlens.datasets.surface_labels import read_labels
from brainlens.parcels import atlas_parcels
from brainlens.report.page import run_folders
from brainlens.stimuli.captions import CaptionSource, read_captions, save_captions
from brainlens.store.archive import open_archive, save_archive
from brainlens.types import Features, Result, Stimuli, Surface, Volume

Make, Read = Callable[[Path], Any], Callable[[Path], Any]
TESTS = Path(__file__).resolve().parents[1]
FILES = {  # modules of tests that write recordings and weights of others in small
    "haxby": "datasets/test_haxby2001.py", "recordings": "datasets/test_recordings.py", "epochs": "datasets/test_own_epochs.py",
    "bids": "datasets/test_own_bids.py", "own": "datasets/test_own_folder.py", "labels": "datasets/test_surface_labels.py",
    "meg": "datasets/made_meg.py", "convert": "backbones/test_convert.py", "made": "datasets/made_recordings.py",
    "fmri": "datasets/made_fmri.py",
}  # fmt: skip


@cache
def writer(name: str) -> ModuleType:
    """One of these modules, loaded by its path: test folders are no packages."""
    spec = importlib.util.spec_from_file_location(f"fuzzed_{name}", TESTS / FILES[name])
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def opened(name: str, **options: Any) -> Read:
    """A reader of a recording, and of its pictures where it has some."""

    def read(folder: Path) -> Any:
        found = datasets.load(name, folder, **options)
        shown = found.stimuli.images
        pictures = [] if isinstance(shown, NoImages) else [np.asarray(shown[i]) for i in range(min(3, len(shown)))]
        said = [found.stimuli.ids, found.stimuli.captions, pictures]
        return [found.responses.data, found.responses.trials, found.responses.units, *said]

    return read


def result(folder: Path) -> None:
    units = pd.DataFrame({"roi": ["a", "b"], "x": [1.0, 2.0]})
    made = Result("encode", {"m": 1.0}, {"a": np.arange(12.0).reshape(3, 4)}, units, {"t": units}, {"seed": 0, "n": [1, 2]})
    store.save_result(made, folder)


def run(folder: Path) -> None:
    result(folder / "encode-1")


def archived(folder: Path) -> None:
    with tempfile.TemporaryDirectory() as place:
        result(Path(place) / "encode-1")
        save_archive(Path(place) / "encode-1", folder / "run.zip")


def unpacked(folder: Path) -> Any:
    with tempfile.TemporaryDirectory() as place:
        return store.load_result(open_archive(folder / "run.zip", place))


def arrays(folder: Path) -> None:
    store.save_array(folder, "a", np.arange(24.0).reshape(6, 4), ids=list("abcdef"))
    store.save_array(folder, "b", np.array(["x", "yy"]))


def features(folder: Path) -> None:
    x = np.arange(40, dtype=np.float32).reshape(5, 8)
    made = Features({"a": x}, np.array(list("abcde")), "m", {"t": x.reshape(5, 4, 2)}, {"t": (2, 2)})
    store.save_features(made, folder)


def checkpoint(folder: Path) -> None:
    store.save_checkpoint(folder, {"step": 3, "model": {"w": torch.arange(6.0)}, "list": [(1, 2.5), "x"], "nan": float("nan")})


def model(folder: Path) -> None:
    store.save_model(folder, model="M", version=1, parameters={"n": 1.5}, state={"w": torch.arange(6.0), "a": np.ones(3)})


def log(folder: Path) -> None:
    for step in range(4):
        store.append_log(folder, {"step": step, "loss": 1.0})


def captions(folder: Path) -> None:
    save_captions(folder / "c.json", CaptionSource("c", {"a": ["one", "two"], "b": ["three"]}, {"model": "m"}))


def request(folder: Path) -> None:
    store.save_result(Result("encode", {"m": 1.0}), folder / "encode-1")
    note = {"request": "k", "made": "now", "folders": ["encode-1"], "rows": [{"metric": "m", "value": 1.0}]}
    store.save_json(folder / "encode-1/request.json", note)


def array(folder: Path, suffix: str) -> None:
    data = np.arange(60, dtype=np.float32).reshape(12, 5)
    if suffix == ".mat":
        scipy.io.savemat(folder / "a.mat", {"a": data, "b": "text", "c": {"d": 1}}, do_compression=True)
    elif suffix == ".h5":
        with h5py.File(folder / "a.h5", "w") as handle:
            handle.create_dataset("a", data=data, chunks=(4, 5), compression="gzip", fletcher32=True)
            handle["g/b"] = np.ones(3)
    else:
        pd.DataFrame(data).to_csv(folder / "a.csv", index=False)


def pictures(folder: Path) -> None:
    rng = np.random.default_rng(0)
    for suffix in ("png", "jpg", "tif", "gif", "webp", "bmp"):
        Image.fromarray(rng.integers(0, 255, (9, 8, 3), dtype=np.uint8)).save(folder / f"a.{suffix}")


def manifest(folder: Path) -> None:
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(folder / "a.png")
    rows = [{"file": "a.png", "captions": ["x"]}, {"file": "a.png", "caption": "y"}]
    (folder / "manifest.json").write_text(json.dumps(rows[:1]))


def volume(folder: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 2, 2), np.eye(4)), folder / "a.nii.gz")
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2), np.eye(4)), folder / "b.nii")


def surface(folder: Path) -> None:
    for name in ("a.mgh", "b.mgz"):
        nib.save(nib.MGHImage(np.arange(10, dtype=np.float32).reshape(5, 1, 1, 2), np.eye(4)), folder / name)


def pickled(folder: Path) -> None:
    content = {"data": np.arange(20.0).reshape(4, 5), "names": ["a", "b"], "nested": {"t": (1, None, True), "f": np.float64(2)}}
    np.save(folder / "a.npy", content, allow_pickle=True)


def seal(folder: Path) -> None:
    for name in ("a.csv", "b/c.csv"):
        store.save_text(folder / name, "x,y\n1,2\n")
    sealed.seal_folder(folder)


def archive(folder: Path) -> None:
    rng = np.random.default_rng(0)
    bold = rng.normal(size=(8, 6))
    images = rng.integers(0, 255, (8, 5, 5)).astype(np.float64)
    known = list(digits69.DIGITS)
    label = np.array([known[i % 2] for i in range(8)])
    np.savez_compressed(folder / digits69.FILE, bold=bold, images=images, label=label, test=np.arange(8) > 5)


def known_objects(folder: Path) -> None:
    """Photographs and dissimilarities of six objects, in the layout of the 92."""
    rng = np.random.default_rng(0)
    flags = {name: np.arange(6) % 2 == 0 for name in ("human", "face", "animal", "natural")}
    pictures, category = rng.integers(0, 255, (6, 8, 8, 3), dtype=np.uint8), np.array(["a", "b", "c"] * 2)
    distances = {"hIT_rdm": rng.uniform(0.8, 1.2, (4, 2, 15)), "mIT_rdm": rng.uniform(0.8, 1.2, 15)}
    np.savez_compressed(folder / images92.FILE, images=pictures, category=category, **flags, **distances)


def eeglab(folder: Path) -> None:
    """Four channels at 128 Hz for 4 s with three squares, in the layout of EEGLAB's sample recording."""
    places = [{"labels": name, "X": float(k), "Y": 1.0, "Z": 2.0} for k, name in enumerate(("Fz", "Cz", "Pz", "Oz"))]
    shown = [{"type": "square", "position": 1.0 + k % 2, "latency": 120.0 + 100 * k} for k in range(3)]
    np.random.default_rng(0).normal(size=(512, 4)).astype("<f4").tofile(folder / "eeglab_data.fdt")
    head = {"nbchan": 4.0, "trials": 1.0, "pnts": 512.0, "srate": 128.0, "xmin": 0.0, "xmax": 511 / 128, "ref": "common"}
    inside = {"chanlocs": places, "event": shown, "data": "eeglab_data.fdt", "setname": "made", "icawinv": np.zeros((0, 0))}
    scipy.io.savemat(folder / "eeglab_data.set", {"EEG": head | inside}, appendmat=False)


def meg(folder: Path) -> None:
    table = writer("meg").trials({"cat": 2, "dog": 2}, {"owl": 3})
    writer("meg").write(folder, table, samples=241)
    writer("meg").write_images(folder, table)


def sealed_recording(folder: Path) -> None:
    writer("own").write(folder)
    sealed.seal_folder(folder)


def classes(folder: Path) -> None:
    (folder / "classes.csv").write_text("file,label\na.png,dog\nb.png,cat\n", encoding="utf-8")


def irregular(folder: Path) -> None:
    rows = [{"id": k, "name": str(k)} for k in range(3)]
    seen = [{"image_id": k, "category_id": k % 3, "area": 4.5 + k, "caption": "a dog", "id": k} for k in range(6)]
    (folder / "coco.json").write_text(json.dumps({"categories": rows, "annotations": seen}))
    (folder / "sweep.csv").write_text("subject,model,seed\n1,a;b,0\n2,a,yes\n")


def annotated(folder: Path) -> Any:
    place = folder / "coco.json"
    return [coco.coco_categories([place], range(6)), coco.coco_captions([place], range(6)), table_pieces(folder / "sweep.csv")]


SPACE = Volume(np.ones((4, 3, 2), bool), np.eye(4))
MESH = Surface("fsaverage5", np.array(["left", "left", "right"]), np.array([0, 9, 5]))


def atlas(folder: Path) -> None:
    nib.save(nib.Nifti1Image(np.arange(24, dtype=np.int16).reshape(4, 3, 2) % 3, np.eye(4)), folder / "atlas.nii.gz")
    (folder / "names.txt").write_text("# value name\n1 V1\n2 V2\n")


def labels(folder: Path) -> None:
    for kind in ("annot", "mgz", "gifti"):
        getattr(writer("labels"), f"write_{kind}")(folder)


def labelled(folder: Path) -> Any:
    kinds = ([f"{side}.my.{kind}" for side in ("lh", "rh")] for kind in ("annot", "mgz"))
    files = [*kinds, ["my.L.label.gii", "my.R.label.gii"]]
    return [list(read_labels([folder / name for name in pair], MESH)) for pair in files]


def weights(folder: Path) -> None:
    writer("convert").released(folder, "a.pth")
    safetensors.torch.save_file({"x": torch.arange(6.0)}, folder / "b.safetensors")
    torch.save({"x": torch.arange(6.0)}, folder / "c.pth")


def weighed(folder: Path) -> Any:
    with tempfile.TemporaryDirectory() as place:
        return [convert_checkpoint(folder / "a.pth", place), read_state(folder / "b.safetensors"), read_state(folder / "c.pth")]


def copied(name: str) -> Make:
    return lambda folder: shutil.copytree(miniatures.folder(name), folder, dirs_exist_ok=True)


def small(folder: Path) -> None:
    """A folder of MOSAIC with 130 grayordinates."""
    with h5py.File(folder / "sub-03_NSD.hdf5", "w") as file:
        for i in range(6):
            file[f"betas/image{i}"] = np.full((130,) if i else (2, 130), i, np.float32)
    split = ["test", "test", *["train"] * 4]
    pd.DataFrame({"stimulus": [f"image{i}" for i in range(6)], "split": split}).to_csv(folder / "stimuli.csv", index=False)


def network(folder: Path) -> None:
    shutil.copy(miniatures.folder("clip") / "preprocessor_config.json", folder)


def by(name: str, function: str) -> Make:
    """The writer of a recording in small, from the tests of its reader."""
    return lambda folder: getattr(writer(name), function)(folder)


def further(name: str) -> Make:
    """A named fMRI recording without its pictures, so that mutations meet its tables and arrays."""

    def make(folder: Path) -> None:
        getattr(writer("fmri"), f"write_{name}")(writer("made"), folder)
        for shown in ("images", "things_images", "BOLD5000_Stimuli"):
            shutil.rmtree(folder / shown, ignore_errors=True)

    return make


def each(pattern: str, read: Callable[[Path], Any]) -> Read:
    return lambda folder: [read(path) for path in sorted(folder.glob(pattern))]


def frames(path: Path) -> list[np.ndarray]:
    return list(volumes.read_frames(volumes.read_header(path)))


HASHED: dict[str, tuple[Make, Read]] = {
    "result": (result, store.load_result),
    "features": (features, lambda f: [store.load_features(f).data, store.load_features(f).tokens, store.load_features(f).ids]),
    "checkpoint": (checkpoint, store.load_checkpoint),
    "model": (model, store.load_model),
    "arrays": (arrays, lambda f: [np.asarray(store.open_array(f, name)) for name in "ab"]),
    "archive": (archived, unpacked),
    "page": (run, lambda f: [(place.name, found) for place, found in run_folders(f)[0]]),
    "sealed": (sealed_recording, opened("folder")),
    "seal": (seal, lambda f: [sealed.check_sealed(f)]),
}
PLAIN: dict[str, tuple[Make, Read]] = {
    "log": (log, store.read_log),
    "captions": (captions, lambda f: read_captions(f / "c.json")),
    "request": (request, lambda f: runs._noted(f / "encode-1/request.json", "k")),
    "mat": (lambda f: array(f, ".mat"), each("a.mat", lambda p: stored_arrays.read_array(p, "a"))),
    "hdf5": (lambda f: array(f, ".h5"), each("a.h5", lambda p: stored_arrays.read_array(p, "a"))),
    "csv": (lambda f: array(f, ".csv"), each("a.csv", lambda p: stored_arrays.read_array(p, "a"))),
    "pictures": (pictures, each("*", read_image)),
    "manifest": (manifest, picture_folder),
    "volumes": (volume, each("*.nii*", frames)),
    "surfaces": (surface, each("*.mg*", surface_files.read_mgh)),
    "unpickle": (pickled, each("*.npy", unpickle.load_pickled)),
    "digits69": (archive, opened("digits69")),
    "preprocess": (network, read_preprocess),
    "folder": (by("own", "write"), opened("folder")),
    "haxby2001": (by("haxby", "write_slice"), opened("haxby2001")),
    "bids": (by("bids", "write"), opened("bids")),
    "algonauts2023": (by("recordings", "write_algonauts"), opened("algonauts2023")),
    "things_eeg2": (by("recordings", "write_eeg2"), opened("things_eeg2")),
    "nod": (by("recordings", "write_nod"), opened("nod")),
    "things_fmri": (further("things_fmri"), opened("things_fmri")),
    "bold5000": (further("bold5000"), opened("bold5000")),
    "god": (further("god"), opened("god")),
    "deeprecon": (further("deeprecon"), opened("deeprecon")),
    "nsd": (lambda f: writer("recordings").write_nsd(f, sessions=1), opened("nsd", n_sessions=1)),
    "sensor_run": (result, lambda f: [is_sensor_run(f)]),
    "tables": (irregular, annotated),
    "atlas": (atlas, lambda f: atlas_parcels(SPACE, f / "atlas.nii.gz", f / "names.txt")),
    "labels": (labels, labelled),
    "weights": (weights, weighed),
    "clip": (copied("clip"), lambda f: embed_texts(load_clip(f), [["a dog"]], ["x"]).data),
    "diffusion": (copied("diffusion"), lambda f: [load_diffusion(f).alphas]),
    "mosaic": (small, opened("mosaic")),
    "openfmri": (by("haxby", "write_openfmri"), opened("haxby2001")),
    "epochs_csv": (by("epochs", "as_csv"), opened("epochs")),
    "brainvision": (by("epochs", "as_brainvision"), opened("epochs")),
    "epochs": (by("epochs", "as_fif"), opened("epochs")),
    "epochs_saved": (by("epochs", "as_saved"), opened("epochs")),
    "epochs_array": (by("epochs", "as_array"), opened("epochs")),
    "eeglab": (eeglab, opened("eeglab_visual", highpass=None, lowpass=None)),
    "things_meg": (meg, opened("things_meg")),
    "images92": (known_objects, opened("images92")),
    "classes": (classes, lambda f: read_classes(f / "classes.csv", Stimuli(np.array(["a", "b"]), [None, None]))),
}
TABLE = HASHED | PLAIN


def read_of(name: str) -> Read:
    """The reader of that name; one of MOSAIC takes files of 130 grayordinates for whole ones."""

    def read(folder: Path) -> Any:
        with patch.object(mosaic, "GRAYORDINATES", 130), patch.object(mosaic, "CORTEX", (60, 60)):
            return TABLE[name][1](folder)

    return read
