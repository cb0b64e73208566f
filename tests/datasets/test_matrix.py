"""Every recording through every verb, from the command line to a page: what runs, that its numbers are those of a plain
computation (`plain_numbers`), and one line where a verb does not apply.

The table in docs/recordings.md is that of this test: a cell that changes fails here until the row is changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from typer.testing import CliRunner

from brainlens.cli import app
from brainlens.datasets import examples, load, mosaic, nsd
from brainlens.types import DataError

pytestmark = pytest.mark.filterwarnings("default")  # warnings are for the user to read: a drawn test part, missing units
DOCS = Path(__file__).parents[2] / "docs" / "recordings.md"
VERBS = ("encode", "align", "attribute", "describe", "reconstruct", "decode")
TOLD = "`--captions`"  # a verb that runs with captions from a file


@dataclass(frozen=True)
class Case:
    """A recording: its dataset, what writes it into a folder, options of its loader, whether captions come from a file."""

    dataset: str
    write: Callable[[Path], None]
    options: tuple[str, ...] = ()
    told: bool = False


def things_meg(made: ModuleType, folder: Path) -> None:
    table = made.trials({f"thing{i}": 3 for i in range(12)}, {f"test{i}": 4 for i in range(10)}, catch=2, seed=0)
    made.write(folder, table, samples=281, channels=made.helmet(30), seen=0.8)
    made.write_images(folder, table)


def example(layout: str) -> Callable[[Path], None]:
    return lambda folder: examples.write_example(layout, folder) and None


@pytest.fixture(scope="module")
def cases(made_recordings: ModuleType, made_meg: ModuleType, made_fmri: ModuleType) -> Iterator[dict[str, Case]]:
    """The recordings in small; sessions of NSD have 60 trials, and MOSAIC 120 vertices."""
    made = made_recordings

    def eeg(folder: Path) -> None:
        made.write_eeg2(folder)
        made.write_categories(folder, [f"trainthing{i}" for i in range(15)] + [f"testthing{i}" for i in range(10)])

    def meg(folder: Path) -> None:
        things_meg(made_meg, folder)
        made.write_categories(folder, [f"thing{i}" for i in range(12)] + [f"test{i}" for i in range(10)])

    def more(name: str) -> Callable[[Path], None]:
        return lambda folder: getattr(made_fmri, f"write_{name}")(made, folder)

    def nod(folder: Path) -> None:
        made.write_nod(folder)
        made.write_fslr(folder / "derivatives")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nsd, "TRIALS", 60)
        patch.setattr(nsd, "RUN_TRIALS", (5,) * 12)
        patch.setattr(nsd, "SESSIONS", (2,) * 8)
        patch.setattr(mosaic, "GRAYORDINATES", 130)
        patch.setattr(mosaic, "CORTEX", (60, 60))
        patch.setattr(examples, "TRAIN", 48)
        patch.setattr(examples, "TEST", 16)
        share = ("test=0.2",)  # a tenth of 60 images would be fewer than an interval needs
        yield {
            "nsd, volume": Case("nsd", made.write_nsd),
            "nsd, fsaverage": Case("nsd", made.write_nsd_surface, ("resolution=fsaverage",)),
            "algonauts2023": Case("algonauts2023", made.write_algonauts, share, told=True),
            "nod": Case("nod", nod, share, told=True),
            "mosaic": Case("mosaic", made.write_mosaic, told=True),
            "things_fmri": Case("things_fmri", more("things_fmri"), told=True),
            "bold5000": Case("bold5000", more("bold5000"), told=True),
            "god": Case("god", more("god"), told=True),
            "deeprecon": Case("deeprecon", more("deeprecon"), told=True),
            "things_eeg2": Case("things_eeg2", eeg),
            "things_meg": Case("things_meg", meg),
            "folder": Case("folder", example("folder")),
            "bids": Case("bids", example("bids")),
            "epochs": Case("epochs", example("epochs")),
        }


NAMES = ("nsd, volume", "nsd, fsaverage", "algonauts2023", "nod", "mosaic", "things_fmri", "bold5000", "god", "deeprecon",
         "things_eeg2", "things_meg", "folder", "bids", "epochs")  # fmt: skip


def invoke(*arguments: str) -> str:
    """ "" where the command ran, else its one line. A fault that is no DataError is a fault of ours."""
    found = CliRunner().invoke(app, list(arguments))
    if found.exception is None:
        return ""
    if not isinstance(found.exception, DataError):
        raise found.exception
    said = str(found.exception)
    assert len(said.splitlines()) == 1, said
    assert len(said) < 400, said
    return said


def arguments(verb: str, base: list[str], runs: Path, pipeline: Path) -> list[str]:
    if verb == "attribute":
        (run,) = runs.glob("align-*")
        return ["attribute", str(run), "--runs", str(runs)]
    cheap = {
        "describe": ["--permutations", "20", "--pictures", "4", "--top", "5"],
        "reconstruct": ["--pipeline", str(pipeline), "--start", "random", "--steps", "2", "--trials", "2", "--candidates", "1",
                        "--sampling-steps", "2", "--explain", "0"],
        "decode": ["--permutations", "20", "--window", "0.05"],
    }  # fmt: skip
    return [verb, *base, *cheap.get(verb, [])]


def captions_of(case: Case, folder: Path, place: Path) -> Path:
    options = {key: float(value) for key, _, value in (text.partition("=") for text in case.options)}
    ids = load(case.dataset, folder, **options).stimuli.ids
    things = ("boat", "dog", "pizza")
    path = place / "told.json"
    path.write_text(json.dumps({str(name): [f"a red {things[i % 3]} on a table"] for i, name in enumerate(ids)}))
    return path


@pytest.fixture(scope="module")
def pipeline(made_pipeline: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_pipeline.build_pipeline(tmp_path_factory.mktemp("thumb"))


def documented() -> dict[str, list[str]]:
    """The rows of the table in the page: recording -> cells."""
    lines = re.findall(r"^\| `([a-z0-9_, ]+)` \|(.+)\|$", DOCS.read_text(), flags=re.M)
    return {name: [cell.strip() for cell in cells.split("|")] for name, cells in lines if cells.count("|") == len(VERBS) - 1}


@pytest.mark.parametrize("name", NAMES)
def test_every_verb_runs_to_a_page_or_says_in_one_line_why_not(name, cases, pipeline, plain_numbers, tmp_path):
    case, folder, runs = cases[name], tmp_path / "data", tmp_path / "runs"
    if case.dataset not in examples.LAYOUTS:
        folder.mkdir()
    case.write(folder)
    base = ["--dataset", case.dataset, "--data", str(folder), "--runs", str(runs)]
    for option in case.options:
        base += ["--option", option]
    row, told_by = [], None
    for verb in VERBS:
        given = arguments(verb, base, runs, pipeline) if verb != "attribute" or any(runs.glob("align-*")) else None
        said = "there is no alignment" if given is None else invoke(*given)
        if said and verb == "describe" and case.told:
            assert "no captions" in said
            told_by = captions_of(case, folder, tmp_path)
            told = invoke(*given, "--captions", str(told_by))
            assert not told, told
            row.append(TOLD)
        else:
            row.append("no" if said else "yes")
    page = tmp_path / "page.html"
    assert invoke("report", str(runs), "--out", str(page)) == ""
    assert all(place.name in page.read_text() for place in runs.glob("*-*") if (place / "result.json").is_file())
    recorded = (case.dataset, folder, case.options)
    recounts = {
        "encode": lambda: plain_numbers.encoding(*recorded, runs),
        "align": lambda: plain_numbers.ranks(runs),
        "attribute": lambda: plain_numbers.attribution(runs) if row[0] == "yes" else None,  # maps over voxels
        "describe": lambda: plain_numbers.description(*recorded, runs, told_by),
        "reconstruct": lambda: plain_numbers.reconstruction(*recorded, runs),
        "decode": lambda: plain_numbers.time_course(*recorded, runs),
    }
    for verb, cell in zip(VERBS, row, strict=True):
        if cell != "no":
            recounts[verb]()
    shown = documented().get(name)
    assert shown == row, f"docs/recordings.md has another row; it is\n| `{name}` | {' | '.join(row)} |"


def test_the_page_lists_every_recording_of_this_test():
    assert list(documented()) == list(NAMES)
