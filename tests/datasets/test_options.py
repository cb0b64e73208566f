"""What a dataset offers and can be asked for: facts that hold, options from signatures, names that stay in one room."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import brainlens
from brainlens import datasets
from brainlens.datasets.loader_options import Option, parse_texts, read_options
from brainlens.datasets.runs import source_of
from brainlens.datasets.sensors import open_sensors
from brainlens.datasets.source import OWN, Source, open_recording
from brainlens.types import DataError, Recording, Result

ROOT = Path(brainlens.__file__).parent


# --- facts


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_facts_say_what_kind_and_what_is_offered(name) -> None:
    facts = datasets.facts(name)
    assert facts["kind"] in datasets.KINDS
    assert isinstance(facts["measure"], str)
    assert facts["simulated"] == (name in datasets.SIMULATED) == datasets.simulated(name)
    assert isinstance(facts["several_subjects"], bool)
    assert set(facts["offers"]) <= set(datasets.OFFERS)
    assert all(datasets.offers(name, what) == (what in facts["offers"]) for what in datasets.OFFERS)


def holds(name: str, recording: Recording, folder: Path | None) -> set[str]:
    """What of OFFERS a loaded recording has."""
    responses, stimuli = recording.responses, recording.stimuli
    found = {"split"} if {"train", "test"} <= set(responses.trials.get("split", ())) else set()
    found |= {"runs"} if "run" in responses.trials.columns else set()
    found |= {"captions"} if any(stimuli.captions) and "category" not in stimuli.table.columns else set()
    found |= {"categories"} if "category" in stimuli.table.columns else set()
    found |= {"coordinates"} if {"x", "y", "z"} <= set(responses.units.columns) else set()
    found |= {"dissimilarities"} if hasattr(datasets.module(name), "subject_rdms") else set()
    try:
        assert np.asarray(stimuli.images[0]).ndim == 3
        found |= {"pictures"}
    except DataError:
        pass
    return found


@pytest.mark.parametrize("name", datasets.SIMULATED)
def test_the_simulations_hold_what_their_facts_say(name) -> None:
    recording = datasets.load(name, n_train=40, n_test=20)
    assert holds(name, recording, None) == set(datasets.facts(name)["offers"])
    assert recording.truth is not None


@pytest.mark.realdata
@pytest.mark.parametrize("name", ["haxby2001", "images92", "eeglab_visual", "digits69"])
def test_the_recordings_hold_what_their_facts_say(test_data, name) -> None:
    recording = datasets.load(name, test_data / name)
    assert holds(name, recording, test_data / name) == set(datasets.facts(name)["offers"])
    assert recording.truth is None


def test_what_no_dataset_offers_is_refused() -> None:
    with pytest.raises(DataError, match="'smell'; choose from pictures, captions"):
        datasets.offers("phantom", "smell")
    assert not datasets.simulated("pictures")  # a folder of pictures is no dataset, and no simulation


# --- names


def names_in(path: Path) -> list[str]:
    """Text constants of a module that name a recording, not a layout; docstrings are never that short."""
    constants = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Constant)]
    return [
        f"line {node.lineno}: {node.value}" for node in constants if node.value in set(datasets.DATASETS) - set(datasets.MARKS)
    ]


@pytest.mark.parametrize(
    "path", [p for p in sorted(ROOT.rglob("*.py")) if p.parent != ROOT / "datasets"], ids=lambda p: p.relative_to(ROOT).as_posix()
)
def test_only_the_room_of_datasets_calls_them_by_name(path) -> None:
    assert not names_in(path), f"{path.name}: {names_in(path)}; ask datasets.facts, offers or simulated"


def test_the_search_for_names_finds_them(tmp_path) -> None:
    (tmp_path / "a.py").write_text('"""phantom_eeg is named here."""\nif source == "phantom":\n    pass\n')
    assert names_in(tmp_path / "a.py") == ["line 2: phantom"]


# --- options


@pytest.mark.parametrize("name", datasets.DATASETS)
def test_every_option_of_every_loader_is_listed_and_its_default_can_be_written(name) -> None:
    known = datasets.options(name)
    parameters = inspect.signature(datasets.module(name).load).parameters
    surface = ["surface", "atlas", "retinotopy"] if datasets.facts(name).get("surface") else []
    assert list(known) == [p for p in parameters if p != "folder"] + surface
    for option in known.values():
        assert option.name in str(option)
        text = str(option).rpartition("default ")[2].rstrip(")")
        assert datasets.parse_options(name, [f"{option.name}={text}"]) == {option.name: option.default}


def test_options_have_the_types_of_the_signature() -> None:
    parsed = datasets.parse_options("nod", ["sessions=imagenet01,imagenet02", "zscore=no"])
    assert parsed == {"sessions": ("imagenet01", "imagenet02"), "zscore": False}
    assert datasets.parse_options("nsd", ["n_sessions=3", "betas=betas_assumehrf", "cache = somewhere"]) == {
        "n_sessions": 3,
        "betas": "betas_assumehrf",
        "cache": "somewhere",
    }
    assert datasets.parse_options("eeglab_visual", ["window=-0.1,0.5", "highpass=none"]) == {
        "window": (-0.1, 0.5),
        "highpass": None,
    }
    assert datasets.parse_options("nsd", []) == {}


WRONG = [
    ("nsd", ["mask"], "option 'mask' is not name=value; options are subject"),
    ("nsd", ["colour=red"], r"has no option 'colour'; options are .*zscore \(text; default strict\)"),
    ("nsd", ["n_sessions=many"], r"n_sessions='many' is not whole number or none; options are"),
    ("nsd", ["n_sessions="], "n_sessions='' is not whole number"),
    ("nod", ["zscore=maybe"], "zscore='maybe' is not true or false"),
    ("things_meg", ["window=0"], "window='0' is not a,b of number"),
    ("things_meg", ["window=0,1,2"], "window='0,1,2' is not a,b of number"),
    ("things_meg", ["window=0,a"], "window='0,a' is not a,b of number"),
    ("nsd", ["mask=a", "mask=b"], "option 'mask' is given twice"),
    ("nope", ["mask=a"], "dataset 'nope' is not known"),
]


@pytest.mark.parametrize(("name", "texts", "match"), WRONG)
def test_wrong_options_are_one_line_that_lists_them(name, texts, match) -> None:
    with pytest.raises(DataError, match=match) as caught:
        datasets.parse_options(name, texts)
    assert len(str(caught.value).splitlines()) == 1


def test_any_signature_can_be_read() -> None:
    def load(folder: str, *, a: int = 1, b: Sequence[int] = (1, 2), c: tuple[str, ...] = (), d: Path | None = None) -> None:
        pass

    known = read_options(load)
    assert known["b"] == Option("b", Sequence[int], (1, 2))
    assert parse_texts("it", known, ["b=3,4", "a=7", "d=x/y", "c=u"]) == {"a": 7, "b": (3, 4), "c": ("u",), "d": Path("x/y")}
    with pytest.raises(DataError, match="options are none"):
        parse_texts("it", {}, ["a=1"])


# --- options on their way


def test_options_reach_the_loader_and_the_run_folder(test_data) -> None:
    source = Source("images92", test_data / "images92", options={"source": "monkey", "rank": 5})
    opened = open_recording(source, embeddings=False)
    assert opened.responses.data.shape == (92, 5)
    stored = Result("encode", {}, config=source.config())
    assert source_of(stored) == source


def test_options_of_the_phantom_act(monkeypatch) -> None:
    from brainlens.datasets import phantom
    from brainlens.phantom.mismatch import Mismatch

    seen = {}

    class Stop(Exception):
        pass

    def truth(stimuli, network, **options):
        seen.update(options)
        raise Stop

    monkeypatch.setattr(phantom, "truth", truth)
    with pytest.raises(Stop):
        open_recording(Source(n_train=20, n_test=10, options={"grid": "2mm", "kappa": 0.5}))
    assert seen.pop("brain") is None  # the voxels read the network that is decoded
    assert seen.pop("mismatch") == Mismatch()
    assert seen == {"grid": "2mm", "kappa": 0.5, "subject": 1, "seed": 0}


def test_options_of_the_eeg_phantom_act(tmp_path) -> None:
    def opened(**options):
        source = Source("phantom_eeg", n_train=40, n_test=20, options=options)
        return open_sensors(source, repeats=2, cache=tmp_path, tell=lambda text, share=None: None)

    whitened, plain = opened(), opened(whiten=False)
    assert whitened.responses.measure == "z"
    assert plain.responses.measure == "uV"
    with pytest.raises(DataError, match="given by --repeats and --amplitude"):
        opened(amplitude=2.0)


@pytest.mark.parametrize("name", sorted(OWN))
def test_what_a_source_holds_itself_is_no_option(name) -> None:
    with pytest.raises(DataError, match=f"option '{name}' of 'phantom' is given by") as caught:
        Source(options={name: 1})
    assert len(str(caught.value).splitlines()) == 1


def test_options_that_do_not_exist_and_folders_that_are_not_read_are_refused(tmp_path) -> None:
    with pytest.raises(DataError, match="'phantom' has no option 'colour'; it has cache, n_train"):
        open_recording(Source(n_train=20, n_test=10, options={"colour": "red"}))
    with pytest.raises(DataError, match="reads no folder"):
        datasets.load("phantom", tmp_path)
