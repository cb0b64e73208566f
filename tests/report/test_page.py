"""The page: whole, escaped, without addresses or scripts, and quiet in a real browser."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from brainlens import report, store
from brainlens.cli import app
from brainlens.report import page as page_module
from brainlens.types import DataError, Result, Volume

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
FLAGS += ["--disable-component-update", "--disable-sync", "--enable-logging=stderr", "--v=0", "--dump-dom"]


class Page(HTMLParser):
    """Tags with their attributes, texts by tag, and whether every opened tag was closed."""

    VOID = ("meta", "link", "img", "br", "hr", "input")

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


@pytest.fixture(scope="module")
def runs(made: ModuleType) -> list[tuple[str, Result]]:
    return [
        ("align-1", made.align(caption=made.NASTY)),
        ("attribute-2", made.attribute()),
        (f"encode-{made.NASTY}", made.encode()),
        ("align-eeg", made.eeg()),
    ]


@pytest.fixture(scope="module")
def text(runs: list[tuple[str, Result]], made: ModuleType) -> Iterator[str]:
    patch = pytest.MonkeyPatch()
    patch.setattr(page_module, "DPI", (50,))  # what is tested does not depend on the resolution
    yield report.render(runs, title=f"Title {made.NASTY}", date="2026-01-01")
    patch.undo()


def test_sections_appear_because_their_arrays_are_there(text: str) -> None:
    page = Page(text)
    assert not page.open
    headings = {t.strip() for t in page.texts}
    expected = {"What was run", "Key numbers", "Retrieval", "Attribution on the brain", "Attribution on pixels and words"}
    expected |= {
        "Encoding and layer maps",
        "Similarity to the brain, layer by layer",
        "Sensors and time",
        "Embeddings",
        "Training",
    }
    expected |= {"Provenance", "How to cite", "simulation (phantom)"}
    assert expected <= headings
    joined = " ".join(page.texts)
    for said in (
        "40.0 %",
        "[35.0 %, 45.0 %]",
        "1.6 %",
        "60.0 % (ideal)",
        "units missing: 12",
        "region RSC is empty after masking",
        "a" * 64,
    ):
        assert said in joined, said
    assert "Not drawn" not in joined


def test_every_anchor_exists_and_every_figure_is_described(text: str) -> None:
    page = Page(text)
    anchors = {a["id"] for _, a in page.tags if "id" in a}
    links = [a["href"] for tag, a in page.tags if tag == "a"]
    assert len(links) > 15
    assert {link[1:] for link in links if link} <= anchors
    pictures = [a for tag, a in page.tags if tag == "img"]
    assert len(pictures) > 40
    assert all(a.get("alt") for a in pictures)
    assert sum(tag == "figcaption" for tag, _ in page.tags) == sum(tag == "figure" for tag, _ in page.tags) > 15


def test_nothing_from_data_can_run_or_be_fetched(text: str, made: ModuleType) -> None:
    page = Page(text)
    assert not [tag for tag, _ in page.tags if tag in ("iframe", "object", "embed", "form", "base")]
    assert not [a for _, a in page.tags if any(name.startswith("on") or name == "style" for name in a)]
    for tag, attributes in page.tags:
        for name in ("src", "href", "action", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:") or (tag == "a" and value.startswith("#")), (tag, value[:60])
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", text, flags=re.DOTALL)
    rest = re.sub(r"<script([^>]*)>(.*?)</script>", "", text, flags=re.DOTALL)
    assert [kind for kind, _ in scripts] == [' type="application/json" id="cortex-data"', "", ""]
    assert "url(" not in rest
    assert "@import" not in rest
    policy = next(a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    allowed = re.search(r"script-src ([^;]*);", policy)
    assert allowed is not None
    hashes = [base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() for kind, s in scripts if not kind]
    assert allowed[1].split() == [f"'sha256-{h}'" for h in hashes], "two scripts by their hashes and nothing else, no eval"
    assert "&lt;script&gt;alert" in text
    assert "<script" not in rest
    assert "<" not in scripts[0][1], "names of runs and regions cannot end the data"
    assert any(made.NASTY in t for t in page.texts), "the caption is read as it was written, emoji and all"


def test_a_browser_shows_it_without_a_word_on_the_console(text: str, tmp_path: Path, chromium: ModuleType) -> None:
    path = tmp_path / "report.html"
    path.write_text(text, encoding="utf-8")
    command = [chromium.browser(), *FLAGS, *chromium.WEBGL, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    console = [line for line in said if "GL Driver Message" not in line]  # of WebGL on a processor, about its own speed
    assert console == []
    assert done.stdout.count("<figure>") == text.count("<figure>") > 15
    assert "How to cite" in done.stdout


def test_the_browser_test_would_notice_a_blocked_style(text: str, tmp_path: Path, chromium: ModuleType) -> None:
    """The same check on a page whose style no longer matches the policy's hash must see an error."""
    path = tmp_path / "broken.html"
    path.write_text(text.replace(":root{", ":root {", 1), encoding="utf-8")
    command = [chromium.browser(), *FLAGS, *chromium.WEBGL, f"--user-data-dir={tmp_path / 'profile'}", path.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line]


