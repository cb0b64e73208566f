"""`brainlens paper`: the rows of a paper's tables with the data at hand, by the commands that a user could type.

Each row is a command of this program. A command that was finished before is found again, so that a stopped call goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from brainlens.cli import terminal
from brainlens.cli.options import (
    DATA,
    MODEL,
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
    a_network,
    check_source,
    given,
)
from brainlens.cli.paper_rows import aligned, attributed, encoded, moved, sensed, settings, sized, with_means, with_ratios
from brainlens.datasets import DEFAULT

PAPERS = {
    "factortopy": "Brain Decodes Deep Nets",
    "ib_ba": "Bridging Vision, Language, and Brain",
    "neuroalign": "NeuroAlign",
}
HEADS = ("table", "row", "encoder", "method", "model", "images", "parameter", "value")  # what names a row's scores
DEFAULT_ROW, FREE_ROW = "factortopy, default", "factortopy, without topology (Fig. 3)"
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
    seeds: Annotated[
        int,
        typer.Option(
            help="factortopy: fits of every trained method with so many seeds; the paper has 3.", rich_help_panel=TRAINING
        ),
    ] = 1,
    curve: Annotated[
        list[int] | None,
        typer.Option(help="factortopy: number of training images for Figs. 26 and 27; repeat.", rich_help_panel=TRAINING),
    ] = None,
    finetuned: Annotated[
        str | None,
        typer.Option(
            help="factortopy: the network after `brainlens finetune`, beside --model as it was.",
            rich_help_panel=MODEL,
            callback=a_network,
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
    for wrong in ("roi", "seeds", "curve", "finetuned") if name != "factortopy" else ():
        if wrong in flags:
            raise DataError(f"{flags[wrong]} does not apply to {name}; it is of factortopy, leave it out")
    if seeds < 1:
        raise DataError(f"paper {name}: {seeds} seeds are asked for; at least 1 is needed")
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
        if name == "factortopy":
            plan = factortopy(common + parts, short, seeds=seeds, curve=curve or (), before=model, after=finetuned)
        else:
            plan = ib_ba(common + parts, short, preset or "small")
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


def factortopy(
    common: tuple[str, ...],
    short: tuple[str, ...],
    *,
    seeds: int = 1,
    curve: Sequence[int] = (),
    before: str | None = None,
    after: str | None = None,
) -> list[Step]:
    """Table 16: all methods, the published recipes without and with a closing ridge, and FactorTopy with a part changed.

    seeds: fits of every trained method; curve: training images of Figs. 26 and 27, in the runs of the methods and our default;
    before, after: a network and the same fine-tuned (section 4.4). A row with topology and one without make Fig. 3.
    """
    base, table = ("encode", *common), "Table 16: methods"
    more = ("--seeds", str(seeds)) if seeds > 1 else ()
    sizes = tuple(part for size in curve for part in ("--curve", str(size)))
    own = (*base, "--method", "factortopy", *more)
    methods = ("class_token", "patch_token", "gnet", "ridge")
    plan = [Step(table, m, (*base, "--method", m, *(() if m == "ridge" else (*more, *short)), *sizes), encoded) for m in methods]
    plan.append(Step(table, DEFAULT_ROW, (*own, *sizes), encoded))
    for recipe in ("paper", "released"):
        for end, refit in (("", ()), (", closing ridge", ("--refit",))):
            plan.append(Step(table, f"factortopy, {recipe}{end}", (*own, "--preset", recipe, *short, *refit), encoded))
    plan.append(Step(table, FREE_ROW, (*own, "--per-voxel"), encoded))
    for part in ("layer", "space", "scale"):
        plan.append(Step(table, f"factortopy, without {part}", (*own, "--without", part), encoded))
    plan.append(Step(table, "factortopy, three places a voxel", (*own, "--samples", "3"), encoded))
    if curve:  # of the same commands, which are found again
        of = {step.row: step.command for step in plan}
        plan += [Step("Figs. 26, 27: training images", row, of[row], sized) for row in (*methods, DEFAULT_ROW)]
    if after is not None:
        models = (*(() if before is not None else ("--model", "miniature")), "--model", after)
        plan.append(Step("Section 4.4: fine-tuning", "before and after", (*base, *models, "--method", "factortopy"), moved))
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
    plan.append(Step("Table 3: regions", "visual regions", (*volume, "--region", "visual", "--part-of-brain"), aligned))
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
    rows = with_means(with_ratios(rows))
    pair = [made[row] for row in (DEFAULT_ROW, FREE_ROW) if row in made]
    folder = _kept(name, rows, runs, started, folders, pair=pair)
    for table in dict.fromkeys(row["table"] for row in rows):
        terminal.show([_short(row) for row in rows if row["table"] == table], f"{PAPERS[name]}, {table}")
    page = build([folder, *dict.fromkeys(folders)], out or runs / f"paper-{name}.html", title=f"{PAPERS[name]}: its tables")
    typer.echo(f"run: {folder}\nreport: {page}")


def _call(command: list[str]) -> None:
    """One command of this program; a mistake in it ends the paper with its line."""
    from brainlens.cli import app

    terminal.LAST.clear()
    app(command, standalone_mode=False)


def _kept(
    name: str, rows: list[dict[str, Any]], runs: Path, started: Any, folders: Sequence[Path], *, pair: Sequence[Path] = ()
) -> Path:
    """The rows as a run of their own: table `comparison`, and what they were made from; of a pair of fits also Fig. 3."""
    import pandas as pd

    from brainlens import store
    from brainlens.types import Result

    source = store.load_result(folders[0])
    config = {"paper": name, "title": PAPERS[name], "runs": [folder.name for folder in folders]}
    config |= {key: source.config[key] for key in ("dataset", "folder") if key in source.config}
    scores: dict[str, float] = {}
    for row in rows:
        head = "/".join(str(row[k]) for k in HEADS if row.get(k))
        scores |= {f"paper/{head}/{key}": value for key, value in row.items() if isinstance(value, float)}
    provenance = store.provenance(source.provenance.get("seed"), "cpu", config["runs"], started)
    result = Result("paper", scores, {}, None, {"comparison": pd.DataFrame(rows)}, config, provenance)
    result = result if len(pair) < 2 else with_topology(result, *(store.load_result(folder) for folder in pair))
    place = store.run_folder(runs, "paper", config, config["runs"])
    store.save_result(result, place)
    return place


def with_topology(result: Any, topological: Any, free: Any) -> Any:
    """The result with the layer maps of a fit with topology and one without, in the units that the first predicts (Fig. 3)."""
    import numpy as np

    from brainlens.encode.compare import topology_pair
    from brainlens.plots.cortex import predicted_units

    table, maps = topology_pair(topological, free)
    shown, _ = predicted_units(topological, np.ones(len(topological.arrays["layer"]), bool))
    arrays = {key: np.where(shown, value, np.nan) for key, value in maps.items()}
    config = {**result.config, "layers": topological.config["layers"]}
    tables = {**result.tables, "topology": table}
    return replace(result, arrays=arrays, units=topological.units, space=topological.space, tables=tables, config=config)


def _short(row: dict[str, Any]) -> dict[str, Any]:
    """A row as the terminal shows it: scores with their intervals in one cell."""
    found: dict[str, Any] = {}
    for key, value in row.items():
        if key in ("table", "run") or key.endswith((".low", ".high")):
            continue
        low, high = row.get(f"{key}.low"), row.get(f"{key}.high")
        found[key] = value if low is None or high is None else f"{value:.3g} ({low:.3g} to {high:.3g})"
    return found
