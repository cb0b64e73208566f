"""What a user waits for before anything is done: an import, a page of help, a mistake in a command."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import pytest

from brainlens.datasets import DATASETS

HEAVY = ("torch", "pandas", "numpy", "scipy", "mne", "nilearn", "nibabel", "matplotlib", "sklearn", "transformers", "diffusers")
SAID = """
import contextlib, io, json, sys
from brainlens.cli import app, main
names = [one.name or one.callback.__name__ for one in app.registered_commands]
asked = json.loads(sys.argv[1]) or [[name, "--help"] for name in names] + [["--help"], ["--version"]]
said = {}
for arguments in asked:
    sys.argv = ["brainlens", *arguments]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            said[" ".join(arguments)] = [end.code, err.getvalue(), len(out.getvalue())]
print(json.dumps({"said": said, "modules": [name for name in sys.modules if "." not in name]}))
"""


def asked(*commands: list[str]) -> tuple[dict[str, list[object]], set[str]]:
    """{command: (exit code, standard error, characters of standard output)} in a process of its own, and what it imported."""
    ended = subprocess.run(
        [sys.executable, "-c", SAID, json.dumps(commands)], capture_output=True, text=True, timeout=300, check=True
    )
    found = json.loads(ended.stdout.splitlines()[-1])
    return found["said"], set(found["modules"])


def seconds(program: str, *, check: bool = True) -> float:
    """Of processor time, the least of three tries: the machine may be busy."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", program], check=check, capture_output=True, timeout=300)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def test_help_imports_nothing_heavy() -> None:
    said, modules = asked()
    assert len(said) >= 18
    assert all(code == 0 and shown > 5 for code, _, shown in said.values()), said
    assert not modules & set(HEAVY)


@pytest.mark.parametrize(
    "command",
    [
        ["encode", "--dataset", "nope"],
        ["encode", "--layr", "x"],
        ["encode", "--dataset", "folder", "--data", "/no/such/folder"],
        ["encode", "--dataset", "folder", "--data", "/tmp", "--train", "5"],
        ["encode", "--dataset", "folder", "--data", "/tmp", "--option", "meash=fsaverage5"],
        ["describe", "--data", "/tmp"],
        ["reconstruct", "--dataset", "nope"],
        ["attribute", "/no/such/run"],
        ["predict", "/no/such/run", "--images", "/tmp"],
        ["embed", "/no/such/run"],
        ["nosuchcommand"],
        ["align", "--encoder", "x"],
        ["align", "--dataset", "phantom_eeg", "--encoder", "x"],
        ["align", "--modality", "x"],
        ["align", "--protocol", "x"],
        ["align", "--gallery", "x"],
        ["encode", "--method", "x"],
        ["encode", "--device", "x"],
        ["encode", "--part", "x"],
        ["encode", "--part", "3/2"],
        ["encode", "--model", "nope"],
        ["encode", "--model", "miniature", "--model", "/no/such/network"],
        ["encode", "--brain-network", "/tmp"],
        ["align", "--model", "nobody/no-such-model"],
        ["features", "nope", "--images", "/tmp"],
        ["finetune", "nope", "--images", "/tmp", "--labels", "/tmp/labels.csv", "--out", "/tmp/out"],
        ["demo", "--device", "x"],
        ["reconstruct", "--preset", "x"],
        ["reconstruct", "--start", "x"],
        ["reconstruct", "--tokens", "x"],
        ["reconstruct", "--chooser", "x"],
        ["report", "/no/such/folder"],
        ["figures", "/no/such/folder"],
    ],
    ids=" ".join,
)
def test_a_mistake_in_a_command_is_said_before_torch_is_loaded(command: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")  # a hub that does not answer is waited for
    said, modules = asked(command)
    ((code, err, _),) = said.values()
    assert code == 2
    assert len(str(err).splitlines()) == 1, err
    assert not modules & {"torch", "transformers", "diffusers", "mne", "nilearn", "matplotlib", "sklearn"}


@pytest.mark.parametrize("name", ["encode", "align", "attribute", "reconstruct", "describe", "decode"])
def test_an_option_that_there_is_not_waits_for_no_table_library(name: str) -> None:
    _, modules = asked([name, "--no-such-option"], [name, "--device", "x"], ["nosuchcommand"])
    assert not modules & set(HEAVY)


def test_words_that_the_command_line_knows_are_those_that_the_modules_know() -> None:
    from brainlens import choices
    from brainlens.align.sensor_options import SensorOptions
    from brainlens.attribute import pixels_and_words
    from brainlens.encode import METHODS
    from brainlens.models.volume.aligners import ENCODERS
    from brainlens.reconstruct.asked import Asked
    from brainlens.subjects import Protocol

    assert METHODS == choices.ENCODE_METHODS
    assert pixels_and_words.METHODS == choices.ATTRIBUTE_METHODS
    assert set(choices.ENCODERS) == {*ENCODERS, *choices.SENSOR_ENCODERS}
    for name in choices.SENSOR_ENCODERS:
        SensorOptions(encoders=(name,))
    for kind, gallery in product(choices.PROTOCOLS, choices.GALLERIES):
        Protocol(kind, gallery=gallery)
    for name, words in (("start", choices.STARTS), ("preset", choices.RECONSTRUCT_PRESETS), ("chooser", choices.CHOOSERS)):
        for word in words:
            Asked(**{name: word})


def test_the_list_of_recordings_and_what_is_known_of_each_wait_for_no_torch() -> None:
    said, modules = asked(["datasets"], *(["datasets", name] for name in DATASETS))
    assert all(code == 0 and shown > 100 for code, _, shown in said.values()), said
    assert not modules & {"torch", "transformers", "diffusers", "mne", "nilearn", "matplotlib", "sklearn"}


@pytest.mark.parametrize(
    "command, words",
    [
        (["sweep", "encode", "--seed", "0..1", "--roi", "V1", "--dry"], "sweep: 2 runs of encode"),
        (["paper", "factortopy", "--dataset", "haxby2001", "--data", "/no/such/folder", "--only", "ridge"], "/no/such/folder"),
    ],
    ids=["sweep", "paper"],
)
def test_a_command_that_calls_others_finds_them_in_a_program_of_its_own(command: list[str], words: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "brainlens", *command], capture_output=True, text=True, cwd=tmp_path, timeout=300, check=False
    )
    assert words in done.stdout + done.stderr, done.stderr
    assert "No such command" not in done.stderr
    assert "Traceback" not in done.stderr


