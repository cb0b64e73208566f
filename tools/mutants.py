"""Mistakes put into the numerical core, one at a time, in a scratch copy: does the suite notice?

    python tools/mutants.py                      all that are not in docs/mutants.json yet, and those that survived
    python tools/mutants.py --only metrics       those of files whose path holds the word
    python tools/mutants.py --first 10 --list
    python tools/mutants.py --page               only writes the table into docs/trust.md

A mutant is caught where a test of its room fails that passes on the source as it is, which is tried at the end. One that no test catches survives: either
the tests are too weak there, or the line does nothing. What was found is kept in docs/mutants.json after each mutant, so that a
run that was cut goes on; a mutant is tried again where its file has changed since.
"""

# ruff: noqa: E501 (a mutant a line)
from __future__ import annotations

import argparse
import compileall
import datetime
import hashlib
import os
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brainlens import store
from trust_page import write_table

ROOT = Path(__file__).resolve().parents[1]
ROOM = "src/brainlens"
TIMEOUT = 1200  # s a mutant; one that hangs is caught
KEPT = ROOT / "docs" / "mutants.json"


@dataclass(frozen=True)
class Mutant:
    """Old text, which stands once in a file, the text in its place, and the tests that should notice."""

    file: str
    old: str
    new: str
    tests: str

    @property
    def key(self) -> tuple[str, str, str]:
        """What it is known by in the record."""
        return self.file, self.old, self.new


METRICS, RETRIEVAL, STATISTICS = (
    "tests/metrics/test_encoding.py",
    "tests/metrics/test_retrieval.py",
    "tests/metrics/test_statistics.py",
)
ALIGN, NN = "tests/align", "tests/nn/test_losses.py"
RIDGE, CANONICAL = "tests/nn/test_ridge.py tests/models/test_ridge_models.py", "tests/nn/test_canonical.py"
ENCODE, BOTTLENECK = (
    "tests/models/test_encoding_models.py tests/faults/test_data.py tests/encode/test_encode.py",
    "tests/attribution",
)
TYPES, SIGNALS = "tests/types tests/faults/test_data.py", "tests/signals/test_mvnn.py"
AGREEMENT = "tests/describe/test_agreement.py"

