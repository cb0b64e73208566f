"""Every reader against mutated files, one reader after another: does any mutation end in a traceback or in other values?

    python tools/fuzz.py                         2,000 mutations a reader, those that docs/fuzz.json does not have yet
    python tools/fuzz.py --only epochs           of readers whose name holds the word
    python tools/fuzz.py --count 300 --again
    python tools/fuzz.py --page                  only writes the table into docs/trust.md

The readers and what they read are those of tests/faults/readers.py. A mutation follows from the seed and its number alone. What
was found is kept in docs/fuzz.json after every 50, so that a run that was cut goes on. Mutations that were faults are tried
again first: where the reader was mended, they count as what they are now.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import Any

from brainlens import store
from trust_page import write_table

ROOT = Path(__file__).resolve().parents[1]
KEPT = ROOT / "docs" / "fuzz.json"
KINDS = ("typed", "same", "different", "untyped", "slow", "large")
PIECE = 50  # mutations between two savings
WHOLE = 2000  # mutations of a reader that was tried whole


def module(name: str) -> ModuleType:
    """A file of tests/faults, loaded by its path."""
    spec = importlib.util.spec_from_file_location(f"tests_{name}", ROOT / "tests" / "faults" / f"{name}.py")
    if spec is None or spec.loader is None:
        raise ImportError(name)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def fresh(name: str, seed: int, hashed: bool) -> dict[str, Any]:
    """The row of a reader that no mutation was tried with."""
    return {"reader": name, "hashed": hashed, "seed": seed, "mutations": 0, **dict.fromkeys(KINDS, 0), "wrong": {}, "date": ""}


def add(row: dict[str, Any], found: Any, again: bool) -> None:
    """What a piece of mutations was goes into the row; again: these are the row's own faults, which are tried once more."""
    if again:
        for kind, _ in row["wrong"].values():
            row[kind] -= 1
        row["wrong"] = {}
    for kind, number in found.counts.items():
        row[kind] += number
    row["wrong"] |= {str(number): list(fault) for number, fault in found.wrong.items()}
    row["date"] = datetime.date.today().isoformat()


def tried(row: dict[str, Any], count: int, readers: ModuleType, fuzzing: ModuleType, save: Any) -> None:
    """Mutations of one reader up to `count`, piece by piece; `save` is called after each."""
    name, piece = row["reader"], PIECE
    with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
        folder = Path(place) / "data"
        folder.mkdir()
        readers.TABLE[name][0](folder)
        pieces = [(True, sorted(map(int, row["wrong"])))] if row["wrong"] else []
        pieces += [(False, range(at, min(at + piece, count))) for at in range(row["mutations"], count, piece)]
        for again, numbers in pieces:
            found = fuzzing.fuzz(folder, readers.read_of(name), numbers=numbers, seed=row["seed"], hashed=row["hashed"])
            add(row, found, again)
            row["mutations"] += 0 if again else len(numbers)
            for line in found.said():
                print(f"{name}: {line}", flush=True)
            save()


def table(rows: list[dict[str, Any]], every: list[str]) -> str:
    """Of each reader the mutations and what they were, as Markdown, and their sums before it; every: the names of all readers."""
    total = {kind: sum(row[kind] for row in rows) for kind in ("mutations", *KINDS)}
    faults = sum(len(row["wrong"]) for row in rows)
    dates = sorted({row["date"] for row in rows})
    whole = sum(row["mutations"] >= WHOLE for row in rows)
    fewer = [row["mutations"] for row in rows if row["mutations"] < WHOLE]
    none = [name for name in every if name not in {row["reader"] for row in rows}]
    few = " to ".join(dict.fromkeys(f"{count:,}" for count in (min(fewer), max(fewer)))) if fewer else ""
    part = f", {len(fewer)} with {few}" if fewer else ""
    rest = f", and {len(none)} by the suite and CI alone ({', '.join(none)})" if none else ""
    lines = [
        f"`make fuzz` has tried {whole} of {len(every)} readers with {WHOLE:,} mutations{part}{rest}.",
        "",
        f"{total['mutations']:,} mutations over {len(rows)} readers ({' to '.join(dict.fromkeys((dates[0], dates[-1])))}): "
        f"{total['untyped']} tracebacks, {sum(row['different'] for row in rows if row['hashed'])} other values where files carry "
        f"hashes, {total['large']} over 500 MB, {total['slow']} over 5 s; {faults} faults in all.",
        "",
        "| reader | hashes | mutations | one line | equal values | other values | faults | date |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        carried = "yes" if row["hashed"] else ""
        lines.append(
            f"| {row['reader']} | {carried} | {row['mutations']:,} | {row['typed']:,} | {row['same']:,} | {row['different']:,} "
            f"| {len(row['wrong'])} | {row['date']} |"
        )
    return "\n".join(lines)


def main() -> int:
    """Prints a line a fault and a reader; 0 where there is none and every reader of the table was tried."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a word in the reader's name")
    parser.add_argument("--count", type=int, default=WHOLE, help="mutations a reader")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--again", action="store_true", help="from the first mutation on")
    parser.add_argument("--page", action="store_true", help="write the page and try nothing")
    asked = parser.parse_args()
    rows: dict[str, dict[str, Any]] = {row["reader"]: row for row in (store.read_json(KEPT) if KEPT.exists() else [])}
    fuzzing, readers = module("fuzzing"), module("readers")
    for name in [] if asked.page else [name for name in readers.TABLE if asked.only in name]:
        hashed = name in readers.HASHED
        row = rows.get(name)
        if row is None or asked.again or (row["seed"], row["hashed"]) != (asked.seed, hashed):
            row = rows[name] = fresh(name, asked.seed, hashed)
        if row["mutations"] < asked.count or row["wrong"]:
            tried(row, asked.count, readers, fuzzing, lambda: save(rows, readers))
        print(name, {kind: row[kind] for kind in ("mutations", *KINDS) if row[kind]}, flush=True)
    done = [rows[name] for name in readers.TABLE if name in rows and rows[name]["mutations"]]
    if done:
        write_table("fuzz", table(done, list(readers.TABLE)))
    short = [name for name in readers.TABLE if name not in rows or rows[name]["mutations"] < asked.count]
    print(f"{sum(len(row['wrong']) for row in done)} faults; fewer than {asked.count} mutations: {', '.join(short) or 'none'}")
    return int(bool(short) or any(row["wrong"] for row in done))


def save(rows: dict[str, dict[str, Any]], readers: ModuleType) -> None:
    """The rows in the order of the table of readers."""
    store.save_json(KEPT, [rows[name] for name in readers.TABLE if name in rows])


if __name__ == "__main__":
    sys.exit(main())
