"""Mistakes put into the numerical core, one at a time, in a scratch copy: does the suite notice?

    python tools/mutants.py                      all of them
    python tools/mutants.py --only metrics       those of files whose path holds the word
    python tools/mutants.py --first 10 --list

A mutant that the tests of its room do not catch survives: either the tests are too weak there, or the line does nothing.
"""

# ruff: noqa: E501 (a mutant a line)
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROOM = "src/brainlens"
TIMEOUT = 1200  # s a mutant; one that hangs is caught


@dataclass(frozen=True)
class Mutant:
    """Old text, which stands once in a file, the text in its place, and the tests that should notice."""

    file: str
    old: str
    new: str
    tests: str


METRICS, RETRIEVAL, STATISTICS = (
    "tests/metrics/test_encoding.py",
    "tests/metrics/test_retrieval.py",
    "tests/metrics/test_statistics.py",
)
ALIGN, NN = "tests/align", "tests/nn/test_losses.py"
RIDGE, CANONICAL = "tests/nn/test_ridge.py tests/models/test_ridge_models.py", "tests/nn/test_canonical.py"
ENCODE, BOTTLENECK = (
    "tests/encode/test_encode.py tests/models/test_encoding_models.py tests/faults/test_data.py",
    "tests/attribution",
)
TYPES, SIGNALS = "tests/types tests/faults/test_data.py", "tests/signals"

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
    Mutant("metrics/statistics.py", "placed_false = 1 - (ranks", "placed_false = (ranks", STATISTICS),
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
    Mutant("models/volume/training.py", "self.best_loss, self.stale = record[\"validation_loss\"], 0", "self.stale = 0", ALIGN),
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
)  # fmt: skip


def tried(mutant: Mutant, scratch: Path) -> tuple[str, float]:
    """("caught", "survived", or "wrong" where the old text does not stand once), and seconds."""
    path = scratch / "src" / "brainlens" / mutant.file
    whole = path.read_text(encoding="utf-8")
    if whole.count(mutant.old) != 1 or mutant.old == mutant.new:
        return f"wrong: its text stands {whole.count(mutant.old)} times", 0.0
    path.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    began = time.monotonic()
    where = os.pathsep.join(filter(None, (str(scratch / "src"), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *mutant.tests.split()]
    try:
        code = subprocess.run(
            command, cwd=ROOT, env={**os.environ, "PYTHONPATH": where}, capture_output=True, timeout=TIMEOUT
        ).returncode
    except subprocess.TimeoutExpired:
        code = 1
    finally:
        path.write_text(whole, encoding="utf-8")
    return ("survived" if code == 0 else "caught"), time.monotonic() - began


def main() -> int:
    """Prints a line a mutant and the share caught; 0 where all were."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="a word in the file's path")
    parser.add_argument("--first", type=int, default=len(MUTANTS), help="so many")
    parser.add_argument("--start", type=int, default=0, help="from this one on")
    parser.add_argument("--list", action="store_true", help="list them and stop")
    asked = parser.parse_args()
    chosen = [one for one in MUTANTS if asked.only in one.file][asked.start :][: asked.first]
    found: dict[str, int] = {}
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        scratch = Path(place)
        if not asked.list:
            shutil.copytree(ROOT / ROOM, scratch / ROOM)
        for number, mutant in enumerate(chosen):
            what, seconds = ("listed", 0.0) if asked.list else tried(mutant, scratch)
            found[what.split(":")[0]] = found.get(what.split(":")[0], 0) + 1
            print(f"{number:3d} {what:9s} {seconds:6.0f} s  {mutant.file}: {mutant.old.strip()!r} -> {mutant.new!r}", flush=True)
    caught, all_ = found.get("caught", 0), found.get("caught", 0) + found.get("survived", 0)
    print(f"{caught} of {all_} mutants caught" + (f" ({100 * caught / all_:.0f} %)" if all_ else "") + f"; {found}")
    return 0 if found.keys() <= {"caught", "listed"} else 1


if __name__ == "__main__":
    sys.exit(main())