MUTANTS = (
    Mutant("metrics/encoding.py", "_divide(total - error, total,", "_divide(total - error, error,", METRICS),
    Mutant("metrics/encoding.py", "target - target.mean(axis=0)) ** 2).sum", "target) ** 2).sum", METRICS),
    Mutant("metrics/encoding.py", "np.maximum(part.var(axis=0) - within, 0)", "part.var(axis=0)", METRICS),
    Mutant("metrics/encoding.py", "counts[:, None]).sum(axis=0)) / freedom", "counts[:, None]).sum(axis=0)) / len(part)", METRICS),
    Mutant("metrics/encoding.py", "float((1 / counts).mean()) if averaged else 1.0", "1.0", METRICS),
    Mutant("metrics/encoding.py", "p[fine] = (1 + (~(drawn > 0)).sum(axis=0))", "p[fine] = ((~(drawn > 0)).sum(axis=0))", METRICS),
    Mutant("metrics/statistics.py", "tail = (1 - level) / 2", "tail = 1 - level", STATISTICS),
    Mutant("metrics/statistics.py", "np.minimum.accumulate(ranked[::-1])[::-1]", "ranked", STATISTICS),
    Mutant("metrics/statistics.py", "ranked = values[order] * len(values)", "ranked = values[order] * len(array)", STATISTICS),
    Mutant("metrics/statistics.py", "upper = (1 + (drawn >= observed)", "upper = (1 + (drawn > observed)", STATISTICS),
    Mutant("metrics/statistics.py", "np.abs(drawn - observed) >=", "np.abs(drawn) >=", STATISTICS),
    Mutant("metrics/statistics.py", "rankdata(values[~labels])) / n_true", "rankdata(values[~labels])) / n_false", STATISTICS),
    Mutant("metrics/retrieval.py", "(scores >= target) & ~right", "(scores > target) & ~right", RETRIEVAL),
    Mutant("metrics/retrieval.py", "np.mean(np.asarray(ranks) < k)", "np.mean(np.asarray(ranks) <= k)", RETRIEVAL),
    Mutant("metrics/retrieval.py", "np.asarray(n_gallery) - 1, n)", "np.asarray(n_gallery), n)", RETRIEVAL),
    Mutant("metrics/similarity.py", "return 1.0 - (unit @ unit.T)", "return (unit @ unit.T)", "tests/metrics/test_similarity.py"),
    Mutant("solvers/ridge.py", "(s / (s**2 + penalties[best]))", "(1 / (s**2 + penalties[best]))", RIDGE),
    Mutant("solvers/ridge.py", "best = losses.argmax(0)", "best = losses.argmin(0)", RIDGE),
    Mutant("solvers/ridge.py", "train_mean = -held.sum(0) / self.n_train", "train_mean = 0 * held.sum(0) / self.n_train", RIDGE),
    Mutant("solvers/ridge.py", "mean - centre @ weights", "mean + centre @ weights", RIDGE),
    Mutant("solvers/ridge.py", "centred = (x - mean) * moves", "centred = x - mean", RIDGE + " tests/test_constant_channels.py"),
    Mutant("solvers/ridge.py", "(held - held.mean(0)).square().sum(0)", "held.square().sum(0)", RIDGE),
    Mutant("solvers/canonical.py", "scale = (r / (1 - r.square())).sqrt()", "scale = r.sqrt()", CANONICAL),
    Mutant("solvers/canonical.py", "leverage = squares @ shrunk + 1 / len(x)", "leverage = squares @ shrunk", CANONICAL),
    Mutant("solvers/canonical.py", "covariance = (1 - shrinkage) * covariance", "covariance = 1 * covariance", CANONICAL),
    Mutant("nn/losses.py", "total = total + _cross_entropy(", "total = _cross_entropy(", NN),
    Mutant("nn/losses.py", "masked_fill(same & ~own, -torch.inf)", "masked_fill(own & ~own, -torch.inf)", NN),
    Mutant("nn/losses.py", "total = total + weight * loss", "total = total + loss", NN),
    Mutant("models/volume/split.py", "image[positions(train_ids, images.ids, \"image features\")].mean(0)", "image.mean(0)", ALIGN),
    Mutant("models/volume/split.py", "weights = weights / weights.sum(1, keepdim=True)", "weights = weights * 1", ALIGN),
    Mutant("models/volume/training.py", "    module.load_state_dict(run.best)\n", "", ALIGN),
    Mutant("models/volume/training.py", "self.best_loss, self.stale = value, 0", "self.stale = 0", ALIGN),
    Mutant("subjects.py", "permutation(n_images)[:keep]", "permutation(n_images)[keep:]", "tests/align tests/encode/test_encode.py"),
    Mutant("models/encoding/tables.py", "np.isin(stimulus, held_back(names, seed)) & (part == \"train\")", "(part == \"none\")", ENCODE),
    Mutant("models/encoding/tables.py", "fixed = _never_changes(responses.data[part == \"train\"])", "fixed = _never_changes(responses.data)", ENCODE),
    Mutant("models/encoding/tables.py", "test = replace(self.test, y=(self.test.y - mean) / spread)", "test = replace(self.test, y=(self.test.y - mean))", ENCODE),
    Mutant("models/encoding/ridge.py", "groups=None if images == len(chosen) else chosen", "groups=None", ENCODE),
    Mutant("models/encoding/ridge.py", "wins = scores[:, number] > best", "wins = scores[:, number] < best", ENCODE),
    Mutant("types/responses.py", "fit = np.ones(len(self), bool) if fit_on is None else", "fit = np.ones(len(self), bool) if fit_on else", TYPES),
    Mutant("types/responses.py", "block.mean(axis=0)) / block.std(axis=0)", "block.mean(axis=0)) / block.var(axis=0)", TYPES),
    Mutant("attribution/bottleneck.py", "std = (m2 / (n - 1)).sqrt()", "std = (m2 / n).sqrt()", BOTTLENECK),
    Mutant("attribution/bottleneck.py", "+ gap**2 * (n * size / (n + size))", "", BOTTLENECK),
    Mutant("attribution/bottleneck.py", "divergence(alpha, r2).sum(-1) / math.log(2)", "divergence(alpha, r2).sum(-1)", BOTTLENECK),
    Mutant("attribution/bottleneck.py", "keep**2 * r2 + noise**2 - 1", "keep * r2 + noise**2 - 1", BOTTLENECK),
    Mutant("metrics/statistics.py", "np.sqrt((n - 1) / n * ((without", "np.sqrt(1 / n * ((without", AGREEMENT),
    Mutant("metrics/timecourse.py", "if value >= chosen[-1][1] / 2", "if value >= chosen[-1][1]", "tests/metrics/test_timecourse.py"),
    Mutant("metrics/timecourse.py", "weights, centre - mean @ weights", "weights, centre + mean @ weights", "tests/metrics/test_timecourse.py"),
    Mutant("signals/mvnn.py", "(vectors / np.sqrt(np.maximum(", "(vectors * np.sqrt(np.maximum(", SIGNALS),
    Mutant("signals/mvnn.py", "base = inside[fit[inside]]", "base = inside", SIGNALS),
    Mutant("solvers/kernel_ridge.py", "(block - dual / inverse[:, None])", "(block - dual)", "tests/nn/test_decoders.py"),
    Mutant("solvers/kernel_ridge.py", "error = pc - yc @ forward", "error = pc", "tests/nn/test_decoders.py"),
    Mutant("solvers/kernel_ridge.py", "shift = pm.double() - ym.double() @ forward", "shift = pm.double()", "tests/nn/test_decoders.py"),
    Mutant("models/sensors/checkpoint.py", "            getattr(self.decoder, name).load_state_dict(state)\n", "            pass\n", "tests/test_sensor_resume.py"),
)  # fmt: skip