def test_import_and_help_cost_little_beside_what_they_stand_on() -> None:
    """Processor time, against an empty program and against the libraries of the command line alone."""
    empty = seconds("pass")
    assert seconds("import brainlens") - empty < 0.1
    library = seconds("import typer, typer.main, typer.rich_utils, pydantic, rich.markdown")
    call = "import sys; sys.argv = ['brainlens', 'encode', '--help']; from brainlens.cli import main; main()"
    assert seconds(call) < 2.5 * library


@pytest.mark.parametrize(
    ("command", "most"),
    [
        (["encode", "--help"], 0.5),
        (["align", "--help"], 0.5),
        (["paper", "--help"], 0.5),
        (["align", "--encoder", "x"], 1.0),
        (["encode", "--dataset", "nope"], 1.0),
        (["encode", "--model", "nope"], 1.0),
        (["encode", "--part", "x"], 1.0),
        (["encode", "--dataset", "folder", "--data", "/no/such/folder"], 1.0),
    ],
    ids=str,
)
def test_help_and_mistakes_come_in_the_time_that_was_promised(
    command: list[str], most: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Processor time of all that a command adds to an empty program; on a slower machine by as much more as it is slower."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    call = f"import sys; sys.argv = {['brainlens', *command]!r}; from brainlens.cli import main; main()"
    assert seconds(call, check=False) - seconds("pass") < most * slowness()


def slowness() -> float:
    """How much longer than a quarter of a second this machine needs now for what that took: loops of the interpreter alone."""
    found = []
    for _ in range(3):
        begun = time.process_time()
        sum(number * number for number in range(4_000_000))
        found.append(time.process_time() - begun)
    return max(1.0, min(found) / 0.25)


WAITS = "import os; from brainlens.cli import main\ntry: main()\nexcept SystemExit: print(os.environ.get('OMP_WAIT_POLICY'))"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({}, "passive"),
        ({"OMP_WAIT_POLICY": "active"}, "active"),
        ({"GOMP_SPINCOUNT": "9"}, "None"),
        ({"KMP_BLOCKTIME": "1"}, "None"),
    ],
)
def test_threads_that_wait_sleep_unless_the_environment_says_otherwise(given: dict[str, str], found: str) -> None:
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    said = subprocess.run(
        [sys.executable, "-c", WAITS, "--version"], env=plain | given, capture_output=True, text=True, check=True
    )
    assert said.stdout.split()[-1] == found


BUSY = """
import os, sys, time
sys.argv = ["brainlens", "--version"]
from brainlens.cli import main
try:
    main()
except SystemExit:
    pass
import torch
torch.set_num_threads(4 * len(os.sched_getaffinity(0)))  # more threads than cores are as a machine that others use
a, b = torch.ones(512, 512), torch.ones(512)
torch.add(a, b)
begun, used, calls = time.perf_counter(), time.process_time(), 0
while calls < 400 and time.perf_counter() - begun < 10:
    torch.add(a, b)
    calls += 1
print((time.process_time() - used) / calls)
"""


def test_threads_without_a_core_cost_no_processor_time() -> None:
    """Sums of 262,144 numbers in four threads a core, in processor time."""
    plain = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")}
    cost = []
    for given in ({}, {"OMP_WAIT_POLICY": "active"}):
        said = subprocess.run([sys.executable, "-c", BUSY], env=plain | given, capture_output=True, text=True, check=True)
        cost.append(float(said.stdout.split()[-1]))
    assert cost[0] < cost[1]  # a third to a fifth of it at loads of 5 to 7
