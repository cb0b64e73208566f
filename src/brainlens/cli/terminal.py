"""What a command shows on the terminal: its progress on standard error, its tables on standard output."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def steps() -> Iterator[Callable[[str, float | None], None]]:
    """A progress bar on standard error; the function given takes a text and the share that is done (None: unknown).

    It appears with the first text, and only on a terminal, so that a log holds nothing but what went wrong.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    console = Console(stderr=True)
    bar = Progress(*columns, console=console, transient=False, disable=not console.is_terminal)
    current: dict[str, Any] = {"text": None, "task": None}

    def tell(text: str, share: float | None = None) -> None:
        if text != current["text"]:
            if current["task"] is None:
                bar.start()
            else:
                bar.update(current["task"], total=1.0, completed=1.0)
            current.update(text=text, task=bar.add_task(text, total=None if share is None else 1.0))
        bar.update(current["task"], total=None if share is None else 1.0, completed=share or 0.0)

    try:
        yield tell
        if current["task"] is not None:
            bar.update(current["task"], total=1.0, completed=1.0)
    finally:
        if current["task"] is not None:
            bar.stop()


def show(rows: list[dict[str, Any]], title: str) -> None:
    """A table on standard output."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    names = list(dict.fromkeys(key for row in rows for key in row))
    for name in names:
        table.add_column(name)
    for row in rows:
        table.add_row(*(_text(row.get(name, "")) for name in names))
    Console().print(table)


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
