"""`brainlens paper`: the rows of a paper's tables with the data at hand, by the commands that a user could type.

Each row is a command of this program. A command that was finished before is found again, so that a stopped call goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens.cli import terminal
from brainlens.cli.options import (
    DATA,
    TRAINING,
    Data,
    Dataset,
    Device,
    Model,
    Option,
    Runs,
    Seed,
    Test,
    Train,
    check_source,
    given,
)
from brainlens.datasets import DEFAULT

PAPERS = {
    "factortopy": "Brain Decodes Deep Nets",
    "ib_ba": "Bridging Vision, Language, and Brain",
    "neuroalign": "NeuroAlign",
}
Pick = Callable[[Any], list[dict[str, Any]]]


@dataclass(frozen=True)
class Step:
    """One command: the table of the paper that its rows stand in, what the rows are called, and the rows of its result."""

    table: str
    row: str
    command: tuple[str, ...]
    pick: Pick
    needs: str = ""  # a word in the command that stands for the last run of this table


def paper(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="factortopy, ib_ba or neuroalign.")],
    dataset: Dataset = DEFAULT,
    data: Data = None,
    option: Option = None,
    model: Model = None,
    subject: Annotated[list[str] | None, typer.Option(help="Subject; repeat for several.", rich_help_panel=DATA)] = None,
    roi: Annotated[list[str] | None, typer.Option(help="factortopy: region to fit; repeat.", rich_help_panel=DATA)] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="ib_ba, neuroalign: recipe of the paper's own method. Default: small (ib_ba), paper (neuroalign).",
            rich_help_panel=TRAINING,
        ),
    ] = None,
    steps_: Annotated[int | None, typer.Option("--steps", help="fMRI: training steps at most.", rich_help_panel=TRAINING)] = None,
    epochs: Annotated[int | None, typer.Option(help="neuroalign: training epochs.", rich_help_panel=TRAINING)] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Only the rows whose table or name holds this text; repeat.", rich_help_panel=TRAINING),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="The page. Default: RUNS/paper-NAME.html.")] = None,
    runs: Runs = Path("runs"),
    seed: Seed = 0,
    device: Device = "cpu",
    train: Train = 1200,
    test: Test = 200,
) -> None:
    """The rows of a published paper's tables on a recording, and one page of them. A stopped call goes on."""
    from brainlens.datasets import DEFAULT_SENSORS, facts
    from brainlens.types import DataError

    if name not in PAPERS:
        raise DataError(f"paper {name!r} is not one of {', '.join(PAPERS)}")
    dataset = DEFAULT_SENSORS if name == "neuroalign" and dataset == DEFAULT else dataset
    check_source(context, dataset)
    kind = facts(dataset)["kind"]
    if (kind == "fMRI") == (name == "neuroalign"):
        right = "EEG and MEG" if name == "neuroalign" else "fMRI"
        raise DataError(f"paper {name}: {PAPERS[name]} is of {right}, and {dataset} is {kind}; choose another dataset")
    flags = given(context)
    for wrong, what in (("steps_", "neuroalign"), ("epochs", "fMRI")):
        if wrong in flags and (what == "neuroalign") == (name == "neuroalign"):
            raise DataError(f"{flags[wrong]} does not apply to {name}; {'--epochs' if name == 'neuroalign' else '--steps'} does")
    if name != "factortopy" and roi:
        raise DataError(f"--roi does not apply to {name}, whose rows have regions of their own; leave it out")
    if name == "factortopy" and preset is not None:
        raise DataError("--preset does not apply to factortopy, whose rows are all of its recipes; leave it out")
    common = _common(dataset, data, option, model, runs=runs, seed=seed, device=device)
    common += ("--train", str(train), "--test", str(test)) if {"train", "test"} & set(flags) else ()
    people = [str(s) for s in subject or ()]
    if name == "neuroalign":
        plan = neuroalign(common, people, preset or "paper", epochs, simulated=bool(facts(dataset)["simulated"]))
    else:
        parts = tuple(part for s in people for part in ("--subject", s))
        parts += tuple(part for region in roi or () for part in ("--roi", region))
        short = () if steps_ is None else ("--steps", str(steps_))
        plan = factortopy(common + parts, short) if name == "factortopy" else ib_ba(common + parts, short, preset or "small")
    plan = [step for step in plan if not only or any(text in f"{step.table} {step.row}" for text in only)] or _none(plan)
    _run(name, plan, runs, out)


def _common(
    dataset: str, data: Path | None, option: list[str] | None, model: str | None, *, runs: Path, seed: int, device: str
) -> tuple[str, ...]:
    """What every command of a paper is given."""
    found = ["--dataset", dataset, "--runs", str(runs), "--seed", str(seed), "--device", device]
    found += ["--data", str(data)] if data is not None else []
    found += [part for text in option or () for part in ("--option", text)]
    return (*found, *(("--model", model) if model is not None else ()))


def _none(plan: Sequence[Step]) -> list[Step]:
    from brainlens.types import DataError

    raise DataError(f"--only matches no row; there are: {'; '.join(f'{step.table}, {step.row}' for step in plan)}")


