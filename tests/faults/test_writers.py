"""Writers against each other and against a kill: one waits or fails with one line, and never is a folder damaged."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from brainlens import miniatures, store
from brainlens.backbones.fine_tuning import fine_tune
from brainlens.store import arrays
from brainlens.store.archive import open_archive
from brainlens.store.files import sync_folder
from brainlens.store.locks import appearing
from brainlens.types import DataError, Result, Stimuli

TIMES = int(os.environ.get("BRAINLENS_RACES", "2"))  # 100 by hand
KINDS = ("result", "checkpoint", "model", "features", "array", "archive", "imported", "hub", "log", "text")
REFUSED = ("being written by", "exists and is not empty")  # what the second of two is told
WRITE = """
import sys, time
from pathlib import Path
import numpy as np
import torch
from brainlens import store
from brainlens.store.archive import open_archive, save_archive, save_hub_folder
from brainlens.types import DataError, Features, Result
root, me, times, kinds = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
number = float(me)
arrays = {f"a{i}": np.full(2000, number) for i in range(6)}
x = np.full((50, 40), number, np.float32)
own = root / f"own{me}" / "run"  # a whole run, to be packed and sent on
store.save_result(Result("encode", {"m": number}, arrays), own)
store.save_model(own / "model", model="M", version=1, parameters={"n": number}, state={"x": torch.full((2000,), number)})
packed = save_archive(own, root / f"own{me}.zip")

def write(what, folder):
    if what == "result":
        store.save_result(Result("encode", {"m": number}, arrays), folder)
    elif what == "checkpoint":
        store.save_checkpoint(folder, {"number": number, "x": torch.full((2000,), number)})
    elif what == "model":
        store.save_model(folder, model="M", version=1, parameters={"n": number}, state={"x": torch.full((2000,), number)})
    elif what == "features":
        store.save_features(Features({"a": x, "b": x}, np.array([str(i) for i in range(50)]), "m"), folder)
    elif what == "archive":
        save_archive(own, folder / "run.zip")
    elif what == "imported":
        open_archive(packed, folder)
    elif what == "hub":
        save_hub_folder(own, folder / "hub")
    elif what == "log":
        store.append_log(folder, {"number": number, "long": "x" * 3000})
    elif what == "text":
        store.save_json(folder / "a.json", {"number": [number] * 3000})
    else:
        with store.ArrayWriter(folder, "x", (200, 100), "f4", key=str(number)) as writer:
            for start in range(writer.done, 200, 20):
                writer.write(start, np.full((20, 100), number, "f4"))

for trial in range(times):
    for what in kinds:
        (root / f"{me}-{trial}-{what}").touch()
        while not (root / f"{3 - me}-{trial}-{what}").exists():  # both begin together
            time.sleep(0.001)
        for _ in range(2):
            try:
                write(what, root / f"{what}{trial}")
            except DataError as error:
                print(error)
"""


def numbers_of(what: str, folder: Path) -> set[float]:
    """Every number that a folder holds, read as users read it; one where it is of one writer."""
    if what == "result":
        found = store.load_result(folder)
        return {found.metrics["m"], *(float(x) for array in found.arrays.values() for x in np.unique(array))}
    if what == "checkpoint":
        state = store.load_checkpoint(folder)
        assert state is not None
        return {state["number"], *np.unique(state["x"].numpy()).tolist()}
    if what == "model":
        model = store.load_model(folder)
        return {model.parameters["n"], *np.unique(model.state["x"].numpy()).tolist()}
    if what == "features":
        return {float(x) for array in store.load_features(folder).data.values() for x in np.unique(array)}
    if what == "archive":
        return numbers_of("result", open_archive(folder / "run.zip", folder / "out"))
    if what == "imported":
        return numbers_of("result", folder / "run") | numbers_of("model", folder / "run" / "model")
    if what == "hub":
        card = re.findall(r"^[|] m [|] (\d)", (folder / "hub" / "README.md").read_text(), re.MULTILINE)
        return numbers_of("model", folder / "hub") | set(map(float, card))
    if what == "log":
        found = store.read_log(folder)
        assert sorted(record["number"] for record in found) == [1, 1, 2, 2]  # of a log nothing is lost
        return {1.0} if all(len(record["long"]) == 3000 for record in found) else set()
    if what == "text":
        return set(store.read_json(folder / "a.json")["number"])
    return set(np.unique(store.open_array(folder, "x")).tolist())


def test_two_writers_of_one_run_leave_one_whole_run(tmp_path: Path) -> None:
    asked = [[sys.executable, "-c", WRITE, str(tmp_path), number, str(TIMES), ",".join(KINDS)] for number in ("1", "2")]
    running = [subprocess.Popen(one, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for one in asked]
    for process in running:
        out, err = process.communicate(timeout=60 + 30 * TIMES)
        assert process.returncode == 0, err
        assert all(any(word in line for word in REFUSED) for line in out.splitlines()), out
    for trial in range(TIMES):
        for what in KINDS:
            assert numbers_of(what, tmp_path / f"{what}{trial}") in ({1.0}, {2.0}), (what, trial)
    assert [path.name for path in tmp_path.rglob(".*")] == []  # nor anything else left


def test_an_array_and_its_entry_are_of_one_writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another writer that begins once the first has given its file the name waits with its own."""
    others: list[threading.Thread] = []

    def meanwhile(folder: Path) -> None:
        if not others:
            others.append(threading.Thread(target=store.save_array, args=(tmp_path, "x", np.full(20, 2.0))))
            others[0].start()
            others[0].join(timeout=1)
        sync_folder(folder)

    monkeypatch.setattr(arrays, "sync_folder", meanwhile)
    store.save_array(tmp_path, "x", np.full(20, 1.0))
    others[0].join(timeout=60)
    np.testing.assert_array_equal(store.open_array(tmp_path, "x"), np.full(20, 2.0))


