"""docs/benchmarks.md of the rows that were measured: a table of all, the rates of the machine, the goals, the cost model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

Row = dict[str, Any]
REST = "the rest"  # of a profile: Python, numpy, files
APART = ("cost", "recording_to_result")  # benchmarks with a table of their own
UNITS = {
    "time_ratio": ("time of the baseline over ours", "x"),
    "memory_ratio": ("memory of the baseline over ours", "x"),
    "equal_score_ratio": ("time of the published sampling over ours at the same two-way score", "x"),
    "recording_ratio": ("time of drawing with the attention recorded over without", "x"),
    "time_s": ("time", " s"),
    "peak_mb": ("peak memory", " MB"),
    "overhead": ("time beside its runs, as a share", ""),
    "worst": ("largest relative error of a size held out", ""),
}


@dataclass(frozen=True)
class Goal:
    """A number of a benchmark that is to be at least `value`, or with most=True at most; bound: what stops it, in words.

    needs: a truth value of the row without which the number does not count, such as that both sides score alike.
    """

    name: str
    key: str
    value: float
    bound: str
    most: bool = False
    needs: str | None = None

    def met(self, row: Row) -> bool:
        """Whether what a row reached is the goal or better."""
        reached = row[self.key]
        return (self.needs is None or bool(row.get(self.needs))) and (
            reached <= self.value if self.most else reached >= self.value
        )


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def number(row: Row, key: str, form: str = ".3g", factor: float = 1.0) -> str:
    """A number of a row as text, a dash where it has none."""
    value = row.get(key)
    return "-" if value is None else format(factor * value, form)


def where(row: Row) -> list[str]:
    """Threads, machine, device and date, with a mark where other processes kept more than a tenth of a core busy."""
    busy = f" (others: {row['others_cores']:.1f} cores)" if row.get("others_cores", 0.0) > 0.1 else ""
    return [str(row.get("threads") or "-"), str(row.get("machine", "-")), row["device"], row["date"] + busy]


def measured(rows: Sequence[Row]) -> str:
    """Every benchmark beside its baseline and its floor."""
    head = ["benchmark", "beside", "time [s]", "its time [s]", "ratio", "peak [MB]", "its peak [MB]", "ratio", "largest error"]
    head += ["floor [s]", "set by", "share of it", "threads", "machine", "device", "date"]
    lines = []
    for row in rows:
        if "failed" in row:
            lines.append([row["name"], f"failed: {row['failed']}", *["-"] * 10, *where(row)])
            continue
        own = [number(row, "time_s"), number(row, "peer_time_s"), f"**{number(row, 'time_ratio')}**"]
        own += [number(row, "peak_mb", ".0f"), number(row, "peer_peak_mb", ".0f"), f"**{number(row, 'memory_ratio')}**"]
        own += [number(row, "max_rel_error", ".1e"), number(row, "floor_s"), str(row.get("floor_by", "-"))]
        share = "-" if row.get("share") is None else f"{100 * row['share']:.0f} %"
        lines.append([row["name"], row["peer"], *own, share, *where(row)])
    return table(head, lines)


def rates(rows: Sequence[Row]) -> str:
    """What the machine was measured to do beside the benchmarks: median, and the lowest and highest of its rows."""
    head = ["machine", "threads", "float32 [10^9 multiply-adds/s]", "float64 [10^9 multiply-adds/s]", "copies [GB/s]", "measured"]
    keys = ("rate_gmac_s", "rate_gmac64_s", "rate_gbyte_s")
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if "rate_gmac_s" in row:
            groups.setdefault((row["machine"], str(row["threads"])), []).append(row)
    lines = []
    for (machine, threads), members in groups.items():
        found = []
        for key in keys:
            values = sorted(row[key] for row in members)
            found.append(f"{values[len(values) // 2]:.3g} ({values[0]:.3g} to {values[-1]:.3g})")
        lines.append([machine, threads, *found, f"{len(members)} times"])
    return table(head, lines)


def spent(row: Row, key: str) -> str:
    """In words, what a profile of the run says of a missed goal: kinds of work and their shares, or where most memory is held."""
    profile = row.get("profile")
    if profile is None or key not in ("time_ratio", "memory_ratio", "time_s"):
        return ""
    if key == "memory_ratio":
        return f"most memory is held in `{profile['most_memory_in']}`" if profile["most_memory_in"] else ""
    shares = sorted(profile["shares"].items(), key=lambda one: -one[1])
    said = [f"{kind} {100 * share:.0f} % of the time{at_rate(row, kind)}" for kind, share in shares if share >= 0.05]
    if profile["shares"][REST] > 0.5:
        said += [f"`{name}` {100 * share:.0f} %" for name, share in profile["first"][:3]]
    return ", ".join(said)


def at_rate(row: Row, kind: str) -> str:
    """Of products, at which share of the machine's rate they run: the floor over the time that they take."""
    share = row["profile"]["shares"][kind]
    if kind != "products" or row.get("floor_by") != "products" or not share:
        return ""
    return f" (at {100 * min(1.0, row['share'] / share):.0f} % of the machine's rate)"


def profiles(rows: Sequence[Row]) -> str:
    """What each run spends its time in, and the ratio that would be left if all but its products cost nothing."""
    lines = []
    for row in rows:
        profile, shares = row["profile"], row["profile"]["shares"]
        products = shares["products"]
        alone = f"{row['time_ratio'] / products:.3g}x" if products > 0.05 and row.get("time_ratio") else "-"
        first = ", ".join(f"`{name}` {100 * share:.0f} %" for name, share in profile["first"])
        when = profile.get("date", row["date"])
        own = [f"{100 * share:.0f} %" for share in shares.values()]
        lines.append([row["name"], str(row.get("threads") or "-"), *own, alone, first, f"`{profile['most_memory_in']}`", when])
    kinds = list(rows[0]["profile"]["shares"])
    return table(["benchmark", "threads", *kinds, "were products all", "most of it", "most memory in", "date"], lines)


