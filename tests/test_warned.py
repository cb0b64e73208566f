"""A warning of the library is one line, in a script and on the command line, and is silenced and sent elsewhere as any other."""

from __future__ import annotations

import ast
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import brainlens
from brainlens.datasets.shown_stimuli import DrawnTest
from brainlens.datasets.source import Source, noting
from brainlens.signals.epochs import match_times
from brainlens.types import reading
from brainlens.warned import BrainlensWarning, warn

ROOT = Path(brainlens.__file__).parent
LINE = "3 times for 2 samples: the last 2 are taken, as in released files"
CALL = f"warn({LINE!r})"
START = "import logging, sys, warnings, brainlens\nfrom brainlens.warned import warn\n"


def script(tmp_path: Path, text: str, *options: str) -> tuple[int, list[str]]:
    """Exit code of a script of its own, and the lines of standard error."""
    path = tmp_path / "script.py"
    path.write_text(START + text, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, *options, str(path)], capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path
    )
    return done.returncode, done.stderr.splitlines()


SAID = [f"brainlens: warning: {LINE}"]
SCRIPTS = {
    "nothing configured": (CALL, SAID),
    "a place says it once": (f"for _ in range(3): {CALL}", SAID),
    "once, though filters changed in between": (
        f"for _ in range(3):\n    {CALL}\n    with warnings.catch_warnings(): warnings.simplefilter('always')", SAID
    ),
    "two places say it twice": (f"{CALL}\n{CALL}", SAID * 2),
    "ignored by class": (f"warnings.simplefilter('ignore', brainlens.BrainlensWarning)\n{CALL}", []),
    "ignored by module": (f"warnings.filterwarnings('ignore', module='__main__')\n{CALL}", []),
    "ignored by text": (f"warnings.filterwarnings('ignore', message='3 times')\n{CALL}", []),
    "the level of the logger": (f"logging.getLogger('brainlens').setLevel(logging.ERROR)\n{CALL}", []),
    "a filter of the logger": (f"logging.getLogger('brainlens').addFilter(lambda record: False)\n{CALL}", []),
    "logging configured": (
        "logging.basicConfig(format='%(levelname)s %(name)s %(filename)s:%(lineno)d %(message)s')\n" + CALL,
        [f"WARNING brainlens script.py:4 {LINE}"],
    ),
    "a handler of its own": (
        f"log = logging.getLogger('brainlens')\nlog.addHandler(logging.FileHandler('said.log'))\n{CALL}\n"
        "print(open('said.log').read(), file=sys.stderr, end='')",
        [LINE],
    ),
    "recorded": (
        f"with warnings.catch_warnings(record=True) as said:\n    warnings.simplefilter('always')\n    {CALL}\n    {CALL}\n"
        "print(*[(one.category.__name__, one.filename.endswith('script.py'), one.lineno) for one in said], file=sys.stderr)",
        ["('BrainlensWarning', True, 5) ('BrainlensWarning', True, 6)"],
    ),
    "showwarning of the user": (
        f"warnings.showwarning = lambda message, *_, **__: print('mine:', message, file=sys.stderr)\n{CALL}", [f"mine: {LINE}"]
    ),
    "recorded within and given on": (
        "from brainlens.datasets.source import Source, noting\n"
        f"for _ in range(2):\n    with noting(Source('phantom')): {CALL}",
        SAID,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", SCRIPTS)
def test_a_script_has_one_line_and_the_standard_means(tmp_path: Path, case: str) -> None:
    text, lines = SCRIPTS[case]
    assert script(tmp_path, text) == (0, lines)


def test_a_warning_is_an_error_where_that_is_asked_for(tmp_path: Path) -> None:
    code, lines = script(tmp_path, CALL, "-W", "error::UserWarning")
    assert code == 1
    assert lines[-1] == f"brainlens.warned.BrainlensWarning: {LINE}"


def test_warnings_of_others_are_as_they_were(tmp_path: Path) -> None:
    code, lines = script(tmp_path, f"{CALL}\nwarnings.warn('of the user')")
    assert code == 0
    assert lines[0] == SAID[0]
    assert lines[1].endswith("script.py:4: UserWarning: of the user")
    assert len(lines) == 3  # with the line of code


def test_on_the_command_line_it_is_one_line_too_and_so_are_those_of_others(tmp_path: Path) -> None:
    told = (
        "from brainlens import cli\n@cli.app.command()\ndef told():\n"
        f"    {CALL}\n    warnings.warn('of another library')\nsys.argv = ['brainlens', 'told']\ncli.main()"
    )
    assert script(tmp_path, told) == (0, [f"warning: {LINE}", "warning: of another library"])


def test_every_log_of_a_sweep_is_whole(tmp_path: Path) -> None:
    text = (
        "from brainlens import cli\nfrom brainlens.cli.sweep import carry_piece\n@cli.app.command()\ndef told():\n"
        f"    {CALL}\nfor log in ('1.log', '2.log'):\n    carry_piece({{'line': ['told'], 'log': log}})"
    )
    assert script(tmp_path, text) == (0, [])
    assert [(tmp_path / name).read_text(encoding="utf-8").splitlines() for name in ("1.log", "2.log")] == [SAID, SAID]


def test_the_line_that_called_into_the_library_is_named() -> None:
    with pytest.warns(BrainlensWarning, match=LINE) as said:
        match_times([0, 1, 2], 2)
    assert [Path(one.filename).name for one in said] == ["test_warned.py"]


def test_what_is_noted_of_a_run_does_not_depend_on_what_is_shown() -> None:
    source = Source("folder", "somewhere")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BrainlensWarning)
        with noting(source):
            warn("4 of 20 images\nare drawn", DrawnTest)
    assert source.notes == ["4 of 20 images are drawn"]


def test_a_warning_that_is_an_error_is_not_taken_for_a_damaged_file(tmp_path: Path) -> None:
    with pytest.raises(BrainlensWarning, match="said"), reading(tmp_path / "a.csv"):  # warnings are errors here
        warn("said")


def called(path: Path) -> list[str]:
    """Calls of a module that warn past `brainlens.warned`."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [name for name in names if name in ("warnings.warn", "warnings.warn_explicit") or name.endswith((".warning", ".warn"))]


def test_no_other_module_warns() -> None:
    found = {path.relative_to(ROOT).as_posix(): said for path in sorted(ROOT.rglob("*.py")) if (said := called(path))}
    assert found == {"warned.py": ["warnings.warn_explicit", "warnings.warn_explicit"]}
