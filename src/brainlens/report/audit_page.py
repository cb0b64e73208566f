"""The audit of a recording as one self-contained page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

import jinja2
from markupsafe import Markup

from brainlens import __version__, store
from brainlens.datasets.audit import LEVELS, Finding
from brainlens.report.policy import source_hash

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'sha256-{{ hash }}'">
<meta name="viewport" content="width=device-width, initial-scale=1"><title>Check of {{ folder }}</title>
<style>{{ style }}</style></head><body><main>
<h1>Check of {{ folder }}</h1>
<p>Read as {{ name }}: {{ summary }}. brainlens {{ version }}, {{ date }}.</p>
<table><thead><tr><th></th><th>what</th><th>found</th></tr></thead><tbody>
{% for one in findings %}<tr><td>{{ one.level }}</td><td>{{ one.what }}</td><td>{{ one.found }}</td></tr>
{% endfor %}</tbody></table>
<p>error: a verb would stop, or a score would mean something else than it says. warning: scores may mislead,
look before you trust them. note: worth a look.</p>
</main></body></html>
"""


def write_page(findings: Sequence[Finding], name: str, folder: str | Path, out: str | Path) -> Path:
    """Writes the findings as one page without scripts, everything from the data escaped; errors first. Returns its path."""
    css = resources.files("brainlens.report").joinpath("style.css").read_text(encoding="utf-8")
    counts = {level: sum(one.level == level for one in findings) for level in reversed(LEVELS)}
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(PAGE)
    text = template.render(
        folder=str(folder), name=name, version=__version__, date=time.strftime("%Y-%m-%d"), style=Markup(css),
        hash=source_hash(css),
        summary=", ".join(f"{count} {level}" for level, count in counts.items()),
        findings=sorted(findings, key=lambda one: -LEVELS.index(one.level)),
    )  # fmt: skip
    store.save_text(out, text)
    return Path(out)