def factortopy(common: tuple[str, ...], short: tuple[str, ...]) -> list[Step]:
    """Table 16: all methods, the published recipes without and with a closing ridge, and FactorTopy with a part changed."""
    base, table = ("encode", *common), "Table 16: methods"
    own = (*base, "--method", "factortopy")
    methods = ("class_token", "patch_token", "gnet", "ridge")
    plan = [Step(table, m, (*base, "--method", m, *(() if m == "ridge" else short)), encoded) for m in methods]
    plan.append(Step(table, "factortopy, default", own, encoded))
    for recipe in ("paper", "released"):
        for end, more in (("", ()), (", closing ridge", ("--refit",))):
            plan.append(Step(table, f"factortopy, {recipe}{end}", (*own, "--preset", recipe, *short, *more), encoded))
    plan.append(Step(table, "factortopy, without topology (Fig. 3)", (*own, "--per-voxel"), encoded))
    for part in ("layer", "space", "scale"):
        plan.append(Step(table, f"factortopy, without {part}", (*own, "--without", part), encoded))
    plan.append(Step(table, "factortopy, three places a voxel", (*own, "--samples", "3"), encoded))
    return plan


def ib_ba(common: tuple[str, ...], short: tuple[str, ...], preset: str) -> list[Step]:
    """Table 1 (retrieval), Table 3 (modalities, visual regions), Table 2 (attribution) and Table 6 (settings)."""
    base, own = ("align", *common), ("--preset", preset, *short)
    names = ("ridge", "linear", "mlp", "mindeye_like", "mindeye2_like", "cnn", "volume")
    encoders = [part for name in names for part in ("--encoder", name)]
    plan = [Step("Table 1: retrieval", "whole brain, both", (*base, *encoders, *own), aligned)]
    volume = (*base, "--encoder", "volume", *own)
    for modality in ("image", "text"):
        plan.append(Step("Table 3: modalities", f"{modality} alone", (*volume, "--modality", modality), aligned))
    plan.append(Step("Table 3: regions", "visual regions", (*volume, "--region", "visual"), aligned))
    plan.append(Step("Table 1: retrieval", "for attribution", volume, aligned))
    where = tuple(common[common.index(flag) + k] for flag in ("--runs", "--seed", "--device") for k in (0, 1))
    paper_form = ("--normalise", "none", "--refine", "none")
    explain = ("attribute", "RUN", *where, *paper_form)
    plan.append(Step("Table 2: attribution", "", (*explain, "--method", "all"), attributed, needs="for attribution"))
    plan.append(Step("Table 6: settings", "", (*explain, "--sensitivity"), settings, needs="for attribution"))
    return plan


def neuroalign(common: tuple[str, ...], people: Sequence[str], preset: str, epochs: int | None, *, simulated: bool) -> list[Step]:
    """Tables 1 and 2 (within and across subjects), Table 4 (ablation) and, on the phantom, Table 5 (prompts)."""
    own = ("--preset", preset, *(() if epochs is None else ("--epochs", str(epochs))))
    names = [
        "ridge",
        "linear",
        "nice",
        "nice_sa_like",
        "nice_ga_like",
        "nice_llm_like",
        "ubp_like",
        "atm",
        "unfiltered",
        "neuroalign",
    ]
    if simulated and "--data" in common:
        names.remove("ubp_like")  # simulated from embeddings, without pictures that could be blurred
    encoders = [part for each in names for part in ("--encoder", each)]
    plan = []
    for number, who in enumerate(people or [""]):
        chosen = ("--subject", who) if who else ()
        said = f"subject {who}" if who else "first subject"
        more = ("--ablation", *(("--prompts",) if simulated else ())) if number == 0 else ()
        plan.append(Step("Table 1: within subjects", said, ("align", *common, *chosen, *encoders, *own, *more), sensed))
        if len(people) != 1 or simulated:
            across = ("--protocol", "across", *chosen)
            plan.append(Step("Table 2: across subjects", said, ("align", *common, *across, *encoders, *own), sensed))
    return plan


def _run(name: str, plan: Sequence[Step], runs: Path, out: Path | None) -> None:
    """Calls every command, shows each table as it stands, and writes the page."""
    from brainlens import store
    from brainlens.report import build

    started, folders, rows, made = store.Start(), [], list[dict[str, Any]](), dict[str, Path]()
    for step in plan:
        command = [str(made[step.needs]) if part == "RUN" and step.needs in made else part for part in step.command]
        if "RUN" in command:
            typer.echo(f"left out: {step.table}; it needs the row {step.needs!r}", err=True)
            continue
        typer.echo(f"\n{step.table}: {step.row}\n  brainlens {' '.join(command)}", err=True)
        _call(command)
        made[step.row] = terminal.LAST[-1]
        folders.append(made[step.row])
        result = store.load_result(made[step.row])
        rows += [{"table": step.table, "row": step.row, **row, "run": made[step.row].name} for row in step.pick(result)]
    rows = with_ratios(rows)
    folder = _kept(name, rows, runs, started, folders)
    for table in dict.fromkeys(row["table"] for row in rows):
        terminal.show([_short(row) for row in rows if row["table"] == table], f"{PAPERS[name]}, {table}")
    page = build([folder, *dict.fromkeys(folders)], out or runs / f"paper-{name}.html", title=f"{PAPERS[name]}: its tables")
    typer.echo(f"run: {folder}\nreport: {page}")


