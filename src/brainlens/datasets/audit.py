"""The audit of a recording: what is there, what is missing, and what would make a score mean something else than it says."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import datasets, store
from brainlens.metrics.statistics import permutation_p
from brainlens.stimuli.captions import count_captions
from brainlens.types import MAX_BAD_UNITS, DataError, Recording, Responses, Sensors, Stimuli, Surface, Volume, image_key
from brainlens.types.sensor_units import LIMITS, typical_size

LEVELS = ("ok", "note", "warning", "error")
IMAGES = 200  # pictures whose repeats are compared
SHUFFLES = 999
Z_MEAN, Z_DEVIATION = 0.5, (0.2, 2.0)  # of z-scores, see `_z`
HASHED = 1e9  # bytes of a file above which it is named without its hash


@dataclass(frozen=True)
class Finding:
    """One line of the audit: `ok`, `note` (worth a look), `warning` (scores may mislead: look before you trust them) or `error`
    (a verb would stop, or a score would mislead)."""

    level: str
    what: str
    found: str

    def row(self) -> dict[str, str]:
        return {"": self.level, "what": self.what, "found": self.found}


def audit(name: str, folder: str | Path, options: dict[str, Any] | None = None, *, seed: int = 0) -> list[Finding]:
    """Opens a recording and looks at it: counts, leaks, missing values, units, order, space, pictures, captions, hashes.

    What cannot be opened is one finding of level "error" and not an exception. seed: of the shuffled pairs of the order test.
    """
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            recording = datasets.load(name, folder, **(options or {}))
        except DataError as error:
            return [Finding("error", "opening", str(error)), *_files(Path(folder))]
    found = [Finding("note", "opening", str(one.message)) for one in said if issubclass(one.category, UserWarning)]
    found += _counts(recording.responses, recording.stimuli)
    found += _pictures(recording)
    found += _values(recording.responses)
    found.append(_order(recording.responses, seed))
    found.append(_space(recording.responses))
    found += _captions(recording.stimuli)
    found.append(Finding("ok", "fingerprint of responses", store.fingerprint(recording.responses)[:16]))
    return found + _files(Path(folder))


def _span(counts: pd.Series) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _counts(responses: Responses, stimuli: Stimuli) -> list[Finding]:
    trials = responses.trials
    many = trials.groupby("stimulus").size()
    shape = " x ".join(f"{n:,}" for n in responses.data.shape)
    found = [Finding("ok", "trials x units", f"{shape}; {len(stimuli):,} stimuli, {_span(many)} trials each")]
    for name in [name for name in ("subject", "session", "run") if name in trials.columns]:
        parts = trials[name].astype(str).value_counts(sort=False)
        found.append(Finding("ok", f"{name}s", f"{len(parts)}, with {_span(parts)} trials{'' if len(parts) == 1 else ' each'}"))
    if "split" not in trials.columns:
        return [*found, Finding("note", "split", "no column split: verbs that need a test set have none")]
    parts = {str(k): f"{v['stimulus'].nunique():,} images in {len(v):,} trials" for k, v in trials.groupby("split")}
    missing = [name for name in ("train", "test") if name not in parts]
    if missing:
        return [*found, Finding("error", "split", f"no trial is of {missing[0]!r}; there are {', '.join(parts)}")]
    found.append(Finding("ok", "split", "; ".join(f"{name}: {text}" for name, text in parts.items())))
    both = trials.groupby("stimulus")["split"].nunique()
    names = [str(name) for name in both.index[both > 1]]
    text = f"{len(names)} stimuli are in two parts of the split, first {names[0]!r}" if names else "no stimulus is in two parts"
    return [*found, Finding("error" if names else "ok", "leak by id", text)]


def _pictures(recording: Recording) -> list[Finding]:
    """Whether every picture opens, and which show the same pixels: across the split that is a leak."""
    stimuli, trials = recording.stimuli, recording.responses.trials
    part = dict(zip(trials["stimulus"], trials["split"], strict=True)) if "split" in trials.columns else {}
    keys: dict[bytes, str] = {}
    same: list[tuple[str, str]] = []
    sizes: dict[str, int] = {}
    for name, number in zip(map(str, stimuli.ids), range(len(stimuli)), strict=True):
        try:
            picture = np.asarray(stimuli.images[number])
        except DataError as error:
            level = "note" if number == 0 and not hasattr(stimuli.images, "paths") else "error"
            return [Finding(level, "pictures", str(error))]
        size = f"{picture.shape[1]} x {picture.shape[0]}"
        sizes[size] = sizes.get(size, 0) + 1
        first = keys.setdefault(image_key(picture), name)
        if first != name:
            same.append((first, name))
    shown = ", ".join(f"{count:,} of {size}" for size, count in sorted(sizes.items(), key=lambda item: -item[1])[:3])
    found = [Finding("ok", "pictures", f"{len(stimuli):,} open: {shown}{', ...' if len(sizes) > 3 else ''}")]
    leaks = [pair for pair in same if part.get(pair[0]) != part.get(pair[1])]
    if leaks:
        text = f"{len(leaks)} pictures are in two parts of the split under other ids, first {leaks[0][0]!r} and {leaks[0][1]!r}"
        return [*found, Finding("error", "leak by pixels", text)]
    found.append(Finding("ok", "leak by pixels", "no picture is in two parts of the split"))
    if same:
        found.append(Finding("note", "same pixels", f"{len(same)} ids show a picture of another id, first {same[0]}; merge them"))
    return found


def _values(responses: Responses) -> list[Finding]:
    axes = (0, 2) if responses.data.ndim == 3 else (0,)
    data = np.asarray(responses.data, dtype=np.float32)
    bad = np.atleast_1d(~np.isfinite(data).all(axis=axes))
    flat = ~bad & (np.ptp(data, axis=axes) == 0)
    level = "error" if bad.mean() > MAX_BAD_UNITS else "note" if bad.any() else "ok"
    found = [Finding(level, "missing values", f"{int(bad.sum()):,} of {len(bad):,} units hold NaN or infinity")]
    found.append(Finding("note" if flat.any() else "ok", "constant units", f"{int(flat.sum()):,} of {len(flat):,}"))
    fine = data[:, ~bad & ~flat]
    return [*found, _z(responses, fine) if responses.measure == "z" and data.ndim == 2 and fine.size else _unit(responses, data)]


def _unit(responses: Responses, data: np.ndarray) -> Finding:
    """Whether the numbers have a size that their unit can have."""
    size = typical_size(data)
    low, high = LIMITS.get(responses.measure, (0.0, np.inf))
    said = f"{responses.measure}, median absolute value {size:.3g}"
    if low <= size <= high:
        return Finding("ok", "unit", said)
    return Finding("error", "unit", f"{said}: outside {low:g} to {high:g}, another unit?")


def _z(responses: Responses, data: np.ndarray) -> Finding:
    """Whether numbers (trial, unit) of a table that says z are z-scores, and what verbs make of them where they are not.

    They are where the median over units of |mean| is at most Z_MEAN and that of the standard deviation lies in Z_DEVIATION: means
    over repeats and parts of the trials of what was z-scored as a whole stay within, betas and signals of a scanner do not.
    """
    mean = float(np.median(np.abs(data.mean(axis=0, dtype=np.float64))))
    deviation = float(np.median(data.std(axis=0, dtype=np.float64)))
    said = f"mean {mean:.3g} (absolute) and standard deviation {deviation:.3g} of a unit, in the median"
    if mean <= Z_MEAN and Z_DEVIATION[0] <= deviation <= Z_DEVIATION[1]:
        return Finding("ok", "unit", f"z: {said}")
    scored = {"session", "split"} <= set(responses.trials.columns)
    done = (
        "verbs z-score them by session on the training trials"
        if scored
        else ("without the columns session and split verbs take them as they are; z-score them before")
    )
    return Finding("note", "unit", f"read as z, but these are raw numbers: {said}; {done}")


def _order(responses: Responses, seed: int) -> Finding:
    """Whether trials of one stimulus are more alike than trials of others, as they are where ids stand at the right rows."""
    trials = responses.trials
    keys = trials["stimulus"].astype(str) + "/" + (trials["subject"].astype(str) if "subject" in trials.columns else "")
    rows = [list(index) for index in trials.groupby(keys.to_numpy(), sort=False).indices.values() if len(index) > 1][:IMAGES]
    if len(rows) < 5:
        return Finding("note", "order of trials", "too few stimuli are repeated to see whether ids stand at the right rows")
    first, second = (np.stack([_pattern(responses, part[k]) for part in rows]) for k in (0, 1))
    fine = np.isfinite(first).all(axis=0) & np.isfinite(second).all(axis=0)
    a, b = (_standard(part[:, fine]) for part in (first, second))
    alike = a @ b.T / a.shape[1]
    rng = np.random.default_rng([seed, 67])
    null = np.array([np.mean(alike[np.arange(len(rows)), rng.permutation(len(rows))]) for _ in range(SHUFFLES)])
    value = float(np.mean(np.diag(alike)))
    p = float(np.ravel(permutation_p(np.array([value]), null[:, None]))[0])
    text = (
        f"two trials of one stimulus correlate by {value:.3f}, of others by {null.mean():.3f} (p = {p:.3f}, {len(rows)} stimuli)"
    )
    if p < 0.05:
        return Finding("ok", "order of trials", text)
    return Finding("warning", "order of trials", f"{text}: ids may stand at the wrong rows, or the signal is weak")


def _pattern(responses: Responses, row: int) -> np.ndarray:
    return np.asarray(responses.data[row], dtype=np.float64).ravel()


def _standard(rows: np.ndarray) -> np.ndarray:
    """Each unit without its mean over stimuli, then each row with mean 0 and variance 1; constant rows stay 0."""
    centred = rows - rows.mean(axis=0)
    centred = centred - centred.mean(axis=1, keepdims=True)
    spread = centred.std(axis=1, keepdims=True)
    return centred / np.where(spread > 0, spread, 1)


def _space(responses: Responses) -> Finding:
    space = responses.space
    if isinstance(space, Volume):
        edge = np.sqrt((space.affine[:3, :3] ** 2).sum(axis=0))
        places = space.coordinates()
        span = "; ".join(f"{axis} {low:.0f} to {high:.0f}" for axis, low, high in zip("xyz", places.min(0), places.max(0)))
        grid = " x ".join(map(str, space.mask.shape))
        turned = np.linalg.det(space.affine[:3, :3]) < 0
        text = f"volume {grid}, voxels of {edge[0]:.3g} x {edge[1]:.3g} x {edge[2]:.3g} mm, {span} mm"
        return Finding("ok", "space", f"{text}{', left and right run from + to -' if turned else ''}")
    if isinstance(space, Surface):
        left = int((space.hemisphere == "left").sum())
        return Finding("ok", "space", f"surface {space.mesh}, {left:,} vertices on the left, {len(space) - left:,} on the right")
    if isinstance(space, Sensors):
        return Finding("ok", "space", f"{len(space)} sensors with places")
    if {"x", "y", "z"} <= set(responses.units.columns):
        return Finding("ok", "space", "coordinates in mm, no mask: no maps in a volume")
    return Finding("note", "space", "units have no places: no maps, and no method that needs coordinates")


def _captions(stimuli: Stimuli) -> list[Finding]:
    if not any(stimuli.captions):
        return [Finding("note", "captions", "none: alignment to sentences and words has nothing to read")]
    bare = [str(name) for name, several in zip(stimuli.ids, stimuli.captions, strict=True) if not any(several)]
    counts = count_captions(stimuli.captions)
    text = f"{counts['all']:,}, {counts['repeated']} repeated, {counts['shared']} at several images"
    if bare:
        return [Finding("error", "captions", f"{len(bare)} of {len(stimuli)} images have none, first {bare[0]!r}; {text}")]
    return [Finding("ok", "captions", text)]


def _files(folder: Path) -> list[Finding]:
    """Size and SHA-256 of the files at the top of the folder, and how many lie below."""
    if not folder.is_dir():
        return []
    found = []
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest = store.sha256(path)[:16] if size <= HASHED else "not hashed"
        found.append(Finding("ok", f"file {path.name}", f"{size / 1e6:,.3g} MB, {digest}"))
    below = pd.Series(
        [path.parent.relative_to(folder).parts[0] for path in folder.rglob("*") if path.is_file() and path.parent != folder]
    )
    return found + [Finding("ok", f"folder {name}", f"{count:,} files") for name, count in below.value_counts().items()]
