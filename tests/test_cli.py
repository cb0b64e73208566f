"""The command line: quick to say what it can do, one line for a mistake, and a run that survives an interruption."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import brainlens

HEAVY = ("torch", "transformers", "nilearn", "mne", "pandas", "scipy", "sklearn", "matplotlib", "diffusers", "h5py")
BARE = "import sys; from brainlens.cli import main; sys.argv[0] = 'brainlens'; main()"


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-c", BARE, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "dumb"}


def run(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), capture_output=True, text=True, env=environment(), cwd=folder, timeout=300, check=False
    )


def test_help_takes_less_than_a_second_of_cpu():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    found = run("--help")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert found.returncode == 0
    for verb in ("demo", "datasets", "features", "encode", "align", "attribute", "report"):
        assert verb in found.stdout
    assert (after.ru_utime - before.ru_utime) + (after.ru_stime - before.ru_stime) < 1.0  # CPU, so that a busy machine is fair


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_nothing_heavy_is_imported_to_say_what_there_is(argument):
    code = f"""
import sys
from brainlens.cli import main
sys.argv = ["brainlens", {argument!r}]
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print("IMPORTED", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), check=True)
    assert found.stdout.splitlines()[-1] == "IMPORTED []"


def test_version_is_that_of_the_package():
    found = run("--version")
    assert (found.returncode, found.stdout, found.stderr) == (0, f"{brainlens.__version__}\n", "")


MISTAKES = [
    (("encode", "--dataset", "nope"), "haxby2001"),
    (("datasets", "nope"), "haxby2001"),
    (("encode", "--dataset", "nsd"), "--data"),
    (("encode", "--dataset", "nsd", "--data", "nowhere"), "nowhere"),
    (("encode", "--method", "magic"), "factortopy"),
    (("align", "--encoder", "magic"), "ridge_whitened"),
    (("align", "--preset", "huge"), "default, small, small_remedied, paper"),
    (("align", "--precision", "float8"), "bfloat16"),
    (("align", "--modality", "sound"), "both, image, text"),
    (("align", "--batch", "1"), "at least 2"),
    (("align", "--one-each", "--subject", "1"), "at least 2 subjects"),
    (("captions",), "--score"),
    (("captions", "--captioner", "nowhere/at all", "--images", "empty"), "no pictures"),
    (("align", "--device", "magic"), "cuda:N"),
    (("align", "--train", "many"), "--train"),
    (("align", "--trian", "9"), "--trian"),
    (("align", "--encoder", "nice", "--dataset", "nsd"), "phantom_eeg"),
    (("align", "--encoder", "nice", "--encoder", "magic"), "eegnet"),
    (("align", "--dataset", "phantom_eeg", "--protocol", "between"), "across"),
    (("align", "--dataset", "phantom_eeg", "--gallery", "concept"), "center_clip.npy"),
    (("align", "--dataset", "phantom_eeg", "--subject", "zero"), "zero"),
    (("align", "--dataset", "phantom_eeg", "--repeats", "81"), "80"),
    (("align", "--dataset", "phantom_eeg", "--epochs", "0"), "at least 1"),
    (("align", "--dataset", "phantom_eeg", "--without", "attention"), "saliency"),
    (("align", "--dataset", "phantom_eeg", "--data", "empty"), "clip_feature_maps_test.npy"),
    (("align", "--dataset", "things_eeg2"), "--data"),
    (("align", "--dataset", "things_eeg2", "--data", "empty"), "sub-01"),
    (("align", "--dataset", "things_meg", "--data", "empty"), "preprocessed_P1-epo.fif"),
    (("align", "--from", "nowhere"), "nowhere"),
    (("embed", "nowhere"), "nowhere"),
    (("attribute", "nowhere"), "nowhere"),
    (("attribute", "empty"), "empty"),
    (("attribute", "empty", "--method", "magic"), "gradcam"),
    (("attribute", "empty", "--trials", "0"), "at least 1"),
    (("attribute",), "run"),
    (("report", "empty"), "empty"),
    (("report", "nowhere"), "nowhere"),
    (("discover",), "discover"),
]


