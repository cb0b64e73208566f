"""The scores of a published protocol for a run's pictures: its table, with the networks that are given, over every row of ours.

A run that drew the same pictures before is found, so that another protocol or another network only scores.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens import store
from brainlens.backbones.picture_features import protocol_features
from brainlens.datasets.runs import MODEL, keep
from brainlens.datasets.source import Source, Tell
from brainlens.metrics.picture_protocols import PROTOCOLS, PictureScores, protocol, repeat_scores, score_sets
from brainlens.reconstruct.asked import Asked
from brainlens.reconstruct.scoring import varies
from brainlens.types import DataError, Result
from brainlens.warned import warn

BASELINES = ("retrieval", "evidence_retrieval", "random_picture", "low_level")  # rows whose pictures a run holds
DRAWN = "drawn"  # what a run's provenance calls the drawing of its pictures, whatever they were scored by
CHOOSER = "chooser"  # the folder of a run that holds the encoding model that chose


def group_of(name: str) -> str:
    """What the metrics of a protocol are called by; a hyphen would make a difference of two methods of it."""
    return name.replace("-", "_")


def with_protocol(result: Result, asked: Asked, *, seed: int = 0, device: str = "cpu", tell: Tell) -> Result:
    """The result with the scores of the protocol that is asked for: `reconstruct/PROTOCOL/SCORE` of the chosen pictures,
    `reconstruct/PROTOCOL/ROW/SCORE` of the others, per image under `each/PROTOCOL/ROW/SCORE`, and two tables for the page.

    Images of which some picture has one value have no correlation: they are left out of every row and counted.
    Raises DataError for networks that cannot be opened, and where fewer than 2 images are left.
    """
    assert asked.protocol is not None
    name, group = asked.protocol, group_of(asked.protocol)
    result = _without(result)
    tell(f"scores of {name}", None)
    features = protocol_features(name, dict(asked.features), device=device)
    rows, left_out = _rows(result.arrays, name, features)
    metrics: dict[str, float] = {f"reconstruct/{group}/left_out": float(left_out)} if left_out else {}
    for row, found in rows.items():
        metrics |= found.metrics(f"reconstruct/{group}" if row == "chosen" else f"reconstruct/{group}/{row}", seed=seed)
    arrays = {f"each/{group}/{row}/{score}": v for row, found in rows.items() for score, v in found.values.items()}
    tables = {f"protocol {name}": _table(metrics, group, rows), f"networks of {name}": _networks(asked)}
    missing = missing_networks(asked)
    if missing:
        warn(missing)
        tables["warnings"] = pd.DataFrame({"message": [missing]})
    return replace(result, metrics=result.metrics | metrics, arrays={**result.arrays, **arrays}, tables=result.tables | tables)


def missing_networks(asked: Asked) -> str:
    """One line on the networks of the protocol that are not given; empty where all are."""
    assert asked.protocol is not None
    measures = [one for one in protocol(asked.protocol).measures if one.features]
    given = dict(asked.features)
    missing = dict.fromkeys(one.features.rstrip("25") for one in measures if one.features.rstrip("25") not in given)
    if not missing:
        return ""
    return f"protocol {asked.protocol}: no scores by {', '.join(missing)}, which are not given; --features NAME=FOLDER gives them"


def drawn_before(runs: str | Path, drawing: str) -> Path | None:
    """The finished run under `runs` whose pictures are of this drawing; None where there is none."""
    for note in sorted(Path(runs).glob("reconstruct-*/result.json")):
        content = store.read_json(note)
        if isinstance(content, Mapping) and content.get("provenance", {}).get(DRAWN) == drawing:
            return note.parent
    return None


def scored_again(
    before: Path, runs: str | Path, source: Source, asked: Asked, config: Mapping[str, Any], *, seed: int, device: str, tell: Tell
) -> Path:
    """The run of the protocol that is asked for, on the pictures of the finished run `before`; returns its folder."""
    tell("pictures that were drawn before", None)
    found = store.load_result(before)
    kept = {name: found.config[name] for name in ("method", "model")}
    result = with_protocol(replace(found, config={**config, **kept}), asked, seed=seed, device=device, tell=tell)
    folder = keep(result, runs, source, model=_Copy(before / MODEL))
    if (before / CHOOSER).is_dir():
        _Copy(before / CHOOSER).save(folder / CHOOSER)
    return folder


@dataclass(frozen=True)
class _Copy:
    """What was fitted, as it lies in the folder of another run."""

    place: Path

    def save(self, folder: str | Path) -> Path:
        if Path(folder).resolve() != self.place.resolve():
            shutil.copytree(self.place, folder, dirs_exist_ok=True)
        return Path(folder)


def _without(result: Result) -> Result:
    """The result as it was before a protocol scored it."""
    groups = tuple(f"{part}/{group_of(name)}/" for name in PROTOCOLS for part in ("reconstruct", "each"))
    titles = tuple(f"{part} {name}" for name in PROTOCOLS for part in ("protocol", "networks of"))
    return replace(
        result,
        metrics={key: value for key, value in result.metrics.items() if not key.startswith(groups)},
        arrays={key: value for key, value in result.arrays.items() if not key.startswith(groups)},
        tables={key: value for key, value in result.tables.items() if key not in (*titles, "warnings")},
    )


def _rows(arrays: Mapping[str, np.ndarray], name: str, features: Mapping[str, Any]) -> tuple[dict[str, PictureScores], int]:
    """{row: scores} over the images whose pictures all vary, and how many do not."""
    seen, candidates, chosen = (np.asarray(arrays[key]) for key in ("pictures/seen", "pictures/candidates", "chosen"))
    each = [f"candidate {c}" for c in range(candidates.shape[1])]
    sets = {what: candidates[:, c] for c, what in enumerate(each)}
    sets |= {"chosen": candidates[np.arange(len(seen)), chosen]}
    sets |= {row: np.asarray(arrays[f"pictures/{row}"]) for row in BASELINES if f"pictures/{row}" in arrays}
    fine = np.all([varies(pictures) for pictures in (seen, *sets.values())], axis=0)
    if fine.sum() < 2:
        raise DataError(
            f"protocol {name}: pictures of {int(fine.sum())} of {len(fine)} images vary, 2 are needed; train for longer"
        )
    scored = score_sets(seen[fine], {what: pictures[fine] for what, pictures in sets.items()}, name, features=features)
    first = scored[each[0]]
    over = {score: np.stack([scored[what].values[score] for what in each]) for score in first.values}
    chance = {score: float(np.mean([scored[what].chance[score] for what in each])) for score in first.values}
    best = {score: v.min(axis=0) if score.startswith("distance") else v.max(axis=0) for score, v in over.items()}
    rows = {"chosen": scored["chosen"], "first": first}
    rows |= {"mean": PictureScores(name, {score: v.mean(axis=0) for score, v in over.items()}, chance)}
    rows |= {"best": PictureScores(name, best, chance)} | {row: scored[row] for row in BASELINES if row in scored}
    if "pictures/repeat_ceiling" in arrays:
        repeats = np.asarray(arrays["pictures/repeat_ceiling"])
        vary = np.all([varies(one) for one in repeats], axis=0)
        if vary.sum() > 1:
            rows["repeat_ceiling"] = repeat_scores(repeats[:, vary], name, features=features)
    return rows, int((~fine).sum())


def _table(metrics: Mapping[str, float], group: str, rows: Mapping[str, PictureScores]) -> pd.DataFrame:
    """The paper's table: a line a set of pictures, a column a score with its interval, chance of the chosen pictures last."""
    lines: list[dict[str, object]] = []
    for row, found in rows.items():
        key = f"reconstruct/{group}" if row == "chosen" else f"reconstruct/{group}/{row}"
        line: dict[str, object] = {"pictures": row.replace("_", " ")}
        for score in found.values:
            line |= {score + end: metrics[f"{key}/{score}{end}"] for end in ("", ".low", ".high")}
        lines.append(line | {"n": metrics[f"{key}/n"]})
    return pd.DataFrame([*lines, {"pictures": "chance", **rows["chosen"].chance}])


def _networks(asked: Asked) -> pd.DataFrame:
    """What each score of the protocol reads, and what it read here; empty where the network is not given."""
    assert asked.protocol is not None
    given, rows = dict(asked.features), []
    for one in protocol(asked.protocol).measures:
        network = one.features.rstrip("25")
        published = " ".join(part for part in (one.network, one.layer, one.weights) if part) or "pixels"
        read = given.get(network, "") if network else "pixels"
        rows.append({"score": one.name, "published": published, "pixels": one.side, "read here": read})
    return pd.DataFrame(rows)
