"""Engines: what goes in comes out on each of them, in any order; what fails is one outcome, what is missing one line."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

from brainlens.engines import ENGINES, cluster, engine
from brainlens.types import DataError

HERE = Path(__file__).resolve().parent


@pytest.fixture(scope="module")
def pieces_module():
    """A module that worker processes can import too."""
    sys.path.insert(0, str(HERE))
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *([before] if before else [])])
    yield importlib.import_module("engine_pieces")
    sys.path.remove(str(HERE))
    os.environ.pop("PYTHONPATH") if before is None else os.environ.update(PYTHONPATH=before)


def outcomes(name: str, work, pieces, workers: int, **options: str) -> dict[int, dict]:
    return dict(engine(name)(work, pieces, workers=workers, options=options))


def test_the_engines_that_there_are():
    assert list(ENGINES) == ["local", "dask", "slurm"]
    with pytest.raises(DataError, match="there are local, dask, slurm"):
        engine("ray")


def test_local_is_a_loop(pieces_module):
    found = outcomes("local", pieces_module.square, [1, 2, 3], 1)
    assert {i: out["value"] for i, out in found.items()} == {0: 1, 1: 4, 2: 9}


@pytest.mark.parametrize(
    "workers, options, match",
    [(2, {}, "one process"), (1, {"threads": "2"}, "takes no options")],
)
def test_local_refuses_what_it_cannot_do(pieces_module, workers, options, match):
    with pytest.raises(DataError, match=match):
        outcomes("local", pieces_module.square, [1], workers, **options)


def test_dask_loses_a_worker_and_no_piece(pieces_module, tmp_path):
    """Piece 2 kills its process the first time: it is done again, and so is the rest; piece 1 raises and is one outcome."""
    jobs = [{"n": n, "folder": str(tmp_path)} for n in range(6)]
    found = outcomes("dask", pieces_module.dangerous, jobs, 2)
    assert (tmp_path / "died").exists()
    assert {i: out.get("value") for i, out in found.items() if i != 1} == {0: 0, 2: 4, 3: 9, 4: 16, 5: 25}
    assert found[1] == {"error": "ValueError: piece 1 is wrong"}


def test_a_scheduler_that_goes_away_is_one_line_and_finished_pieces_are_kept(pieces_module, tmp_path, capfd):
    place = tmp_path / "scheduler.json"
    common = ["--scheduler-file", str(place), "--no-dashboard"]
    first = [sys.executable, "-m", "distributed.cli.dask_scheduler", "--host", "127.0.0.1", "--port", "0", *common]
    second = [sys.executable, "-m", "distributed.cli.dask_worker", "--nworkers", "1", "--nthreads", "1", *common]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with subprocess.Popen(first, **quiet) as scheduler, subprocess.Popen(second, **quiet) as worker:
        try:
            while not place.exists():
                assert scheduler.poll() is None
                time.sleep(0.05)
            options = {"scheduler": json.loads(place.read_text())["address"]}
            ended = engine("dask")(pieces_module.slow, list(range(5)), workers=1, options=options)
            assert next(ended)[1]["value"] in (0, 1, 4, 9, 16)
            scheduler.kill()
            with pytest.raises(DataError, match="cannot be reached or went away; finished pieces are kept"):
                list(ended)
        finally:
            scheduler.kill(), worker.kill()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "options, match",
    [
        ({"scheduler": "tcp://127.0.0.1:9"}, "cannot be reached or went away"),
        ({"scheduler": "tcp://127.0.0.1:9", "threads": "1", "queue": "long"}, "takes no other options"),
        ({"cluster": "moon"}, "there are local, slurm"),
        ({"queue": "long"}, "do not apply on this machine"),
        ({"threads": "none"}, "not a whole number"),
    ],
)
def test_dask_options_that_do_not_apply(pieces_module, options, match, monkeypatch):
    import distributed

    client = distributed.Client
    monkeypatch.setattr(distributed, "Client", lambda address, timeout: client(address, timeout="1s"))
    with pytest.raises(DataError, match=match):
        outcomes("dask", pieces_module.square, [1], 1, **options)


@pytest.mark.parametrize("name, package", [("dask", "distributed"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_names_the_extra(pieces_module, monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(DataError, match=r"pip install 'brainlens\[sweep\]'"):
        outcomes(name, pieces_module.square, [1], 1)


class Asked:
    """In place of a cluster of another machine: keeps what it was asked for, and starts none."""

    def __init__(self, **given: object) -> None:
        self.given, self.workers = given, given.get("n_workers")

    def scale(self, workers: int) -> None:
        self.workers = workers


def extras() -> dict[str, str]:
    whole = tomllib.loads((HERE.parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    return {name: " ".join(packages) for name, packages in whole["project"]["optional-dependencies"].items()}


@pytest.mark.parametrize(
    "kind, module, extra, package",
    [
        ("kubernetes", "dask_kubernetes.operator", "kubernetes", "dask-kubernetes"),
        ("slurm", "dask_jobqueue", "sweep", "dask-jobqueue"),
    ],
)
def test_a_cluster_that_is_not_installed_names_the_extra_that_has_it(pieces_module, monkeypatch, kind, module, extra, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError, match=rf"the package {package}: pip install 'brainlens\[{extra}\]'"):
        outcomes("dask", pieces_module.square, [1], 1, cluster=kind)
    assert f"{package}>=" in extras()[extra]
    assert "distributed>=" in extras()[extra]


def test_kubernetes_is_asked_for_workers_of_one_piece_each(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_kubernetes", ModuleType("dask_kubernetes"))
    operator = ModuleType("dask_kubernetes.operator")
    operator.KubeCluster = Asked
    monkeypatch.setitem(sys.modules, "dask_kubernetes.operator", operator)
    made = cluster._started(None, "kubernetes", 3, 2, {"namespace": "lab"})
    assert made.workers == 3
    assert made.given["namespace"] == "lab"
    assert made.given["env"]["OMP_NUM_THREADS"] == "2"
    assert made.given["worker_command"] == ["dask-worker", "--nthreads", "1"]


def test_a_batch_system_is_asked_for_workers_of_one_piece_each(monkeypatch):
    """The job of dask-jobqueue itself, which is written and not sent: the last `--nthreads` counts."""
    queue = pytest.importorskip("dask_jobqueue")
    monkeypatch.setattr(queue, "SLURMCluster", Asked)
    made = cluster._started(None, "slurm", 4, 2, {"memory": "2GB", "walltime": "01:00:00"})
    assert made.workers == 4
    script = queue.slurm.SLURMJob("tcp://127.0.0.1:1", "w", config_name="slurm", **made.given).job_script()
    assert "#SBATCH --cpus-per-task=2" in script
    assert "export OMP_NUM_THREADS=2" in script
    assert script.split("--nthreads ")[-1].split()[0] == "1"


def test_slurm_without_its_commands_is_one_line(pieces_module, monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="sbatch is not on this machine"):
        outcomes("slurm", pieces_module.square, [1], 1)


def test_jobs_of_submitit_on_this_machine(pieces_module, tmp_path):
    """The path that SLURM takes, with submitit's own local executor; a job that dies is an outcome."""
    jobs = [{"n": 3, "folder": str(tmp_path)}, {"n": 1, "folder": str(tmp_path)}]
    began = time.monotonic()
    found = outcomes(
        "slurm", pieces_module.dangerous, jobs, 2, cluster="local", folder=str(tmp_path / "jobs" / ("long" * 40)), timeout_min="2"
    )
    assert time.monotonic() - began < 120
    assert found[0] == {"value": 9}
    assert "piece 1 is wrong" in found[1]["error"]  # however long the places of the logs are
    assert str(tmp_path / "jobs") in found[1]["error"]
    with pytest.raises(DataError, match="slurm_partitoin"):
        outcomes("slurm", pieces_module.square, [1], 1, cluster="local", folder=str(tmp_path / "jobs"), slurm_partitoin="x")