@pytest.mark.parametrize("arguments, names", MISTAKES, ids=[" ".join(a) for a, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_it(tmp_path, monkeypatch, capfd, arguments, names):
    from brainlens.cli import main

    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["brainlens", *arguments])
    with pytest.raises(SystemExit) as end:
        main()
    said = capfd.readouterr()
    assert end.value.code == 2
    assert said.out == ""
    assert said.err.startswith("error: ")
    assert len(said.err.splitlines()) == 1
    assert names in said.err


def test_a_mistake_in_a_process_of_its_own_ends_with_code_2(tmp_path):
    found = run("report", ".", folder=tmp_path)
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert "Traceback" not in found.stderr


def test_a_fault_of_ours_keeps_its_traceback(monkeypatch):
    import brainlens.report
    from brainlens.cli import main

    def broken(*arguments: object, **options: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(brainlens.report, "build", broken)
    monkeypatch.setattr(sys, "argv", ["brainlens", "report", "."])
    with pytest.raises(ZeroDivisionError):
        main()


def test_the_other_commands_are_there_after_a_call(monkeypatch, capfd):
    """Only the asked command's options are made for a call, and a notebook or a test that calls again finds all."""
    from typer.main import get_command

    from brainlens.cli import app, main

    names = set(get_command(app).commands)
    monkeypatch.setattr(sys, "argv", ["brainlens", "report", "nowhere"])
    with pytest.raises(SystemExit):
        main()
    assert set(get_command(app).commands) == names >= {"encode", "report", "sweep", "import"}


def test_a_command_that_calls_others_finds_them_without_being_named_anywhere(monkeypatch, capfd):
    from brainlens.cli import app, main

    monkeypatch.setattr(app, "registered_commands", list(app.registered_commands))

    @app.command("caller")
    def caller() -> None:
        app(["datasets"], standalone_mode=False)

    monkeypatch.setattr(sys, "argv", ["brainlens", "caller"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert "phantom" in capfd.readouterr().out


STOPPED = """
import os, signal, sys
from brainlens import store
from brainlens.cli import main
real = store.save_checkpoint
def then_stop(*arguments):
    real(*arguments)
    os.kill(os.getpid(), signal.SIGINT)  # Ctrl-C, at a moment that does not depend on how fast the machine is
store.save_checkpoint = then_stop
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite that was started in the background inherits "ignored"
sys.argv[0] = "brainlens"
main()
"""


def test_an_interrupted_align_goes_on_and_finishes(tmp_path):
    arguments = ("align", "--train", "120", "--test", "30", "--encoder", "mlp", "--steps", "60")
    first = subprocess.run(
        [sys.executable, "-c", STOPPED, *arguments], capture_output=True, text=True, cwd=tmp_path, env=environment(), check=False
    )
    assert first.returncode == 130, first.stderr
    # a slow machine is told how long it takes, and a line a minute what is being done
    said = [line for line in first.stderr.splitlines() if "to go" not in line and not line.endswith("so far")]
    assert said == ["stopped; the same command goes on from the last checkpoint"], first.stderr
    assert not list(tmp_path.glob("runs/align-*"))
    assert list(tmp_path.glob("runs/unfinished/*/mlp/checkpoint-*.safetensors"))
    assert not list(tmp_path.rglob(".lock"))
    again = run(*arguments, folder=tmp_path)
    assert again.returncode == 0, again.stderr
    (stored,) = tmp_path.glob("runs/align-*")
    assert not list(tmp_path.glob("runs/unfinished/*"))
    metrics = json.loads((stored / "result.json").read_text())["metrics"]
    assert metrics["data/train_images"] + metrics["data/validation_images"] == 120
    assert metrics["data/test_images"] == len(np.load(stored / "embedding%2Fbrain.npy")) == 30