def _call(command: list[str]) -> None:
    """One command of this program; a mistake in it ends the paper with its line."""
    from brainlens.cli import app

    terminal.LAST.clear()
    app(command, standalone_mode=False)


def _kept(name: str, rows: list[dict[str, Any]], runs: Path, started: Any, folders: Sequence[Path]) -> Path:
    """The rows as a run of their own: table `comparison`, and what they were made from."""
    import pandas as pd

    from brainlens import store
    from brainlens.types import Result

    source = store.load_result(folders[0])
    config = {"paper": name, "title": PAPERS[name], "runs": [folder.name for folder in folders]}
    config |= {key: source.config[key] for key in ("dataset", "folder") if key in source.config}
    scores: dict[str, float] = {}
    for row in rows:
        head = "/".join(str(row[k]) for k in ("table", "row", "encoder", "method", "parameter", "value") if row.get(k))
        scores |= {f"paper/{head}/{key}": value for key, value in row.items() if isinstance(value, float)}
    provenance = store.provenance(source.provenance.get("seed"), "cpu", config["runs"], started)
    result = Result("paper", scores, {}, None, {"comparison": pd.DataFrame(rows)}, config, provenance)
    place = store.run_folder(runs, "paper", config, config["runs"])
    store.save_result(result, place)
    return place


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the terminal shows it: scores with their intervals in one cell."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key in ("table", "run") or key.endswith((".low", ".high")):
            continue
        low, high = row.get(f"{key}.low"), row.get(f"{key}.high")
        found[key] = value if low is None or high is None else f"{value:.3g} ({low:.3g} to {high:.3g})"
    return found


def _scores(metrics: dict[str, float], head: str, names: Sequence[str]) -> dict[str, float]:
    ends = ("", ".low", ".high")
    return {f"{n}{e}": float(metrics[f"{head}{n}{e}"]) for n in names for e in ends if f"{head}{n}{e}" in metrics}


def encoded(result: Any) -> list[dict[str, Any]]:
    """R2, its share of the ceiling, time and multiply-adds, units, and the hierarchy of one encoding."""
    found = _scores(result.metrics, "encoding/", ("r2_mean", "r2_of_ceiling"))
    found |= {"fit_s": float(result.provenance["fit_s"])}
    found |= _scores(result.metrics, "encoding/", ("multiply_adds", "parameters", "hierarchy_slope"))
    return [{**found, "units": len(result.arrays["r2"]), "method": result.config["method"]}]


def with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of encodings with time and multiply-adds in units of the class token, or of the first row, as in table 16."""
    import pandas as pd

    from brainlens.encode.compare import relative_cost

    if not rows or "fit_s" not in rows[0]:
        return rows
    return list(relative_cost(pd.DataFrame(rows), [row["method"] for row in rows]).to_dict("records"))


def aligned(result: Any) -> list[dict[str, Any]]:
    """Top-1 and top-5 of every encoder in four directions, with chance."""
    names = [n for n in dict.fromkeys(k.split("/")[1] for k in result.metrics if k.startswith("align/")) if "-" not in n]
    rows = []
    for name in names:
        row: dict[str, Any] = {"encoder": name}
        for direction in ("brain->image", "image->brain", "brain->text", "text->brain"):
            head = f"align/{name}/retrieval/{direction}/"
            found = _scores(result.metrics, head, ("top1", "top5"))
            row |= {f"{direction} {key}": value for key, value in found.items()}
        row["chance"] = result.metrics.get(f"align/{name}/retrieval/brain->image/chance1", float("nan"))
        rows.append(row)
    return rows


def attributed(result: Any) -> list[dict[str, Any]]:
    """The table of all methods."""
    return list(result.tables["methods"].to_dict("records"))


def settings(result: Any) -> list[dict[str, Any]]:
    """The sensitivity table."""
    return list(result.tables["sensitivity"].drop(columns="map").to_dict("records"))


def sensed(result: Any) -> list[dict[str, Any]]:
    """Top-1 and top-5 of every encoder, and of the variants where they were fitted."""
    rows = []
    for line in result.tables["comparison"].to_dict("records"):
        found = _scores(line, "retrieval/brain->image/", ("top1", "top5"))
        rows.append({"encoder": line["encoder"], **found, "chance": float(line["retrieval/brain->image/chance1"])})
    for name in ("ablation", "prompts"):
        for line in result.tables[name].to_dict("records") if name in result.tables else ():
            rows.append({"encoder": f"neuroalign, {line['variant']}", **_scores(line, "", ("top1", "top5"))})
    return rows
