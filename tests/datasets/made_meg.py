"""THINGS-MEG in small, in the layout of the release: epochs with their metadata, and the images as JPEG files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mne
import numpy as np
import pandas as pd
from PIL import Image

CATCH = 999999
FEW = ("MLO11-1609", "MLO12-1609", "MZO01-1609")


def trials(train: dict[str, int], test: dict[str, int], *, catch: int = 0, seed: int | None = None) -> pd.DataFrame:
    """The table of a subject's trials: so many images of each training concept, so many repetitions of each test image.

    seed: shuffles them. The number of a test image's concept is another image's, as in the release.
    """
    rows = [
        {"trial_type": "exp", "image_path": f"images_meg/{name}/{name}_{i + 1:02d}s.jpg", "things_category_nr": float(k)}
        for k, (name, count) in enumerate(train.items(), start=1)
        for i in range(count)
    ]
    for row in rows:
        row["things_image_nr"] = float(rows.index(row) + 1)
    for name, repeats in test.items():
        rows += [{"trial_type": "test", "image_path": f"images_test_meg/{name}_13n.jpg"}] * repeats
    rows += [{"trial_type": "catch", "image_path": "images_catch_meg/catch_01.jpg"}] * catch
    order = range(len(rows)) if seed is None else np.random.default_rng(seed).permutation(len(rows))
    return pd.DataFrame([rows[i] for i in order]).assign(session_nr=1, run_nr=2)


def helmet(count: int = 271) -> tuple[list[str], np.ndarray]:
    """Names and positions (m) of the CTF system's channels: its flat layout, bent over a helmet of 11 cm."""
    layout = mne.channels.read_layout("CTF-275")
    names, flat = list(layout.names), layout.pos[:, :2] + layout.pos[:, 2:] / 2
    flat = flat - flat.mean(axis=0)
    distance = np.linalg.norm(flat, axis=1)
    angle = np.deg2rad(115) * distance / distance.max()
    side = np.sin(angle) / np.maximum(distance, 1e-9)
    places = 0.11 * np.column_stack([flat * side[:, None], np.cos(angle)])
    kept = np.sort(np.random.default_rng(0).permutation(len(names))[:count])
    return [names[i] for i in kept], places[kept]


def write(
    folder: Path,
    table: pd.DataFrame,
    *,
    subject: int = 1,
    channels: tuple[Sequence[str], np.ndarray] | None = None,
    samples: int = 41,
    seed: int = 0,
    seen: float = 0.0,
    hide: tuple[str, ...] = (),
) -> np.ndarray:
    """Writes the epochs of a subject at 200 Hz from -.1 s on, and returns their values (epoch, channel, time).

    channels: names and positions, three by default. seen: by how much the channels over the back of the head, from .1 to
    .3 s, follow the colour of the picture, in standard deviations of the noise. hide: columns that the stored table lacks.
    """
    names, places = channels if channels is not None else (FEW, np.array([[0.01 * i, 0.05, 0.02] for i in range(3)]))
    rng = np.random.default_rng(seed)
    data = rng.normal(size=(len(table), len(names), samples))
    if seen:
        back = np.maximum(-places[:, 1], 0) / 0.11
        weights = np.random.default_rng(1).normal(size=(3, len(names))) * back  # the same in every subject
        data[:, :, 40:80] += seen * (np.stack([colour(path) for path in table["image_path"]]) @ weights)[:, :, None]
    info = mne.create_info(list(names), 200.0, "mag")
    for channel, place in zip(info["chs"], places, strict=True):
        channel["loc"][:3] = place
    numbers = np.where(table["trial_type"] == "catch", CATCH, np.arange(len(table)) + 1)
    events = np.stack([np.arange(len(table)) * 400, np.zeros(len(table), int), numbers], axis=1)
    epochs = mne.EpochsArray(data, info, events, tmin=-0.1, verbose="error")
    epochs.metadata = table.drop(columns=list(hide))
    place = folder / "derivatives/preprocessed"
    place.mkdir(parents=True, exist_ok=True)
    epochs.save(place / f"preprocessed_P{subject}-epo.fif", overwrite=True, verbose="error")
    return data


def write_images(folder: Path, table: pd.DataFrame) -> None:
    """The pictures of these trials as JPEG files of 64 x 64 pixels, each of one colour with some grain."""
    for path in dict.fromkeys(table["image_path"]):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        grain = np.random.default_rng(0).normal(scale=8, size=(64, 64, 3))
        Image.fromarray(np.clip(128 + 60 * colour(path) + grain, 0, 255).astype(np.uint8)).save(folder / path)


def colour(path: str) -> np.ndarray:
    """The colour of a picture, three numbers from -2 to 2 that its path decides."""
    return np.random.default_rng(list(path.encode())).uniform(-2, 2, 3)
