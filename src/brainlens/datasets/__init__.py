"""Where recordings come from: one file a dataset, each with `load(folder, ...) -> Recording` and `FACTS`.

    recording = datasets.load("haxby2001", "path/to/haxby2001", mask="vt")
    recording.responses, recording.stimuli, recording.truth     # the truth of a simulation, else None

Only here are recordings called by name; everywhere else their FACTS decide: `kind` (fMRI, EEG or MEG), `simulated`,
`several_subjects` in one space, and what they `offer` (see OFFERS).
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the command line takes its defaults from here, and `--help` waits for no table library
    from brainlens.datasets.loader_options import Option
    from brainlens.types import Recording

DATASETS = (
    "phantom",
    "phantom_eeg",
    "haxby2001",
    "images92",
    "nsd",
    "algonauts2023",
    "things_eeg2",
    "things_meg",
    "things_fmri",
    "bold5000",
    "god",
    "deeprecon",
    "nod",
    "eeglab_visual",
    "digits69",
    "folder",
    "epochs",
    "bids",
    "insilico",
    "mosaic",
)
SIMULATED = ("phantom", "phantom_eeg")  # these need no folder
DEFAULT = "phantom"  # what a command opens where no recording is named
DEFAULT_SENSORS = "phantom_eeg"  # the same for EEG and MEG
DEFAULT_EPOCHS = "epochs"  # and for a recording to be cut into epochs: the layout of one's own
KINDS = ("fMRI", "EEG", "MEG")
READ_BY = {
    "fMRI": "encode, align, attribute, reconstruct, describe",
    "EEG": "decode, align, attribute",
    "MEG": "decode, align, attribute",
}
OFFERS = {
    "pictures": "the images seen can be opened",
    "captions": "the images have captions",
    "categories": "the stimuli have the column category",
    "coordinates": "units have x, y, z in mm",
    "dissimilarities": "`subject_rdms(folder)` gives those of single subjects, patterns are known up to a rotation",
    "runs": "trials have the column run, and runs that can be left out",
    "split": "trials are of training or of the test",
}


MARKS = {  # a file that only one layout of one's own has, by which `recognised` tells it
    "bids": ("dataset_description.json",),
    "folder": ("trials.csv", "trials.tsv"),
    "epochs": (
        "events.csv",
        "events.tsv",
        "channels.csv",
        "channels.tsv",
        "*-epo.fif",
        "*_epo.fif",
        "*-epo.fif.gz",
        "*_epo.fif.gz",
    ),
    "mosaic": ("sub-*_*.hdf5",),
}


def recognised(folder: str | Path) -> str:
    """The layout of one's own that a folder is in, by the files of MARKS. Raises DataError where it is none or several."""
    from brainlens.types import DataError

    place = Path(folder)
    if not place.is_dir():
        raise DataError(f"{place} is not a folder; name the one that holds the recording")
    found = [name for name, marks in MARKS.items() if name in DATASETS and any(any(place.glob(mark)) for mark in marks)]
    if found == ["folder", "epochs"] and any(any(place.glob(f"channels.{kind}")) for kind in ("csv", "tsv")):
        return "epochs"  # an array of epochs has trials.csv, too
    if len(found) != 1:
        which = f"could be {' or '.join(found)}" if found else f"is in none of the layouts {', '.join(MARKS)}"
        raise DataError(f"{place} {which}: say which recording it is by --dataset NAME; `brainlens datasets` lists the names")
    return found[0]


def check_name(name: str) -> None:
    """Raises DataError listing the known names for a dataset that there is not."""
    from brainlens.types import DataError

    if name not in DATASETS:
        raise DataError(f"dataset {name!r} is not known; choose one of {', '.join(DATASETS)}")


def check_kind(name: str, verb: str, kinds: Sequence[str]) -> None:
    """Raises DataError, which says who reads it, for a recording of a kind that a verb does not read."""
    from brainlens.types import DataError

    kind = str(facts(name)["kind"])
    if kind not in kinds:
        raise DataError(f"{verb} reads {' and '.join(kinds)}, and {name} is {kind}; it is read by {READ_BY[kind]}")


def module(name: str) -> ModuleType:
    """The module of a dataset. Raises DataError listing the known names."""
    check_name(name)
    return importlib.import_module(f"brainlens.datasets.{name}")


def facts(name: str) -> dict[str, Any]:
    """Name, kind, what it offers, licence, citation, address and sizes of a dataset."""
    return dict(module(name).FACTS)


def simulated(name: str) -> bool:
    """Whether a recording of this name is a simulation; False for names that are not known."""
    return name in SIMULATED


