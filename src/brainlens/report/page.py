"""The page: every run under a folder, in one HTML file that needs no network and no other file.

Everything that comes from data is escaped (jinja2 autoescape), and a content security policy forbids frames, forms, every
address but inline images, and every script but the two of the cortex (`cortex_view`), which it knows by their hashes, so that a
caption or a dataset's name cannot do anything but be read. Without scripts the page lacks that view alone.
"""

from __future__ import annotations

import base64
import io
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup
from PIL import Image

from brainlens import __version__, store
from brainlens.plots.retrieval import DIRECTIONS
from brainlens.plots.style import SIMULATION, is_simulation
from brainlens.report import cite, cortex_view, methods_table, numbers, wording
from brainlens.report.align import scores_by_encoder
from brainlens.report.parts import LOST, Case, Picture, Section
from brainlens.report.policy import source_hash
from brainlens.report.sections import sections
from brainlens.types import DataError, Result
from brainlens.types.scores import spelled

MAX_BYTES = 25_000_000
DPI = (130, 90, 60)  # figures are drawn again, coarser, until the page is small enough
THUMB = 112  # pixels of a thumbnail
TABLE_ROWS = 60
TABLES = (  # shown as they are
    *("ablation", "prompts", "methods", "regions", "cost", "sensitivity", "randomisation"),
    *("layers", "seeds", "consistency", "one_layer", "topology", "learning_curve", "clusters", "parcels", "words"),
    *("runs", "side by side", "subjects", "agreement", "agreement_regions"),
)
PUBLISHED = ("protocol ", "networks of ")  # and tables of a published protocol, whose names begin so


@dataclass(frozen=True)
class ShownRun:
    """A run as the template needs it."""

    anchor: str
    name: str
    title: str
    how: str
    sentence: str
    simulation: bool
    rows: list[numbers.Row]
    warnings: list[str]
    sections: list[Section]
    tables: list[tuple[str, list[str], list[list[str]], int]]
    settings: list[tuple[str, str]]
    provenance: list[tuple[str, str]]

    @property
    def main(self) -> list[numbers.Row]:
        return numbers.first(self.rows, 8)


