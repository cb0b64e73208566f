"""Labels and retinotopic maps of a cortical surface from files: what atlas region a vertex is in, where in the picture it looks.

Formats: FreeSurfer .annot, .mgz and .mgh; GIFTI .label.gii, .func.gii and .shape.gii; CIFTI .dlabel.nii with both hemispheres in
one. Wang et al. 2015, Benson et al. 2014 and Glasser et al. 2016 come in these; nothing is downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from brainlens.datasets.surface_files import SIDES as CORTEX
from brainlens.datasets.surface_files import read_mgh
from brainlens.datasets.surface_places import surface_coordinates
from brainlens.phantom.cortex import MESH, VERTICES, FieldTemplate
from brainlens.subjects import region_of
from brainlens.types import DataError, Responses, Surface, check_expansion, check_gifti, read_lines, reading
from brainlens.types.spaces import MESHES

SIDES = ("left", "right")
# Numbers in the maximum probability map of Wang et al. 2015 and among the areas of Benson's template, version 4, which are not
# named in their files.
WANG = (
    "V1v", "V1d", "V2v", "V2d", "V3v", "V3d", "hV4", "VO1", "VO2", "PHC1", "PHC2", "MST", "hMT", "LO2", "LO1", "V3b", "V3a",
    "IPS0", "IPS1", "IPS2", "IPS3", "IPS4", "IPS5", "SPL1", "hFEF",
)  # fmt: skip
BENSON = ("V1", "V2", "V3", "hV4", "VO1", "VO2", "LO1", "LO2", "TO1", "TO2", "V3b", "V3a")
NUMBERED = {"wang15_mplbl": WANG, "benson14_varea": BENSON}
NAMELESS = ("unknown", "???", "medial_wall", "none", "0")


def read_labels(files: Sequence[str | Path], space: Surface) -> np.ndarray:
    """The label of each unit of a surface (unit,) str, "" where there is none.

    files: (left, right), or one CIFTI file of both. Numbers of .mgz files are named by `FILE.ctab` beside it, by the tables of
    Wang 2015 and Benson 2014 where the file is theirs, else they stay numbers. Raises DataError for missing files, other
    formats and files of another mesh.
    """
    out = np.full(len(space), "", dtype=object)
    for side, values in zip(SIDES, _sides(files, space, _labels), strict=True):
        here = space.hemisphere == side
        out[here] = values[np.asarray(space.vertex)[here]]
    return np.array(["" if str(name).lower() in NAMELESS else str(name) for name in out], dtype=object)


def read_values(files: Sequence[str | Path], space: Surface) -> np.ndarray:
    """The number that each unit of a surface has in a map (unit,) float64: files as in `read_labels`, of numbers."""
    out = np.full(len(space), np.nan)
    for side, values in zip(SIDES, _sides(files, space, _numbers), strict=True):
        here = space.hemisphere == side
        out[here] = values[np.asarray(space.vertex)[here]]
    return out


def visual_field(angle: np.ndarray, eccentricity: np.ndarray, hemisphere: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) in degrees, right and up, of a template's polar angle (0 up, 180 down, degrees) and eccentricity; NaN outside of it.

    angle, eccentricity, hemisphere and what is returned: (vertex,).

        x = +- eccentricity sin(angle),   y = eccentricity cos(angle)

    The left hemisphere looks to the right. Where angle and eccentricity are both 0, or one is missing, there is no field
    (Benson et al. 2014, whose angles are of the own half of the field in both hemispheres). Angles of another convention, below 0
    or above 180, raise DataError.
    """
    wrong = angle[np.isfinite(angle) & ((angle < -1e-2) | (angle > 180 + 1e-2))]
    if len(wrong):
        raise DataError(f"polar angle {wrong[0]:g} is outside 0 (up) to 180 (down) degrees; give the template's own angles")
    turn = np.where(
        np.isfinite(angle) & np.isfinite(eccentricity) & ((eccentricity > 0) | (angle > 0)), np.deg2rad(angle), np.nan
    )
    side = np.where(hemisphere == "left", 1.0, -1.0)
    return side * eccentricity * np.sin(turn), eccentricity * np.cos(turn)


