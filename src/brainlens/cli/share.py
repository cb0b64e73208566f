"""`brainlens export`, `import` and `compare`: runs that are sent on, opened, and set side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens.cli.options import OUTPUT, Runs
from brainlens.cli.terminal import show


def export(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[
        Path | None, typer.Option(help="The archive to write. Default: RUN.zip beside the run.", rich_help_panel=OUTPUT)
    ] = None,
    hub: Annotated[
        Path | None,
        typer.Option(
            help="Write the fitted model as a hub's folder (card, config, safetensors) instead.", rich_help_panel=OUTPUT
        ),
    ] = None,
) -> None:
    """One file with everything of a run and the SHA-256 of each part; or its fitted model as the folder of a model hub."""
    from brainlens.store.archive import save_archive, save_hub_folder
    from brainlens.types import DataError

    if hub is not None:
        if out is not None:
            raise DataError("export: --out (an archive of the run) and --hub (a folder of its model) exclude each other")
        typer.echo(f"model: {save_hub_folder(run, hub)}")
        return
    typer.echo(f"archive: {save_archive(run, out if out is not None else run.with_name(f'{run.name}.zip'))}")


def import_(
    archive: Annotated[Path, typer.Argument(help="An archive of `brainlens export`.")], runs: Runs = Path("runs")
) -> None:
    """Opens an archive of `brainlens export` in the folder of runs, if every byte is what its list says."""
    from brainlens.store.archive import open_archive

    typer.echo(f"run: {open_archive(archive, runs)}")


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more run folders.")],
    out: Annotated[Path | None, typer.Option(help="Page (.html) or table (.csv, .tsv) to write.", rich_help_panel=OUTPUT)] = None,
    every: Annotated[bool, typer.Option("--every", help="Scores that one run alone has, too.", rich_help_panel=OUTPUT)] = False,
) -> None:
    """The scores of several runs side by side: value, 95 % interval, chance and n, a row a score, a column a run."""
    from brainlens import store
    from brainlens.types import DataError

    if len(runs) < 2:
        raise DataError("compare: give two or more run folders")
    if out is not None and out.suffix not in (".html", ".csv", ".tsv"):
        raise DataError(f"compare: {out} ends in {out.suffix!r}; it can be .html, .csv or .tsv")
    names = run_names(runs)
    results = {name: store.load_result(folder) for name, folder in zip(names, runs, strict=True)}
    rows = side_by_side(results, every=every)
    if not rows:
        raise DataError("compare: the runs have no score in common; --every shows those that one run alone has")
    show(rows, "compare")
    shared = words_in_common(results)
    if out is None:
        return
    import pandas as pd

    if out.suffix != ".html":
        store.save_table(out, pd.DataFrame(long_rows(results)))
    else:
        from brainlens.report import render
        from brainlens.types import Result

        first = Result("scores", {}, {}, None, {"side by side": pd.DataFrame(rows)}, {"runs": names}, {})
        shown = [("side by side", first), *([] if shared is None else [("agreement", shared)]), *results.items()]
        store.save_text(out, render(shown, title="brainlens compare"))
    typer.echo(f"{'page' if out.suffix == '.html' else 'table'}: {out}")


def words_in_common(results: dict[str, Any]) -> Any:
    """The agreement of labels where all runs are descriptions, shown as a table; None, with the reason, where they have none."""
    from brainlens.types import DataError

    if any(result.task != "describe" or result.config.get("method") == "agreement" for result in results.values()):
        return None
    from brainlens.datasets.runs import table
    from brainlens.describe import label_agreement

    try:
        shared = label_agreement(results)
    except DataError as error:
        typer.echo(f"compare: {error}", err=True)
        return None
    show(table(shared, "describe/agreement/"), "agreement of words")
    return shared


def run_names(runs: list[Path]) -> list[str]:
    """The folders' names, with as much of the path as tells them apart. Raises DataError for a run that comes twice."""
    from brainlens.types import DataError

    whole = [folder.resolve() for folder in runs]
    if len(set(whole)) < len(whole):
        raise DataError("compare: a run comes twice")
    depth = 1
    while len({path.parts[-depth:] for path in whole}) < len(whole):
        depth += 1
    return ["/".join(path.parts[-depth:]) for path in whole]


def side_by_side(results: dict[str, Any], *, every: bool = False) -> list[dict[str, Any]]:
    """One row a score that all runs have (every: that any has), in the order of the first run; each number under one name."""
    frames = {name: result.scores().set_index("metric") for name, result in results.items()}
    metrics = list(dict.fromkeys(metric for frame in frames.values() for metric in frame.index))
    rows = []
    for metric in metrics:
        there = {name: frame.loc[metric] for name, frame in frames.items() if metric in frame.index}
        if (len(there) < len(frames) and not every) or _repeated(metric, there, frames):
            continue
        row: dict[str, Any] = {"score": metric}
        for name in frames:
            row[name] = "" if name not in there else _value(there[name])
        levels = {f"{line['chance']:.3g}" for line in there.values() if line["chance"] == line["chance"]}
        row["chance"] = ", ".join(sorted(levels))
        row["n"] = ", ".join(dict.fromkeys(f"{line['n']:,.0f}" for line in there.values() if line["n"] == line["n"]))
        rows.append(row)
    return rows


def _repeated(metric: str, there: dict[str, Any], frames: dict[str, Any]) -> bool:
    """Whether a score stands under a shorter name, with the same number, in each run that has it: `align/ridge/retrieval/...` is
    `retrieval/...` where ridge is the encoder that leads the run."""
    parts = metric.split("/")
    for short in ("/".join(parts[k:]) for k in range(1, len(parts))):
        lines = [frames[name].loc[short] if short in frames[name].index else None for name in there]
        if all(other is not None and other.equals(line) for other, line in zip(lines, there.values(), strict=True)):
            return True
    return False


def long_rows(results: dict[str, Any]) -> list[dict[str, Any]]:
    """One row a run and score, numbers as they are."""
    return [{"run": name, **row} for name, result in results.items() for row in result.scores().to_dict("records")]


def _value(line: Any) -> str:
    from brainlens.types.scores import digits

    interval = "" if line["low"] != line["low"] else f" ({line['low']:.3g} to {line['high']:.3g})"
    return f"{digits(line['value'])}{interval}"