def offers(name: str, what: str) -> bool:
    """Whether a dataset offers something of OFFERS. Raises DataError for what is not in there."""
    from brainlens.types import DataError

    if what not in OFFERS:
        raise DataError(f"no dataset says whether it offers {what!r}; choose from {', '.join(OFFERS)}")
    return what in module(name).FACTS["offers"]


def options(name: str) -> dict[str, Option]:
    """The options of a dataset's `load` by name, each with its type and default, read from the signature."""
    from brainlens.datasets.loader_options import Option, read_options

    shared = [  # not of a loader but of all on a surface: where vertices lie, an atlas of regions, a retinotopic template
        Option("surface", str, "inflated"),
        Option("atlas", tuple[str, ...] | None, None),
        Option("retinotopy", str | None, None),
    ]
    known = read_options(module(name).load)
    return known | ({option.name: option for option in shared} if module(name).FACTS.get("surface") else {})


def parse_options(name: str, texts: Sequence[str]) -> dict[str, Any]:
    """Options of a dataset from texts such as "sessions=imagenet01,imagenet02", "mask=vt" or "cache=none".

    Raises DataError for texts without =, options that are not known or given twice, and values of another type.
    """
    from brainlens.datasets.loader_options import parse_texts

    return parse_texts(f"dataset {name!r}", options(name), texts)


def check_options(name: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options as they are. Raises DataError for one that the dataset does not have."""
    from brainlens.types import DataError

    known = options(name)
    unknown = [option for option in given if option not in known]
    if unknown:
        raise DataError(f"dataset {name!r} has no option {unknown[0]!r}; it has {', '.join(known)}")
    return dict(given)


def load(name: str, folder: str | Path | None = None, **given: Any) -> Recording:
    """A dataset by name, from its folder (the phantoms need none), with the options of its own `load`.

    folder: may be an address on S3, s3://bucket/folder; it is fetched into the cache, see `store.here`.

    Raises DataError for unknown names and options, and for a folder that is not found or not needed.
    """
    from brainlens import store
    from brainlens.datasets.sealed import check_sealed
    from brainlens.types import DataError, reading

    chosen = module(name).load
    folder = None if folder is None else store.here(folder)
    if not (name in SIMULATED and folder is None) and (folder is None or not Path(folder).exists()):
        raise DataError(f"dataset {name!r}: the folder {str(folder)!r} is not found; name the one that holds the recording")
    check_options(name, given)
    if name == "phantom":
        if folder is not None:
            raise DataError(f"dataset {name!r} is drawn on the spot and reads no folder; leave {str(folder)!r} out")
        return chosen(**given)
    assert folder is not None or name in SIMULATED
    if folder is not None:
        check_sealed(folder)
    shape, atlas, retinotopy = (given.pop(option, None) for option in ("surface", "atlas", "retinotopy"))
    with reading(folder if folder is not None else name, f"`brainlens datasets {name}` says what {name} reads"):
        return _completed(chosen(folder, **given), folder, shape, atlas, retinotopy)


def split_note(name: str, given: Mapping[str, Any]) -> list[str]:
    """What a result says where a recording has no test part of its own and one is drawn; empty for the others, and for what is
    no recording, as a folder of pictures."""
    if name not in DATASETS:
        return []
    known = module(name).FACTS.get("drawn_test")
    if known is None:
        return []
    share, draw = (given.get(key, options(name)[key].default) for key in ("test", "draw"))
    return [
        f"{known}: a share of {share:g} of its images, drawn by number {draw}, is the test; results are not of a published split"
    ]


def _completed(
    recording: Recording,
    folder: str | Path | None,
    shape: str | None,
    atlas: Sequence[str] | None = None,
    retinotopy: str | None = None,
) -> Recording:
    """With whole regions, those of an atlas, and the places of vertices: what every recording gets and no loader does itself."""
    from dataclasses import replace

    from brainlens.datasets.surface_labels import with_atlas, with_reference
    from brainlens.datasets.surface_places import surface_coordinates
    from brainlens.subjects import name_regions
    from brainlens.types import DataError, Surface

    responses = recording.responses
    responses = responses if atlas is None else with_atlas(responses, atlas)
    responses = name_regions(responses if retinotopy is None else with_reference(responses, retinotopy))
    space = responses.space
    if shape is not None and not isinstance(space, Surface):
        raise DataError(f"option surface={shape}: these responses lie on no surface; leave it out")
    if isinstance(space, Surface) and not {"x", "y", "z"} <= set(responses.units.columns):
        places = surface_coordinates(space, shape=shape or "inflated", folder=folder)
        if places is not None:
            units = responses.units.assign(x=places[:, 0], y=places[:, 1], z=places[:, 2])
            responses = replace(responses, units=units)
    return replace(recording, responses=responses)