def with_atlas(responses: Responses, files: Sequence[str]) -> Responses:
    """Responses whose column `roi` holds the labels of an atlas; what stood there is kept as `roi_given`."""
    space = _surface(responses, "atlas")
    units = responses.units
    kept = {"roi_given": units["roi"]} if "roi" in units.columns else {}
    return replace(responses, units=units.assign(**kept, roi=read_labels(files, space)))


def with_reference(responses: Responses, folder: str | Path) -> Responses:
    """Responses whose units have `reference_x`, `reference_y` in degrees, from the maps *angle* and *eccen* of a folder."""
    space = _surface(responses, "retinotopy")
    x, y = _looked_at(Path(folder), space)
    return replace(responses, units=responses.units.assign(reference_x=x, reference_y=y))


def field_template(folder: str | Path, degrees: float) -> FieldTemplate:
    """The template of a folder, as the phantom's brain takes it: angle, eccentricity, area, and sigma where there is such a map.

    Files are of fsaverage5, or of a finer fsaverage, whose first vertices are those of fsaverage5. degrees: from the point of
    fixation to the edge of the picture. Raises DataError for missing maps and other meshes.
    """
    place = Path(folder)
    length = len(_numbers(_map(place, "angle")[0]))
    mesh = next((name for name, count in MESHES.items() if count == length and name.startswith("fsaverage")), None)
    if mesh is None:
        raise DataError(f"{place}: maps of {length:,} vertices a hemisphere are of no fsaverage; bring them to fsaverage5")
    space = Surface(mesh, np.repeat(SIDES, VERTICES), np.tile(np.arange(VERTICES), 2))
    x, y = _looked_at(place, space)
    size = read_values(_map(place, "sigma"), space) if any(place.glob("lh.*sigma*")) else None
    area = np.array([region_of(name) for name in read_labels(_map(place, "area"), space)], dtype=object)
    places = surface_coordinates(replace(space, mesh=MESH))
    assert places is not None  # fsaverage5 comes with nilearn
    return FieldTemplate(area, x, y, places, size, degrees)


def _looked_at(place: Path, space: Surface) -> tuple[np.ndarray, np.ndarray]:
    """(x, y) in degrees (unit,), see `visual_field`, by the maps of a folder."""
    angle, eccentricity = (read_values(_map(place, what), space) for what in ("angle", "eccen"))
    return visual_field(angle, eccentricity, space.hemisphere)


def _map(place: Path, what: str) -> list[Path]:
    """The file of the left and that of the right hemisphere whose names hold a word."""
    files = [sorted(path for path in place.glob(f"{start}.*{what}*") if path.suffix != ".ctab") for start in ("lh", "rh")]
    if not all(len(one) == 1 for one in files):
        raise DataError(f"{place}: one lh.*{what}* and one rh.*{what}* are needed, found {[len(one) for one in files]}")
    return [one[0] for one in files]


def _surface(responses: Responses, option: str) -> Surface:
    if not isinstance(responses.space, Surface):
        raise DataError(f"option {option}: these responses lie on no surface; leave it out")
    return responses.space