def goals(rows: Sequence[Row], asked: Sequence[Goal]) -> str:
    """The goals beside what was reached, and what a program at the floor would reach; where one is missed, what stops it."""
    head = ["benchmark", "what", "goal", "reached", "met", "at the floor", "threads", "device", "what stops it"]
    lines = []
    for goal in asked:
        said, unit = UNITS[goal.key]
        wanted = f"{'<=' if goal.most else '>='} {goal.value:g}{unit}"
        found = [row for row in rows if row["name"] == goal.name and row.get(goal.key) is not None and row.get("threads")]
        if not found:
            lines.append([goal.name, said, wanted, "not measured in this form yet", *["-"] * 5])
        for row in found:
            met = goal.met(row)
            ideal = f"{row['peer_time_s'] / row['floor_s']:.3g}x" if goal.key == "time_ratio" and row.get("floor_s") else "-"
            bound = "" if met else "; ".join(filter(None, (goal.bound, spent(row, goal.key))))
            lines.append(
                [goal.name, said, wanted, f"{row[goal.key]:.3g}{unit}", "yes" if met else "**no**", ideal, str(row["threads"])]
                + [row["device"], bound]
            )
    return table(head, lines)


def cost(row: Row) -> str:
    """The cost model against sizes that it was not fitted to."""
    lines = [
        [f"`{one['size']}`", f"{one['measured']:.3g}", f"{one['predicted']:.3g}", f"{100 * one['error']:+.0f} %", *where(row)]
        for one in row["rows"]
    ]
    return table(["size held out", "measured [s]", "predicted [s]", "error", "threads", "machine", "device", "date"], lines)


def to_result(row: Row) -> str:
    """Each verb from a recording to its result beside a script of the usual libraries."""
    lines = []
    for one in row["rows"]:
        own = [number(one, key) for key in ("time_s", "script_time_s", "time_ratio")]
        own += [number(one, "peak_mb", ".0f"), number(one, "script_peak_mb", ".0f")]
        lines.append([one["verb"], one["does"], *own, one["same"], *where(row)])
    head = ["verb", "script", "time [s]", "its time [s]", "ratio", "peak [MB]", "its peak [MB]", "same result"]
    return table([*head, "threads", "machine", "device", "date"], lines)


ABOUT_PROFILES = (
    "Shares of one more run of ours under a profiler (`benchmarks/profiled.py`): torch's operators by kind, and what is left, "
    "which is Python, numpy and files; where that is more than half, functions are named, else operators. *Were products all* is "
    "the ratio that would be reached if all but the products cost nothing. Where other processes kept the machine busy, waiting "
    "for a core is in all shares.\n"
)


def page(rows: Sequence[Row], asked: Sequence[Goal], names: Sequence[str]) -> str:
    """The whole page."""
    missing = [name for name in names if name not in {row["name"] for row in rows}]
    whole = {row["name"]: row for row in rows if row["name"] in APART and "failed" not in row}
    parts = [
        "# Benchmarks\n",
        "Each row is one program in `benchmarks/`, run by `make bench`: ours and the straightforward way on the same data, each "
        "in a process of its own. Ratios are baseline / ours, so more than 1 means faster or smaller. The largest error is "
        "relative to the largest value of the baseline's output. What each benchmark's size is, and what part of a long baseline "
        "is timed and scaled, stands at the top of its program.\n",
        "The floor is the time that our multiply-adds take at the measured rate of large matrix products, or the bytes that must "
        "be read and written at the measured bandwidth, whichever is longer (`benchmarks/floor.py`); the share is floor over "
        "time. A dash in these columns is a row from before the floor was measured.\n",
        "## Beside the straightforward way\n",
        measured([row for row in rows if row["name"] not in whole]),
        "\n## Rates of the machine\n",
        "Measured beside each benchmark with its threads: the median, and the lowest and the highest.\n",
        rates(rows),
        "\n## Goals\n",
        "At the floor is the baseline's time over the floor: the ratio of a program that does nothing but our products or "
        "copies.\n",
        goals(rows, asked),
    ]
    watched = [row for row in rows if "profile" in row and "failed" not in row]
    if watched:
        parts += ["\n## What the time is spent in\n", ABOUT_PROFILES, profiles(watched)]
    if "recording_to_result" in whole:
        row = whole["recording_to_result"]
        parts += ["\n## Recording to result\n", row["about"] + "\n", to_result(row)]
        parts += ["\n".join(["", *(f"Not run: {line}." for line in row["skipped"])])] if row["skipped"] else []
    if "cost" in whole:
        parts += [
            "\n## Cost model\n",
            "Seconds of a training step of FactorTopy predicted from its sizes (`benchmarks/cost.py`).\n",
        ]
        parts.append(cost(whole["cost"]))
    notes = [f"- {r['name']}: {r['note']}" for r in rows if r.get("note")]
    parts += ["\n## Notes\n", "\n".join(notes)] if notes else []
    if rows and all("wall_s" in row for row in rows) and not missing:
        parts.append(f"\nAll programs together took {sum(row['wall_s'] for row in rows) / 60:.0f} minutes.")
    if missing:
        parts.append(f"\nNot measured yet: {', '.join(missing)}.")
    return "\n".join(parts) + "\n"