def source_hash(mutant: Mutant) -> str:
    """Of the file that a mutant is put into, as it is today."""
    return hashlib.sha256((ROOT / ROOM / mutant.file).read_bytes()).hexdigest()[:16]


def tried(mutant: Mutant, scratch: Path) -> dict[str, Any]:
    """What became of one: "caught" (and by which test), "survived", or "wrong" where the old text does not stand once."""
    path = scratch / ROOM / mutant.file
    whole = path.read_text(encoding="utf-8")
    if whole.count(mutant.old) != 1 or mutant.old == mutant.new:
        return {"outcome": "wrong", "by": f"its text stands {whole.count(mutant.old)} times", "seconds": 0.0}
    began = time.monotonic()
    path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    try:
        code, failed = _suite(mutant.tests.split(), scratch, "-x")
    finally:
        path.write_text(whole, encoding="utf-8")
    by = failed[0] if failed else ""
    if code != 0 and not failed:
        by = "no end within the limit" if code is None else "the tests cannot be collected"
    outcome = "survived" if code == 0 else "wrong" if code in (4, 5) else "caught"  # no such test, or none collected
    return {"outcome": outcome, "by": by, "seconds": round(time.monotonic() - began, 1), "confirmed": not failed}


def confirm(rows: list[dict[str, Any]], scratch: Path) -> None:
    """The tests that caught something, once more on the source as it is: where one fails there too, it caught nothing."""
    due = sorted({row["by"] for row in rows if not row.get("confirmed", True)})
    code, failed = _suite(due, scratch) if due else (0, [])
    for row in rows:
        if not row.get("confirmed", True) and code in (0, 1):
            row |= {"confirmed": True} | ({"outcome": "wrong"} if row["by"] in failed else {})


