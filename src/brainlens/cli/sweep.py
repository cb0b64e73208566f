"""`brainlens sweep`: many runs of one verb, described by one command line or one table."""

from __future__ import annotations

import io
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens.cli.options import OUTPUT, Again, Runs
from brainlens.cli.terminal import LAST, show, steps
from brainlens.warned import anew

SWEPT = ("encode", "align", "attribute", "reconstruct", "describe", "decode")
EXTRA = {"allow_extra_args": True, "ignore_unknown_options": True}


def sweep(
    context: typer.Context,
    verb: Annotated[str, typer.Argument(help=f"The command to run many times: {', '.join(SWEPT)}.")],
    table: Annotated[
        Path | None,
        typer.Option(
            help="A .csv with a row for each run and a column for each option, instead of axes.", rich_help_panel=OUTPUT
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local (this process), dask or slurm (pip install 'brainlens[sweep]').", rich_help_panel=OUTPUT)
    ] = "local",
    workers: Annotated[
        int | None, typer.Option(help="Runs at a time; default: 1 for local, 2 else.", rich_help_panel=OUTPUT)
    ] = None,
    engine_option: Annotated[
        list[str] | None,
        typer.Option(help="name=value of the engine, as scheduler=tcp://HOST:PORT or timeout_min=60.", rich_help_panel=OUTPUT),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="Show the runs and stop.", rich_help_panel=OUTPUT)] = False,
    runs: Runs = Path("runs"),
    again: Again = False,
) -> None:
    """Many runs of a verb. An option with several values is an axis: --subject 1..8 --model a --model b --parts 4.

    Every combination is a run of its own in the folder of runs, as if it had been typed; runs that are there are not repeated.
    """
    from brainlens.cli.axes import axes, combinations, command_line, table_pieces
    from brainlens.engines import engine as engine_named
    from brainlens.types import DataError

    if verb not in SWEPT:
        raise DataError(f"sweep: {verb!r} cannot be swept; there are {', '.join(SWEPT)}")
    if table is not None and context.args:
        raise DataError(f"sweep: a table and axes ({context.args[0]}) exclude each other; write all options into the table")
    pieces = table_pieces(table) if table is not None else combinations(axes(context.args))
    lines = [[*command_line(verb, piece), "--runs", str(runs), *(["--again"] if again else [])] for piece in pieces]
    names = _names(pieces)
    _check_values(verb, pieces)
    for line in lines:
        check_line(line)
    count = workers if workers is not None else 1 if engine == "local" else 2
    if count < 1:
        raise DataError(f"sweep: {count} workers; at least 1 is needed")
    work, options = engine_named(engine), _options(engine_option)
    if dry:
        show([{"run": number, **name} for number, name in enumerate(names, start=1)], f"sweep: {len(lines)} runs of {verb}")
        return
    with steps() as tell:
        folder, rows = run_sweep(verb, lines, names, runs, work=work, workers=count, options=options, again=again, tell=tell)
    show([_shown(row) for row in rows], f"sweep: {verb}")
    typer.echo(f"run: {folder}")
    failed = [row for row in rows if row["error"]]
    if failed:
        raise DataError(
            f"sweep: {len(failed)} of {len(rows)} runs failed, the first with: {failed[0]['error']}; the others are kept"
        )


def run_sweep(
    verb: str, lines: Sequence[list[str]], names: Sequence[Mapping[str, Any]], runs: Path,
    *, work: Any, workers: int, options: Mapping[str, str], again: bool, tell: Any,
) -> tuple[Path, list[dict[str, Any]]]:  # fmt: skip
    """Works on the runs that are missing, notes each as it ends, and writes the result: (its folder, one row a run)."""
    from brainlens import store

    began = store.Start()
    folder = store.run_folder(runs, "sweep", {"verb": verb, "lines": [[str(w) for w in line] for line in lines]}, [])
    with store.lock(folder):
        known = {} if again else _known(folder, lines)
        left = [index for index in range(len(lines)) if index not in known]
        tell(f"{len(left)} of {len(lines)} runs of {verb}", 0.0)
        jobs = [{"line": lines[index], "log": str(folder / "logs" / f"{index + 1:04d}.log")} for index in left]
        for done, (place, outcome) in enumerate(
            work(carry_piece, jobs, workers=workers, options=options) if jobs else (), start=1
        ):
            known[left[place]] = outcome
            store.append_log(folder, {"line": lines[left[place]], **outcome})
            tell(f"{len(left)} of {len(lines)} runs of {verb}", done / len(left))
        rows = [_row(names[index], known[index]) for index in range(len(lines))]
        _store(folder, verb, lines, rows, began)
    return folder, rows


def carry_piece(job: Mapping[str, Any]) -> dict[str, Any]:
    """Runs one command line in this process; what it says goes into the log. {folders, seconds, error}."""
    from brainlens import store
    from brainlens.cli import _mistake, app

    began, error, text = time.monotonic(), "", io.StringIO()
    LAST.clear()
    with redirect_stdout(text), redirect_stderr(text), anew():
        try:
            app([str(word) for word in job["line"]], standalone_mode=False)
        except Exception as fault:  # the other pieces go on; the log has the whole of it
            error = _mistake(fault) or f"{type(fault).__name__}: {fault}"
            traceback.print_exc(file=text)
    store.save_text(job["log"], text.getvalue())
    folders = [str(folder) for folder in LAST]
    if not folders and not error:
        error = "the run left no folder; see its log"
    return {"folders": folders, "seconds": time.monotonic() - began, "error": " ".join(error.split())}