KILLED = """
import os, sys
import numpy as np
from brainlens import store
from brainlens.store import files
from brainlens.types import Result
folder, at = sys.argv[1], int(sys.argv[2])
def counted(function):
    def call(*arguments):
        global at
        at -= 1
        if at < 0:
            os.kill(os.getpid(), 9)
        return function(*arguments)
    return call
os.replace, os.fsync = counted(os.replace), counted(os.fsync)
store.save_result(Result("encode", {"m": 2.0}, {"a": np.full(10, 2.0), "b": np.full(10, 2.0)}), folder)
"""


@pytest.mark.parametrize("at", [0, 3, 9, 14, 17])
def test_what_a_killed_writer_leaves_goes_with_the_next(tmp_path: Path, at: int) -> None:
    run = tmp_path / "run"
    store.save_result(Result("encode", {"m": 1.0}, {"a": np.full(10, 1.0), "b": np.full(10, 1.0)}), run)
    ended = subprocess.run([sys.executable, "-c", KILLED, str(run), str(at)], capture_output=True, timeout=200)
    assert ended.returncode in (-signal.SIGKILL, 0)
    try:
        assert numbers_of("result", run) in ({1.0}, {2.0})
    except DataError:
        assert not (run / "result.json").exists()  # an unfinished run, never half of two
    store.save_result(Result("encode", {"m": 3.0}, {"a": np.full(10, 3.0), "b": np.full(10, 3.0)}), run)
    assert numbers_of("result", run) == {3.0}
    assert sorted(path.name for path in run.iterdir()) == ["a.npy", "b.npy", "manifest.json", "result.json"]


def test_a_part_of_a_living_writer_stays(tmp_path: Path) -> None:
    with store.replacing(tmp_path / "a.txt") as handle:
        handle.write(b"x")
        with store.lock(tmp_path):  # cleans
            pass
        dead = tmp_path / ".a.txt.1-1.part"
        dead.write_bytes(b"half")
        with store.lock(tmp_path):
            assert not dead.exists()
    assert (tmp_path / "a.txt").read_bytes() == b"x"
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_cannot_be_written_is_one_line() -> None:
    with pytest.raises(DataError, match=r"/proc/x: nothing can be written there"):
        store.check_writable("/proc/x")


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    code = "import os, sys; from brainlens.store.locks import appearing\n"
    code += "with appearing(sys.argv[1]) as stage:\n    (stage / 'a').write_text('x')\n    os.kill(os.getpid(), 9)"
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path / "out")], capture_output=True, timeout=200)
    assert ended.returncode == -signal.SIGKILL
    assert not (tmp_path / "out").exists()
    with appearing(tmp_path / "out") as stage:
        assert [path.name for path in stage.parent.iterdir() if path.is_dir()] == [stage.name]  # the killed one's is gone
        (stage / "b").write_text("y")
        assert not (tmp_path / "out").exists()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b"]
    with pytest.raises(DataError, match="out exists and is not empty"), appearing(tmp_path / "out"):
        pass
    late = tmp_path / "late" / "other"
    with pytest.raises(DataError, match="late exists and is not empty"), appearing(late.parent):
        store.save_text(late, "z")
    with pytest.raises(ValueError, match="no"), appearing(tmp_path / "none"):
        raise ValueError("no")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["late", "out"]


def test_one_training_of_a_network_a_folder(tmp_path: Path) -> None:
    hold = "import sys, time; from brainlens import store\n"
    hold += "with store.lock(sys.argv[1]):\n    print('held', flush=True); time.sleep(99)"
    stimuli, names = Stimuli(np.array(["a", "b"]), [None, None]), np.array(["x", "y"])
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "out")], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(DataError, match=f"out is being written by process {holder.pid}"):
            fine_tune(miniatures.folder("clip"), stimuli, names, tmp_path / "out", tell=lambda *_: None)
        holder.kill()