def _suite(tests: list[str], scratch: Path, *more: str) -> tuple[int | None, list[str]]:
    """Exit code of these tests on the scratch copy (None: they did not end), and those that failed."""
    where = os.pathsep.join(filter(None, (str(scratch / "src"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *more, *tests]
    try:
        done = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": where}, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        return None, []
    return done.returncode, re.findall(r"^(?:FAILED|ERROR) (\S+::.+?)(?: - .*)?$", done.stdout, re.MULTILINE)


def table(rows: list[dict[str, Any]]) -> str:
    """Share caught, and of each file its mutants, those caught and the tests that caught them, as Markdown."""
    lines = ["| file | mistakes | caught | by |", "|---|---|---|---|"]
    for file in dict.fromkeys(row["file"] for row in rows):
        own = [row for row in rows if row["file"] == file]
        by = sorted({f"`{row['by'].split('::')[0].removeprefix('tests/')}`" for row in own if row["outcome"] == "caught"})
        lines.append(f"| `{file}` | {len(own)} | {sum(row['outcome'] == 'caught' for row in own)} | {', '.join(by)} |")
    caught = sum(row["outcome"] == "caught" for row in rows)
    dates = sorted({row["date"] for row in rows})
    span = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    left = [f"- `{row['file']}`: `{row['old'].strip()}` became `{row['new']}`" for row in rows if row["outcome"] != "caught"]
    said = f"{caught} of {len(rows)} mistakes are caught ({100 * caught / len(rows):.0f} %; {span})"
    said += "." if len(rows) == len(MUTANTS) else f"; {len(MUTANTS) - len(rows)} others are not tried yet."
    return "\n".join([said, "", *lines, *(["", "Not caught:", "", *left] if left else [])])


def main() -> int:
    """Prints a line a mutant and the share caught; 0 where all of the list were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a word in the file's path")
    parser.add_argument("--first", type=int, default=len(MUTANTS), help="so many")
    parser.add_argument("--again", action="store_true", help="those that were caught before, too")
    parser.add_argument("--list", action="store_true", help="list what would be tried and stop")
    parser.add_argument("--page", action="store_true", help="write the page and try nothing")
    asked = parser.parse_args()
    known = {(row["file"], row["old"], row["new"]): row for row in (store.read_json(KEPT) if KEPT.exists() else [])}
    done = {key for key, row in known.items() if row["outcome"] == "caught" and not asked.again}
    due = [one for one in MUTANTS if one.key not in done or known[one.key]["source"] != source_hash(one)]
    chosen = [one for one in due if asked.only in one.file][: 0 if asked.page else asked.first]
    if asked.list:
        print("\n".join(f"{one.file}: {one.old.strip()!r} -> {one.new!r}" for one in chosen))
        return 0
    rows = list(known.values())
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        scratch = Path(place)
        if chosen or not all(row.get("confirmed", True) for row in rows):
            shutil.copytree(ROOT / ROOM, scratch / ROOM, ignore=shutil.ignore_patterns("__pycache__"))
            compileall.compile_dir(scratch / ROOM, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.CHECKED_HASH)
        for mutant in chosen:
            row = dict(zip(("file", "old", "new"), mutant.key, strict=True)) | tried(mutant, scratch)
            known[mutant.key] = row | {"source": source_hash(mutant), "date": datetime.date.today().isoformat()}
            store.save_json(KEPT, [known[one.key] for one in MUTANTS if one.key in known])
            print(
                f"{row['outcome']:9s} {row['seconds']:6.0f} s  {mutant.file}: {mutant.old.strip()!r} -> {mutant.new!r}; {row['by']}",
                flush=True,
            )
        rows = [known[one.key] for one in MUTANTS if one.key in known]
        confirm(rows, scratch)
    if rows:
        store.save_json(KEPT, rows)
        write_table("mutants", table(rows))
    caught = sum(row["outcome"] == "caught" for row in rows)
    print(f"{caught} of {len(rows)} mistakes caught, {len(MUTANTS) - len(rows)} not tried yet")
    return 0 if caught == len(MUTANTS) else 1


if __name__ == "__main__":
    sys.exit(main())
