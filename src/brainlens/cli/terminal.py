"""What a command shows on the terminal: its progress on standard error, its tables on standard output."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

LONG = 30.0  # s: a stage that will take longer says so
SEEN = 2.0  # s of a stage after which its length is judged
EVERY = 60.0  # s between two lines where there is no terminal
FOLDED = 1.5  # widths of the terminal that a table may need and still be folded into it


class Forecast:
    """Judges from the first steps of a stage how long it will take, and says so once where that is long.

    shorter: how to make it shorter, in the words of the command line. clock: seconds, for tests.
    """

    def __init__(self, say: Callable[[str], None], *, shorter: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self._say, self._shorter, self._clock = say, shorter, clock
        self._text, self._began, self._first, self._told = "", 0.0, 0.0, False

    def __call__(self, text: str, share: float | None) -> None:
        """A stage's text and the share of it that is done."""
        now = self._clock()
        if text != self._text:
            self._text, self._began, self._first, self._told = text, now, share or 0.0, False
        done = (share or 0.0) - self._first
        spent = now - self._began
        if self._told or done <= 0 or spent < SEEN:
            return
        self._told = True
        left = spent / done * (1 - (share or 0.0))
        if left > LONG:
            hint = f"; shorter: {self._shorter}" if self._shorter else ""
            self._say(f"{text}: about {_duration(left)} to go, judged by its first steps{hint}")


@contextmanager
def steps(*, shorter: str = "") -> Iterator[Callable[[str, float | None], None]]:
    """A progress bar on standard error; the function given takes a text and the share that is done (None: unknown).

    On a terminal a bar a stage; elsewhere a line a minute. A stage that will take more than half a minute says so, and how to
    make it shorter.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=False, disable=not console.is_terminal)
    current: dict[str, Any] = {"text": None, "task": None, "share": None}

    def say(line: str) -> None:
        if console.is_terminal:
            bar.console.print(line)
        else:
            print(line, file=sys.stderr, flush=True)

    forecast = Forecast(say, shorter=shorter)

    def tell(text: str, share: float | None = None) -> None:
        if text != current["text"]:
            if current["task"] is None:
                bar.start()
            else:
                bar.update(current["task"], total=1.0, completed=1.0)
            current.update(text=text, task=bar.add_task(text, total=None if share is None else 1.0))
        bar.update(current["task"], total=None if share is None else 1.0, completed=share or 0.0)
        current["share"] = share
        forecast(text, share)

    done = threading.Event()
    if not console.is_terminal:
        threading.Thread(target=_every_minute, args=(current, say, done), daemon=True).start()
    try:
        yield tell
        if current["task"] is not None:
            bar.update(current["task"], total=1.0, completed=1.0)
    finally:
        done.set()
        if current["task"] is not None:
            bar.stop()


def _every_minute(current: dict[str, Any], say: Callable[[str], None], done: threading.Event) -> None:
    """A line a minute on what is being done, from a thread of its own: a long step may not report for minutes."""
    began = time.monotonic()
    while not done.wait(EVERY):
        text, share = current["text"], current.get("share")
        if text is not None:
            spent = _duration(time.monotonic() - began)
            say(f"{text}, {spent} so far" if share is None else f"{text}: {100 * share:.0f} %, {spent} so far")


def show(rows: list[dict[str, Any]], title: str) -> None:
    """A table on standard output, never cut: as wide as it needs in a file or a pipe, folded on a terminal that is a bit too
    narrow for it, and in the long form, a block a row, on one that is far too narrow."""
    from rich.console import Console
    from rich.table import Table

    names = list(dict.fromkeys(key for row in rows for key in row))
    cells = [[_text(row.get(name, "")) for name in names] for row in rows]
    widths = [max(len(text) for text in column) for column in zip(names, *cells, strict=True)]
    needed, console = sum(widths) + 3 * len(widths) + 1, Console()
    if not console.is_terminal:
        console = Console(width=max(needed, len(title), 80))
    elif needed > FOLDED * console.width:
        reach = max(len(name) for name in names)
        blocks = ["\n".join(f"  {n:<{reach}}  {c}" for n, c in zip(names, line, strict=True) if c) for line in cells]
        console.print("\n\n".join([title, *blocks]), markup=False, highlight=False)
        return
    console.print(title, style="italic", markup=False, highlight=False)  # a title of the table's own is folded at its width
    table = Table()
    for name in names:
        table.add_column(name, overflow="fold")
    for line in cells:
        table.add_row(*line)
    console.print(table)


def carry_out(
    task: str,
    runs: Path,
    asked: dict[str, Any],
    work: Callable[[Callable[[str, float | None], None]], tuple[Path | list[Path], list[dict[str, Any]]]],
    *,
    title: str,
    shorter: str = "",
    data: Path | Sequence[Path | None] | None = None,
    again: bool = False,
) -> list[Path]:
    """Does what a command asks for, or finds where the same command did it, and shows its table and its folders.

    work(tell) gives the run's folder or folders and the rows to show; asked, data, again: as `datasets.runs.once` takes them.
    """
    from brainlens.datasets.runs import once

    def anew() -> tuple[Path | list[Path], list[dict[str, Any]]]:
        with steps(shorter=shorter) as tell:
            return work(tell)

    folders, rows, made = once(task, runs, asked, anew, data=data, again=again)
    if rows:  # of several processes the first one speaks
        show(rows, title)
        if folders and not made:
            _remark(folders[-1])
        finished(folders, made)
    return folders


def _remark(folder: Path) -> None:
    """What a reader of the table must know of the network, where the run says so."""
    from brainlens import store
    from brainlens.datasets.runs import MINIATURE

    note = folder / "result.json"
    if note.is_file() and MINIATURE in store.read_json(note).get("config", {}).get("warnings", []):
        print(f"note: {MINIATURE}", flush=True)


LAST: list[Path] = []  # folders of the command of this process that finished last, for a command that calls others


def finished(folders: Sequence[Path], made: str) -> None:
    """The run folders on standard output, and that they were there already where that is so."""
    LAST[:] = folders
    if made:
        print(f"finished before, on {made}; --again runs it anew", flush=True)
    for folder in folders:
        print(f"run: {folder}", flush=True)


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return "" if value is None else str(value)
    from brainlens.types.scores import digits

    return digits(value)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
