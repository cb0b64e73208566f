"""Results, recordings and models in a notebook: a small table and, for a result, its first figure. Everything is escaped."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup

from brainlens.plots import style
from brainlens.report import numbers, wording
from brainlens.report.align import scores_by_encoder
from brainlens.report.figures import makers
from brainlens.report.page import thumbnail
from brainlens.types import DataError, Recording, Result

ROWS = 8
DPI = 72
THUMBNAILS = 6


def result_html(result: Result) -> str:
    """The key numbers of a result with interval, chance and n, and the first of its figures; `result.plot` names the others."""
    rows = numbers.rows(result.metrics, ideal=scores_by_encoder(result).get("ideal"), headline=wording.headline(result))
    main = numbers.first(rows, ROWS)[:ROWS]
    lines = [(row.label, row.value, row.interval, row.chance, row.n) for row in main]
    body = Markup("<p><b>{}</b><br>{}</p>").format(wording.title(result), wording.sentence(result))
    body += _table(("score", "value", "95 % interval", "chance", "n"), lines)
    names = makers(result)
    for make in names.values():
        try:
            png = style.png(make(), dpi=DPI)
        except DataError:
            continue
        body += Markup('<img alt="first figure" src="data:image/png;base64,{}">').format(base64.b64encode(png).decode())
        break
    if names:
        body += Markup("<p>result.plot: {}</p>").format(", ".join(f"{name}()" for name in names))
    return str(body)


def recording_html(recording: Recording) -> str:
    """What was measured and seen: shapes, trials by split, regions or channels, and the first stimuli."""
    responses, stimuli = recording.responses, recording.stimuli
    trials, units = responses.trials, responses.units
    rows: list[tuple[str, str]] = [("responses", f"{' x '.join(f'{n:,}' for n in responses.data.shape)}, {responses.measure}")]
    rows.append(("space", type(responses.space).__name__ if responses.space is not None else "not known"))
    rows += [(name, _counts(trials[name])) for name in ("split", "subject", "session", "run") if name in trials.columns]
    rows += [(name, _counts(units[name])) for name in ("roi", "channel") if name in units.columns]
    rows.append(("stimuli", f"{len(stimuli):,}, {trials['stimulus'].nunique():,} of them in trials"))
    if recording.truth is not None:
        rows.append(("truth", "known: a simulation"))
    body = _table(("recording", ""), rows)
    for image in list(stimuli.images)[:THUMBNAILS]:
        body += Markup('<img alt="stimulus" src="{}">').format(thumbnail(np.asarray(image)))
    return str(body)


def model_html(model: Any) -> str:
    """The parameters of a model, and of a fitted one what it learned (attributes that end in an underscore) with shapes."""
    rows = [(name, _short(value)) for name, value in model.get_params(deep=False).items()]
    learned = [(name, _short(value)) for name, value in sorted(vars(model).items()) if name.endswith("_") and name[0] != "_"]
    body = Markup("<p><b>{}</b>{}</p>").format(type(model).__name__, "" if learned else ", not fitted")
    return str(body + _table(("parameter", "value"), rows) + (_table(("learned", ""), learned) if learned else Markup("")))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Markup:
    head = Markup("").join(Markup("<th style='text-align:left'>{}</th>").format(text) for text in heads)
    lines = Markup("").join(
        Markup("<tr>{}</tr>").format(Markup("").join(Markup("<td style='text-align:left'>{}</td>").format(c) for c in row))
        for row in rows
    )
    return Markup("<table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>").format(head, lines)


def _counts(column: Any, most: int = 8) -> str:
    """Values with how often they stand, the most frequent first."""
    counts = column.astype(str).value_counts()
    shown = ", ".join(f"{name} ({n:,})" for name, n in counts.head(most).items())
    return shown + (f" and {len(counts) - most:,} more" if len(counts) > most else "")


def _short(value: Any, most: int = 80) -> str:
    if isinstance(value, np.ndarray):
        return f"array {value.shape}, {value.dtype}"
    text = str(value)
    return text if len(text) <= most else f"{text[:most]} …"