def build(
    runs: Sequence[Path | str] | Path | str, out: Path | str, *, title: str = "brainlens report", template: str = ""
) -> Path:
    """Reads every run folder under `runs` and writes one self-contained page; returns its path.

    A run folder is one that holds a whole `result.json`; an unfinished one (weights or a log without `result.json`) is named on
    the page. Where an array's file is gone, the sections of that run say which figures it costs. template: the standard space of
    volumes that do not say theirs (MNI152), so that they are drawn on it.

    Raises DataError where there is no run, and for a damaged one; the page of the others is written all the same and names it.
    """
    store.check_writable(Path(out).parent)
    found, damaged = run_folders(runs, template=template)
    unfinished = sorted({p.parent.name for root in _roots(runs) for p in root.rglob("log.jsonl")
                         if not (p.parent / "result.json").exists()})  # fmt: skip
    named = [(folder.name, result) for folder, result in found]
    page = render(named, title=title, unfinished=unfinished, damaged=damaged)
    out = Path(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    store.save_text(out, page)
    if damaged:
        raise DataError(
            f"report: {out} is written without {len(damaged)} damaged of {len(damaged) + len(found)} runs: {damaged[0]}"
        )
    return out


def run_folders(runs: Sequence[Path | str] | Path | str, *, template: str = "") -> tuple[list[tuple[Path, Result]], list[str]]:
    """Every finished run under `runs` with its result, by folder, and one line for each run that is damaged.

    The config of a run whose folder has lost arrays names them under `LOST`. Raises DataError where no run is whole; see `build`.
    """
    if template and not template.upper().startswith("MNI"):
        raise DataError(f"template {template!r} is not known; give MNI152 for data in MNI space, or nothing for their own grid")
    roots = _roots(runs)
    notes = {p for root in roots for p in root.rglob("result.json") if not p.parent.name.startswith(".")}  # begun by a writer
    found, damaged = [], []
    for folder in sorted({p.parent for p in notes}):
        try:
            if not _is_run(folder / "result.json"):
                continue
            lost = store.lost_arrays(folder)
            result = store.load_result(folder, without=lost)
        except DataError as error:
            damaged.append(str(error))
            continue
        more = {"template": template} if template else {}
        found.append((folder, replace(result, config=more | result.config | ({LOST: lost} if lost else {}))))
    if not found and damaged:
        raise DataError(damaged[0])
    if not found:
        raise DataError(
            f"report: no finished run (a folder with result.json) under {', '.join(map(str, roots))}; run a verb first"
        )
    return found, damaged


def _roots(runs: Sequence[Path | str] | Path | str) -> list[Path]:
    """Folders to look under. Raises DataError for what is none."""
    roots = [Path(runs)] if isinstance(runs, (str, Path)) else [Path(r) for r in runs]
    for root in roots:
        if not root.is_dir():
            raise DataError(f"report: {root} is not a folder; give a run folder or a folder of run folders")
    return roots


def render(
    results: Sequence[tuple[str, Result]],
    *,
    title: str = "brainlens report",
    unfinished: Sequence[str] = (),
    damaged: Sequence[str] = (),
    date: str | None = None,
) -> str:
    """The page of named results as text; date (YYYY-MM-DD) is today unless given.

    unfinished: names of runs, and damaged: what is wrong with each, that are named and not shown.

    Raises DataError for no result, and if the page stays above 25 MB at the coarsest figures.
    """
    if not results:
        raise DataError("report: no result to show")
    order = {task: i for i, task in enumerate(wording.ORDER)}
    ranked = sorted(results, key=lambda item: (order.get(item[1].task, len(order)), item[0]))
    text, cortex, methods = "", cortex_view.view(ranked), methods_table.methods_tables(ranked)
    for dpi in DPI:
        shown = [_shown(i, name, result, dpi) for i, (name, result) in enumerate(ranked, start=1)]
        text = _environment().get_template("template.html.j2").render(
            title=title,
            runs=shown,
            cortex=cortex,
            methods=methods,
            unfinished=list(unfinished),
            damaged=list(damaged),
            citations=cite.citations([result for _, result in ranked]),
            simulation=SIMULATION,
            simulated=[is_simulation(result) for _, result in ranked],
            date=date or time.strftime("%Y-%m-%d"),
            version=__version__,
            style=Markup(_css()),
            style_hash=source_hash(_css()),
        )  # fmt: skip
        if len(text.encode()) < MAX_BYTES:
            return text
    raise DataError(
        f"report: the page has {len(text) / 1e6:.0f} MB, the limit is {MAX_BYTES / 1e6:.0f}; give fewer runs at a time"
    )


def _is_run(path: Path) -> bool:
    """Whether this result.json stands with a run's files; other programs' summaries have metrics only."""
    content = store.read_json(path)
    return isinstance(content, dict) and "format" in content


def _shown(number: int, name: str, result: Result, dpi: int) -> ShownRun:
    ideal = scores_by_encoder(result).get("ideal")
    return ShownRun(
        anchor=f"run-{number}",
        name=name,
        title=wording.title(result),
        how=wording.how(result),
        sentence=wording.sentence(result),
        simulation=is_simulation(result),
        rows=numbers.rows(result.metrics, ideal=ideal, headline=wording.headline(result)),
        warnings=wording.warnings(result),
        sections=sections(result, dpi=dpi),
        tables=_tables(result),
        settings=wording.settings(result),
        provenance=wording.provenance(result),
    )


def _tables(result: Result) -> list[tuple[str, list[str], list[list[str]], int]]:
    """Tables for the page as (title, heads, rows, number of rows): encoders by direction, other comparisons, regions."""
    scores = scores_by_encoder(result)
    out = [_encoders(result, scores, k) for k in (1, 5)] if len(scores) > 1 else []
    comparison = result.tables.get("comparison")
    if comparison is not None and not scores and "subjects" not in result.tables:  # a single encoder's scores are the key numbers
        out.append(_table("comparison", comparison))
    published = [name for name in result.tables if name.startswith(PUBLISHED)]
    out += [_table(name, result.tables[name]) for name in (*TABLES, *published) if name in result.tables]
    return [table for table in out if table[2]]


def _encoders(result: Result, scores: dict[str, dict[str, float]], k: int) -> tuple[str, list[str], list[list[str]], int]:
    """Top-k of every encoder in each direction, with chance on top, parameters and seconds behind."""
    present = [d for d in DIRECTIONS if any(f"retrieval/{d}/top{k}" in m for m in scores.values())]
    table = result.tables.get("comparison", pd.DataFrame())
    extra = [c for c in ("parameters", "seconds") if c in table.columns and "encoder" in table.columns]
    known = {str(row["encoder"]): row for row in table.to_dict("records")} if extra else {}
    chance = [
        next((m[f"retrieval/{d}/chance{k}"] for m in scores.values() if f"retrieval/{d}/chance{k}" in m), None) for d in present
    ]
    lines = (
        [["chance", *("" if c is None else numbers.number(c, "top1") for c in chance), *("" for _ in extra)]] if present else []
    )
    for encoder, metrics in scores.items():
        cells = [_interval(metrics, f"retrieval/{d}/top{k}") for d in present]
        lines.append([spelled(encoder), *cells, *(_cell(known.get(encoder, {}).get(c), c) for c in extra)])
    heads = ["encoder", *(d.replace("->", " → ") for d in present), *extra]
    return f"top-{k} of every encoder, 95 % intervals", heads, lines, len(lines)


def _interval(metrics: Mapping[Any, Any], key: str) -> str:
    """A value with its interval as text; empty where it is missing."""
    name = key.rpartition("/")[2]
    value, low, high = (metrics.get(key + side) for side in ("", ".low", ".high"))
    text = _cell(value, name)
    if text and isinstance(low, float) and isinstance(high, float) and np.isfinite([low, high]).all():
        text += f" [{numbers.number(low, name)}, {numbers.number(high, name)}]"
    return text


def _table(name: str, table: pd.DataFrame) -> tuple[str, list[str], list[list[str]], int]:
    """A small table as text: intervals beside their column, at most TABLE_ROWS rows, and how many there are in all."""
    ends = {"low": "value.low", "high": "value.high"} if {"value", "low", "high"} <= set(table.columns) else {}
    table = table.rename(columns=ends | {"r2_low": "r2.low", "r2_high": "r2.high"})  # as runs of 0.1 named them
    empty = {str(c) for c in table.columns if table[c].isna().all() or (table[c].astype(str) == "").all()}
    columns = [str(c) for c in table.columns if not str(c).endswith((".low", ".high")) and str(c) not in empty]
    lines = [[_interval(row, column) for column in columns] for row in table.head(TABLE_ROWS).to_dict("records")]
    heads = [numbers.label(c) for c in columns]
    return name.replace("_", " "), heads, lines, len(table)


def _cell(value: object, column: str) -> str:
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, (int, float, np.integer, np.floating)):
        return "" if value != value else numbers.number(float(value), column.rpartition("/")[2])
    text = "" if value is None else str(value)
    return spelled(text) if column in ("method", "encoder") else text


