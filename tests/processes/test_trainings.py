"""Two processes train as one does with the joint batch, and a killed training goes on in another number of processes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

from brainlens import store
from brainlens.models.encoding.shards import Shard
from brainlens.models.processes import own_rows
from brainlens.types import DataError

HERE = Path(__file__).resolve().parent
READERS = ("searched", "paper", "free", "gnet", "class")


@pytest.fixture(scope="module")
def trainings() -> Iterator[ModuleType]:
    """The trainings, where other processes can import them too."""
    sys.path.insert(0, str(HERE))
    yield importlib.import_module("trainings")
    sys.path.remove(str(HERE))


@pytest.fixture(scope="module")
def folder(trainings: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("processes")
    trainings.beside("models/test_neuro_adapter.py").build_pipeline(place / "tiny")
    return place


class Stopped(Exception):
    pass


@pytest.fixture(scope="module")
def together(trainings: ModuleType, folder: Path) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What each of two processes found."""

    def stop(step: int, record: dict[str, float]) -> None:
        if step == 8:
            raise Stopped

    with pytest.raises(Stopped):
        trainings.encode(folder / "one", stop)
    trainings.together("every", 2, folder)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def same(found: dict[str, torch.Tensor], truth: dict[str, torch.Tensor], *, searched: bool = False) -> None:
    """To 1e-5, number by number.

    searched: after the 300 steps of AdamW that find the selectors, in which a weight whose gradient is all rounding goes as far
    as one with a gradient. There what the selectors say stands for their weights, and the rest is compared by its norm. Where
    a unit's own reading is the common one, rounding decides how both share its weight, and what they predict stands for them.
    """
    assert set(found) == set(truth)
    for name, value in truth.items():
        a, b = found[name], value
        if searched:
            split = "network/common_readout" in truth and name in ("network/readout", "network/common_readout", "network/bias")
            if not name.startswith("network/selectors.") and not split:
                a, b = a.double(), b.double()
                assert (a - b).nan_to_num().norm() <= 1e-5 * b.nan_to_num().norm(), name
            continue
        if name.endswith("qkv.bias"):  # a key bias cancels in the softmax: AdamW walks on its rounding noise
            a, b = a[[*range(16), *range(32, 48)]], b[[*range(16), *range(32, 48)]]
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("name", [*READERS, "align", "reconstruct", "begun by one"])
def test_two_processes_end_as_one_does(name: str, trainings: ModuleType, together: list[Any], folder: Path) -> None:
    alone = {"align": trainings.align, "reconstruct": lambda: trainings.reconstruct(pipeline=folder / "tiny")}
    truth = alone.get(name, lambda: trainings.encode(which=name if name in READERS else "searched"))()
    for found in together:
        same(found[name], truth, searched=name in ("searched", "free", "begun by one"))
    assert all(torch.equal(a, b) or a.isnan().any() for a, b in zip(*(one[name].values() for one in together), strict=True))


@pytest.mark.parametrize("verb", ["encode", "align", "reconstruct"])
def test_one_process_goes_on_where_two_were_killed(verb: str, trainings: ModuleType, folder: Path) -> None:
    with pytest.raises(Exception, match="SIGKILL"):
        trainings.together(f"kill {verb}", 2, folder)
    assert store.load_checkpoint(folder / verb) is not None
    more = {"pipeline": folder / "tiny"} if verb == "reconstruct" else {}
    work, calls = getattr(trainings, verb), []
    found = work(folder / verb, lambda *told: calls.append(told), **more)
    assert 0 < len(calls) < len(found["log"]) + 3  # it went on, and did not begin anew
    same(found, work(**more), searched=verb == "encode")


def test_shards_are_all_units_once() -> None:
    assert Shard.of(7).rows == slice(0, 7)
    for units, world in ((7, 3), (8, 2), (5, 5)):
        sizes = tuple(units // world + (r < units % world) for r in range(world))
        shards = [Shard(rank, sizes) for rank in range(world)]
        assert [i for one in shards for i in range(units)[one.rows]] == list(range(units))
        assert sum(one.share for one in shards) == pytest.approx(1)


@pytest.mark.parametrize("call", [lambda: own_rows(1), lambda: Shard.of(1)], ids=["batch", "units"])
def test_fewer_rows_than_processes_are_one_line(call: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("brainlens.models.processes", "brainlens.models.encoding.shards"):
        monkeypatch.setattr(f"{module}.processes", lambda: (0, 2))
    with pytest.raises(DataError, match="2 processes"):
        call()


def torchrun(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "brainlens"]
    return subprocess.run(
        [*command, *arguments], capture_output=True, text=True, cwd=folder, timeout=300, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def test_the_command_line_stores_one_run_whatever_the_number_of_processes(tmp_path: Path) -> None:
    """Half the numbers are held to 5e-4 and all to .05; units in another order differ by far more, which is asked below.

    Blocks of other widths and another number of threads round otherwise, and where a unit's error is flat along a
    direction its field follows that rounding. Between one process and two the median difference was at most 2e-5, with
    AVX-512 and AVX2 and one thread and two, and the largest .0072 (AVX-512, one thread; the place of a field in an image of
    -1 to 1); between AVX-512 and AVX2 6e-5 and .011.
    """
    words = ["encode", "--train", "40", "--test", "10", "--roi", "FFA", "--steps", "15", "--runs"]
    done = torchrun(*words, "two", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("run: two/encode-") == 1
    alone = [sys.executable, "-m", "brainlens", *words, "one"]
    subprocess.run(alone, capture_output=True, cwd=tmp_path, timeout=300, check=True)
    one, two = (next((tmp_path / name).glob("encode-*")) for name in ("one", "two"))
    assert one.name == two.name
    assert not any((tmp_path / "two" / "unfinished").iterdir())
    for name in ("layer_weights", "space", "scale"):
        a, b = (store.open_array(folder, name) for folder in (one, two))
        apart = np.abs(np.asarray(a, np.float64) - b)
        assert a.shape == b.shape
        assert np.median(apart) < 5e-4
        assert apart.max() < 0.05
        other_order = np.abs(np.roll(a, 1, axis=0) - b)
        assert np.median(other_order) > 20 * np.median(apart)
        assert other_order.max() > 0.05


def test_a_command_that_processes_cannot_share_says_so(tmp_path: Path) -> None:
    done = torchrun("datasets", folder=tmp_path)
    assert done.returncode
    assert "error: datasets runs in one process; torchrun is for align, encode, reconstruct" in done.stderr
    assert done.stderr.count("error: datasets") == 1