def test_build_reads_stored_runs_and_writes_one_file(tmp_path: Path, made: ModuleType) -> None:
    eeg = made.eeg()
    store.save_result(eeg, tmp_path / "runs" / "align-eeg")
    (tmp_path / "runs" / "align-half").mkdir()
    (tmp_path / "runs" / "align-half" / "log.jsonl").write_text("{}\n")
    out = report.build(tmp_path / "runs", tmp_path / "new" / "report.html", title="One run")
    text = out.read_text(encoding="utf-8")
    assert [p.name for p in out.parent.iterdir()] == ["report.html"]
    assert "align-half" in text
    assert "One run" in text
    assert "14.0 %" in text
    assert len(text) < page_module.MAX_BYTES


def test_one_page_of_several_folders_shows_each_run_once(tmp_path: Path) -> None:
    for name, level in (("a/encode-1", 0.11), ("b/encode-2", 0.22), ("c/encode-3", 0.33)):
        store.save_result(Result("encode", {"encoding/r2_mean": level}), tmp_path / name)
    page = tmp_path / "page.html"
    asked = [
        "report",
        str(tmp_path / "a" / "encode-1"),
        str(tmp_path / "b"),
        str(tmp_path / "b" / "encode-2"),
        "--out",
        str(page),
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    text = page.read_text(encoding="utf-8")
    assert text.count("<article") == 2, "a run that is reached by two folders stands once, what was not named not at all"
    assert "0.33" not in text
    refused = CliRunner().invoke(app, ["report", str(tmp_path / "a"), str(tmp_path / "absent"), "--out", str(page)])
    assert "absent is not a folder" in str(refused.exception)


def test_a_damaged_run_is_an_error(tmp_path: Path, made: ModuleType) -> None:
    store.save_result(made.eeg(), tmp_path / "run")
    array = max(tmp_path.rglob("*.npy"), key=lambda p: p.stat().st_size)
    content = bytearray(array.read_bytes())
    content[-1] ^= 1
    array.write_bytes(content)
    with pytest.raises(DataError):
        report.build(tmp_path, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_nothing_to_show_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no finished run"):
        report.build(tmp_path, tmp_path / "report.html")
    with pytest.raises(DataError, match="not a folder"):
        report.build(tmp_path / "absent", tmp_path / "report.html")
    with pytest.raises(DataError, match="no result"):
        report.render([])


def test_a_bare_result_has_numbers_and_no_figures() -> None:
    text = report.render([("demo", Result("align", {"retrieval/brain->image/top1": 0.5}))])
    assert "50.0 %" in text
    assert text.count("<figure>") == 1, "the bar of its one score"
    assert "Attribution on the brain" not in text


def test_a_recording_is_cited_and_its_unit_said() -> None:
    text = report.render([("epochs-1", Result("epochs", {}, config={"dataset": "things_meg", "measure": "z"}))])
    assert "eLife 12, e82580" in text
    assert "standard deviation (z)" in text
    assert "eLife" not in report.render([("align-1", Result("align", {}, config={"dataset": "phantom_eeg"}))])


def test_a_figure_that_the_data_do_not_bear_says_why() -> None:
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[0, 0, :2] = True
    result = Result(
        "attribute", {}, {"map/brain_mean": np.array([1.0, 2.0])}, space=Volume(mask, np.eye(4)), config={"template": "MNI152"}
    )
    text = report.render([("tiny", result)])
    assert "Not drawn: map &#39;map/brain_mean&#39; has no finite value on the cortical surface" in text


def test_recordings_without_a_template_are_never_put_on_one(made: ModuleType) -> None:
    mask = np.ones((20, 20, 2), dtype=bool)
    arrays = {"r2": np.random.default_rng(0).uniform(0, 0.4, 800), "layer": np.ones(800), "confidence": np.ones(800)}
    text = report.render(
        [("encode-x", Result("encode", {}, arrays, space=Volume(mask, np.eye(4)), config={"dataset": "haxby2001"}))]
    )
    assert "own grid" in text
    assert "fsaverage5 cortex" not in text
    assert "simulation (phantom)" not in text


def test_pages_that_grow_too_large_get_coarser_and_then_refuse(monkeypatch: pytest.MonkeyPatch, made: ModuleType) -> None:
    runs = [("align-eeg", made.eeg())]
    monkeypatch.setattr(page_module, "DPI", (120,))
    large = len(report.render(runs, date="2026-01-01"))
    monkeypatch.setattr(page_module, "DPI", (120, 30))
    monkeypatch.setattr(page_module, "MAX_BYTES", large - 1)
    assert len(report.render(runs, date="2026-01-01")) < large
    monkeypatch.setattr(page_module, "MAX_BYTES", 1000)
    with pytest.raises(DataError, match="give fewer runs"):
        report.render(runs)


@pytest.mark.parametrize(
    "task, name, table, cell, heads",
    [
        ("encode", "regions", {"r2": [0.25], "r2.low": [0.1], "r2.high": [0.4]}, "0.25", ["r2 low", "r2 high"]),
        ("encode", "regions", {"r2": [0.25], "r2_low": [0.1], "r2_high": [0.4]}, "0.25", ["r2 low", "r2 high"]),
        ("sweep", "runs", {"value": [0.25], "low": [0.1], "high": [0.4]}, "0.25", ["low", "high"]),
    ],
    ids=["regions", "regions of version 0.1", "pieces of a sweep"],
)
def test_intervals_stand_beside_their_score_and_not_in_columns_of_their_own(task, name, table, cell, heads) -> None:
    frame = pd.DataFrame({"roi": ["V1"], **table})
    text = report.render([("run", Result(task, {"encoding/r2_mean": 0.1}, tables={name: frame}))])
    assert re.search(rf">{cell}</span> <span[^>]*>\[0.1, 0.4\]</span>", text)
    assert not [head for head in heads if re.search(rf"<th[^>]*>{head}</th>", text)]


def test_long_tables_say_how_many_rows_are_left_out() -> None:
    table = pd.DataFrame({"roi": [f"r{i}" for i in range(100)], "r2": np.linspace(0, 1, 100)})
    text = report.render([("encode-x", Result("encode", {"encoding/r2_mean": 0.1}, tables={"regions": table}))])
    assert "The first 60 of 100 rows." in text
    assert re.search(r"<td><span[^>]*>r59</span></td>", text)
    assert not re.search(r">r60<", text)