def thumbnail(image: np.ndarray) -> str:
    """A picture (h, w[, 3]) as a data address, at most THUMB pixels wide and high, small ones enlarged without smoothing."""
    picture = Image.fromarray(np.ascontiguousarray(image, dtype=np.uint8))
    scale = THUMB / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    picture = picture.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return _data(buffer.getvalue())


def _data(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _picture(picture: Picture) -> dict[str, object]:
    """A figure for the template: its address with its size, so that the page does not jump while it loads."""
    with Image.open(io.BytesIO(picture.png)) as image:
        width, height = image.size
        dpi = float(image.info["dpi"][0])
    scale = 96 / dpi * 1.05  # the text of all figures in one size, whatever the resolution
    size: dict[str, object] = {"width": round(width * scale), "height": round(height * scale)}
    return size | {"src": _data(picture.png), "alt": picture.alt, "caption": picture.caption}


def _case(case: Case) -> dict[str, object]:
    return {
        "src": thumbnail(case.image),
        "caption": case.caption,
        "rank": case.rank,
        "good": case.good,
        "found": [{"src": thumbnail(image), "hit": hit} for image, hit in case.found],
    }


def _css() -> str:
    return resources.files("brainlens.report").joinpath("style.css").read_text(encoding="utf-8")


def _environment() -> jinja2.Environment:
    """Templates from the package; every value is escaped, and an unknown name is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("brainlens.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["picture"] = _picture
    environment.filters["case"] = _case
    return environment
