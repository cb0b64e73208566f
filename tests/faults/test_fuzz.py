"""Every reader against mutated files: one line or values, never a traceback, and never other values where files carry hashes.

`make fuzz` tries 2,000 mutations a reader and keeps what it found (tools/fuzz.py); the suite tries a few, with a fixed seed, and
BRAINLENS_FUZZ=200, as .ci/run has it, so many with every reader.
"""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest

from brainlens.types import DataError

COUNT, SEED = int(os.environ.get("BRAINLENS_FUZZ", "25")), int(os.environ.get("BRAINLENS_SEED", "0"))
SLOW = ("nsd", "epochs", "epochs_csv", "epochs_saved", "epochs_array", "brainvision", "algonauts2023", "bids", "haxby2001")
SLOW += ("openfmri", "labels", "clip", "diffusion", "things_meg", "things_fmri", "bold5000", "god", "deeprecon")
FEW = 8 if "BRAINLENS_FUZZ" not in os.environ else COUNT  # of readers that take long, in the suite alone
REGRESSIONS = {  # mutations (seed 0) that once were no line: inflate errors, unhashable ids, an atlas past the door, endless tags
    "archive": (75, 122, 128, 171),
    "tables": (124,),
    "manifest": (1379,),
    "atlas": (4, 8),
    "epochs": (108,),
    "epochs_saved": (96,),
}


def test_no_mutation_of_a_file_is_a_traceback(reader: str, tmp_path: Path, readers: ModuleType, fuzzing: ModuleType) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    readers.TABLE[reader][0](folder)
    count = FEW if reader in SLOW else COUNT
    numbers = sorted({*range(count), *(REGRESSIONS.get(reader, ()) if SEED == 0 else ())})
    found = fuzzing.fuzz(folder, readers.read_of(reader), numbers=numbers, seed=SEED, hashed=reader in readers.HASHED)
    assert not found.wrong, "\n".join(found.said()[:20])
    assert found.counts["typed"] > 0 or reader in ("log", "request", "sensor_run")  # else no mutation was felt


def read_badly(fault: str, folder: Path) -> np.ndarray:
    """A reader that has a fault, where the file is not what it was."""
    content = (folder / "a.txt").read_bytes()
    if content != b"12345678":
        if fault == "untyped":
            raise KeyError(content)
        if fault == "two lines":
            raise DataError("one\ntwo")
        if fault == "large":
            return np.ones(80_000_000)[:1]
    return np.frombuffer(content, np.uint8).astype(float)


FAULTS = [("untyped", "untyped"), ("two lines", "untyped"), ("large", "large"), ("", "different")]


@pytest.mark.parametrize(("fault", "kind"), FAULTS)
def test_the_fuzz_sees_each_fault(fault: str, kind: str, tmp_path: Path, fuzzing: ModuleType) -> None:
    (tmp_path / "a.txt").write_bytes(b"12345678")
    taken = np.ones(100_000_000)  # what was taken before a reading does not hide what the reading takes
    del taken
    found = fuzzing.fuzz(tmp_path, lambda f: read_badly(fault, f), numbers=range(6), seed=0, hashed=True)
    assert {number: one for number, (one, _) in found.wrong.items()} == dict.fromkeys(found.wrong, kind)
    assert len(found.wrong) == 6 - found.counts["same"] > 0
    assert (tmp_path / "a.txt").read_bytes() == b"12345678"


def test_a_fuzz_that_was_cut_goes_on_and_mended_faults_are_faults_no_more(
    tmp_path: Path, fuzzing: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = Path(__file__).parents[2] / "tools"
    monkeypatch.syspath_prepend(str(tools))  # as `python tools/fuzz.py` has it: its neighbours are importable
    spec = importlib.util.spec_from_file_location("fuzz_tool", tools / "fuzz.py")
    assert spec is not None
    assert spec.loader is not None
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    tool.PIECE = 20
    now = {"fault": "untyped"}
    readers = SimpleNamespace(
        TABLE={"a": (lambda folder: (folder / "a.txt").write_bytes(b"12345678"), None)},
        read_of=lambda _: lambda folder: read_badly(now["fault"], folder),
    )
    row, saved = tool.fresh("a", 0, False), []
    tool.tried(row, 30, readers, fuzzing, lambda: saved.append(row["mutations"]))
    assert saved == [20, 30]
    assert row["untyped"] == len(row["wrong"]) > 0
    assert f"| a |  | 30 | 0 | {row['same']} | 0 | {len(row['wrong'])} |" in tool.table([row], ["a", "b"])
    said = tool.table([row, dict(row, reader="c", mutations=2000)], ["a", "b", "c"]).splitlines()[0]
    assert said == "`make fuzz` has tried 1 of 3 readers with 2,000 mutations, 1 with 30, and 1 by the suite and CI alone (b)."
    before, now["fault"] = dict(row), ""
    tool.tried(row, 50, readers, fuzzing, lambda: saved.append(row["mutations"]))
    assert saved[2:] == [30, 50]  # the faults again, then the rest
    assert row["untyped"] == 0 == len(row["wrong"])
    assert row["different"] >= before["untyped"]
    assert sum(row[kind] for kind in tool.KINDS) == 50