def _check_values(verb: str, pieces: Sequence[Sequence[tuple[str, str | None]]]) -> None:
    """Raises DataError naming an option that takes values and has none in a piece: the next word would be read as its value."""
    from brainlens.cli import app
    from brainlens.cli.axes import empty_axis

    options = _commands(tuple(map(id, app.registered_commands)))[verb].params
    valued = {name for each in options if not getattr(each, "is_flag", True) for name in each.opts}
    for name, value in (pair for piece in pieces for pair in piece):
        if value is None and name in valued:
            raise empty_axis(name)


def check_line(line: Sequence[str]) -> None:
    """Raises the usage error of a command line without running it, so that a sweep fails before its first piece."""
    from brainlens.cli import app

    _commands(tuple(map(id, app.registered_commands)))[line[0]].make_context(line[0], list(line[1:]))


@cache
def _commands(registered: tuple[int, ...]) -> dict[str, Any]:
    """The commands by name, made once for all lines: that takes a tenth of a second, since every option of each is looked at."""
    import typer.main

    from brainlens.cli import app

    assert len(registered) == len(app.registered_commands)
    return typer.main.get_command(app).commands  # type: ignore[attr-defined,no-any-return]


def _names(pieces: Sequence[Sequence[tuple[str, str | None]]]) -> list[dict[str, str]]:
    """What tells the pieces apart: the options whose values differ."""
    rows = []
    for piece in pieces:
        row: dict[str, list[str]] = {}
        for name, value in piece:
            row.setdefault(name.removeprefix("--"), []).append("yes" if value is None else value)
        rows.append({name: ";".join(values) for name, values in row.items()})
    every = list(dict.fromkeys(name for row in rows for name in row))
    differ = [name for name in every if len({row.get(name) for row in rows}) > 1]
    return [{name: row.get(name, "") for name in differ} for row in rows]


def _options(given: Sequence[str] | None) -> dict[str, str]:
    from brainlens.types import DataError

    options = {}
    for text in given or ():
        name, sign, value = text.partition("=")
        if not sign or not name or not value:
            raise DataError(f"sweep: --engine-option {text!r} is not name=value")
        options[name] = value
    return options


def _known(folder: Path, lines: Sequence[list[str]]) -> dict[int, dict[str, Any]]:
    """The outcomes of an earlier call whose run folders are still there, by lines of the log whose hash is right.

    Another piece is called again; where its run is there, that finds it and costs nothing.
    """
    from brainlens import store

    noted = store.read_log(folder, sealed=True)
    ended = {tuple(record["line"]): record for record in noted if "line" in record and not record.get("error")}
    found = {}
    for index, line in enumerate(lines):
        record = ended.get(tuple(line))
        if record and all((Path(place) / "result.json").is_file() for place in record["folders"]):
            found[index] = {"folders": record["folders"], "seconds": record["seconds"], "error": ""}
    return found


def _row(name: Mapping[str, Any], outcome: Mapping[str, Any]) -> dict[str, Any]:
    """A piece as a row: what it is, its first score, its folder."""
    from brainlens import store

    folders = outcome.get("folders", [])
    row: dict[str, Any] = {**name, "metric": "", "value": float("nan"), "low": float("nan"), "high": float("nan")}
    if folders and not outcome.get("error"):
        scores = store.load_result(folders[-1]).scores()
        if len(scores):
            first = scores.iloc[0]
            row |= {"metric": first["metric"], "value": float(first["value"])}
            row |= {"low": float(first["low"]), "high": float(first["high"])}
    row |= {"seconds": float(outcome.get("seconds", float("nan"))), "run": Path(folders[-1]).name if folders else ""}
    return row | {"error": outcome.get("error", "")}


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as the terminal has room for it; what went wrong stands in the log and in the result."""
    short = {name: value for name, value in row.items() if name not in ("low", "high", "error", "value", "run")}
    value = "failed" if row["error"] else row["value"]
    interval = "" if row["low"] != row["low"] else f"{row['low']:.3g} to {row['high']:.3g}"
    return short | {"value": value, "95 % interval": interval, "run": row["run"]}


def _store(folder: Path, verb: str, lines: Sequence[list[str]], rows: list[dict[str, Any]], began: Any) -> None:
    import pandas as pd

    from brainlens import store
    from brainlens.types import Result

    failed = sum(bool(row["error"]) for row in rows)
    metrics = {"sweep/runs": float(len(rows)), "sweep/failed": float(failed)}
    config = {"verb": verb, "lines": [list(map(str, line)) for line in lines]}
    note = store.provenance(None, "cpu", [], began)
    store.save_result(Result("sweep", metrics, {}, None, {"runs": pd.DataFrame(rows)}, config, note), folder)