def _sides(files: Sequence[str | Path], space: Surface, read: Any) -> list[np.ndarray]:
    """What `read` finds in the files, one array (vertex,) a hemisphere, each held against the mesh."""
    places = [Path(file) for file in files]
    for place in places:
        if not place.is_file():
            raise DataError(f"{place} is missing; an atlas is a file for the left and one for the right hemisphere, or one CIFTI")
    count = MESHES.get(space.mesh)
    if len(places) == 1 and places[0].name.endswith((".dlabel.nii", ".dscalar.nii")):
        found = _cifti(places[0], names=read is _labels)
    elif len(places) == 2:
        found = [read(place) for place in places]
    else:
        raise DataError(f"{len(places)} files are given; a left and a right one are needed, or one .dlabel.nii of both")
    for place, values in zip(places * 2 if len(places) == 1 else places, found, strict=True):
        if count is not None and len(values) != count:
            raise DataError(
                f"{place} has {len(values):,} vertices a hemisphere, {space.mesh} has {count:,}; bring it to that mesh"
            )
    return found


def _labels(path: Path) -> np.ndarray:
    """Names of the vertices of one hemisphere (vertex,)."""
    nib: Any = import_module("nibabel")
    known: dict[int, str]
    if path.suffix == ".annot":
        with reading(path):
            number, _, names = nib.freesurfer.read_annot(path)
        known = dict(enumerate(name.decode("utf-8", "replace") for name in names))
    elif path.suffix in (".mgz", ".mgh"):
        number, known = _whole(read_mgh(path)[:, 0]), _table(path)
    elif path.suffix == ".gii":
        check_gifti(path)
        with reading(path):
            image = nib.load(path)
        number, known = _whole(image.darrays[0].data), image.labeltable.get_labels_as_dict()
    else:
        raise DataError(f"{path} is no .annot, .label.gii, .mgz, .mgh or .dlabel.nii, which hold labels of vertices")
    return np.array([known.get(int(v), str(int(v))) if v > 0 or (v == 0 and 0 in known) else "" for v in number], dtype=object)


def _whole(values: np.ndarray) -> np.ndarray:
    """Label numbers of a file, where NaN is none."""
    return np.where(np.isfinite(values), values, -1).astype(int)


def _table(path: Path) -> dict[int, str]:
    """number -> name of a label file without names of its own: `FILE.ctab` beside it, else a published table."""
    table = path.with_name(f"{path.name}.ctab")
    if table.is_file():
        parts = [line.split() for line in read_lines(table)]
        return {int(part[0]): part[1] for part in parts if len(part) >= 2 and part[0].isdecimal()}
    known: tuple[str, ...] = next((names for start, names in NUMBERED.items() if start in path.name), ())
    return dict(enumerate(known, start=1))


def _numbers(path: Path) -> np.ndarray:
    """Numbers of the vertices of one hemisphere (vertex,)."""
    nib: Any = import_module("nibabel")

    if path.suffix in (".mgz", ".mgh"):
        return read_mgh(path)[:, 0].astype(np.float64)
    if path.suffix == ".gii":
        check_gifti(path)
        with reading(path):
            return np.asarray(nib.load(path).darrays[0].data, dtype=np.float64)
    raise DataError(f"{path} is no .mgz, .mgh or .gii, which hold numbers of vertices")


def _cifti(path: Path, *, names: bool) -> list[np.ndarray]:
    """Names or numbers of both hemispheres of a CIFTI file, each (vertex,); "" or NaN where it has no vertex."""
    nib: Any = import_module("nibabel")

    with reading(path, fault="is damaged or holds no cortical surfaces"):
        with nib.imageglobals.LoggingOutputSuppressor():
            image = nib.load(path)
        check_expansion(path, math.prod(image.shape) * 8.0)
        values, axis = np.asarray(image.dataobj)[0], image.header.get_axis(1)
        rows = image.header.get_axis(0)
        table = {k: name for k, (name, _) in rows.label[0].items()} if names else {}
        found = []
        structures = {name: (where, model) for name, where, model in axis.iter_structures()}
        for structure, _ in CORTEX:
            where, model = structures[structure]
            out = np.full(model.nvertices[structure], "" if names else np.nan, dtype=object if names else np.float64)
            here = values[where]
            out[model.vertex] = [table.get(int(v), str(int(v))) for v in here] if names else here
            found.append(out)
    return found
