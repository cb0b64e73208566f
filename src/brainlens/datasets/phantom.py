"""The phantom as a recording: drawn scenes, the shipped miniature CLIP, simulated fMRI of one subject.

    from brainlens.datasets import phantom
    recording = phantom.load(n_train=1200, n_test=200)
    network = phantom.features(recording.stimuli)     # the layers that the voxels read; network["image"] is the embedding

The mismatched phantom is the same recording with a brain that is less like the methods: it reads a network of its own
(`brain_network`), sees photographs (`pictures`), and is not linear, late, warped and in motion (`phantom.mismatch`).

It is a simulation: say so in every figure made with it. Truth stands in `responses.units` and `stimuli.table`;
`recording.truth` is the generative model itself, for the ideal observer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainlens.datasets.surface_labels import field_template
from brainlens.phantom.fmri import LINEAR, PhantomTruth, make_trials, phantom_truth, simulate
from brainlens.phantom.mismatch import Mismatch
from brainlens.phantom.noise import KAPPA
from brainlens.phantom.scenes import make_scenes
from brainlens.types import DataError, Features, Recording, Stimuli

DEGREES = 4.2  # from the point of fixation to the edge of the picture, as in NSD
FACTS = {
    "name": "phantom",
    "title": "brainlens phantom: simulated fMRI of drawn scenes with known truth",
    "kind": "fMRI",
    "measure": "fMRI betas (simulated)",
    "simulated": True,
    "several_subjects": True,
    "offers": ("pictures", "captions", "coordinates", "split"),
    "subjects": "1, 2, 3, ... (any number)",
    "space": "FSL MNI152, 4 mm (46, 55, 46) or 2 mm (91, 109, 91); fsaverage5 with option retinotopy",
    "licence": "MIT",
    "citation": "brainlens",
    "url": "",
    "needs": "nothing: it is drawn and simulated on the spot",
}


def load(
    cache: str | Path | None = None,
    *,
    n_train: int = 1200,
    n_validation: int = 0,
    n_test: int = 200,
    grid: str = "4mm",
    subject: int = 1,
    seed: int = 0,
    kappa: float = KAPPA,
    concepts: str = "domains",
    pictures: tuple[str, ...] | None = None,
    brain_network: str | None = None,
    nonlinearity: float = 1.0,
    haemodynamics: float = 0.0,
    warp: float = 0.0,
    motion: float = 0.0,
    retinotopy: str | None = None,
    degrees: float = DEGREES,
) -> Recording:
    """Trials of one simulated subject, every picture three times, and the pictures.

    Test scenes show combinations of kind, colour and background that no training scene shows. The scenes depend on the
    seed and not on the subject, so subjects see the same pictures. cache: folder in which features are kept. concepts: what
    category voxels prefer, "domains" or "kinds" (with columns `kind` and `kind2` in the units). pictures: folders of
    photographs in place of scenes. brain_network: the folder of a network that the voxels read in place of the miniature, or
    "untrained:SEED". nonlinearity, haemodynamics, warp, motion: see `phantom.mismatch`; off by default. retinotopy: a folder with
    the maps of a retinotopic template on fsaverage (lh.*angle*, lh.*eccen*, lh.*area*, perhaps lh.*sigma*, and the right ones):
    the brain is then the fsaverage5 surface and its fields are the template's, for a picture of so many `degrees` from its middle
    to its edge (4.2: NSD).

    Raises DataError where the training set is empty, or the miniature CLIP is missing.
    """
    mismatch = Mismatch(nonlinearity, haemodynamics, warp, motion)
    stimuli = shown(n_train=n_train, n_validation=n_validation, n_test=n_test, seed=seed, pictures=pictures)
    network = features(stimuli, cache=cache)
    known = truth(
        stimuli, network, grid=grid, subject=subject, seed=seed, kappa=kappa, concepts=concepts, mismatch=mismatch,
        retinotopy=retinotopy, degrees=degrees, brain=brain_features(brain_network, stimuli, cache=cache),
    )  # fmt: skip
    return Recording(simulate(known, make_trials(stimuli, subject=subject, seed=seed)), stimuli, known)


def options_of(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The options of `load` taken apart: cache, pictures and brain_network, and the arguments of `truth`. Raises DataError."""
    first = {name: given.get(name) for name in ("cache", "pictures", "brain_network")}
    rest = {name: value for name, value in given.items() if name not in first}
    parts = {field.name: rest.pop(field.name) for field in fields(Mismatch) if field.name in rest}
    return first, {**rest, "mismatch": Mismatch(**parts)}


def shown(
    *, n_train: int = 1200, n_validation: int = 0, n_test: int = 200, seed: int = 0, pictures: tuple[str, ...] | None = None
) -> Stimuli:
    """What the subjects see, with the column `split`: drawn scenes, or photographs from folders.

    A folder is one of pictures (see `picture_folder`) or that of the 92 images. Which photographs are of the test is drawn
    with the seed; captions are used where every photograph has one. Raises DataError for too few photographs.
    """
    if not pictures:
        return scenes(n_train=n_train, n_validation=n_validation, n_test=n_test, seed=seed)
    found = photographs(tuple(pictures))
    if n_test + n_validation + 20 > len(found):
        raise DataError(
            f"phantom: {len(found)} photographs leave fewer than 20 for training beside {n_test + n_validation} of test and "
            f"validation; name more folders or lower --test"
        )
    order = np.random.default_rng([seed, 53]).permutation(len(found))
    sizes = {"test": n_test, "validation": n_validation, "train": n_train}
    split = np.repeat([*sizes, ""], [*sizes.values(), len(found)])[: len(found)]
    rows = pd.Series(split, index=order).sort_index()
    chosen = found.take(found.ids[(rows != "").to_numpy()])
    table = chosen.table.assign(split=rows[rows != ""].to_numpy(dtype=str))
    return Stimuli(chosen.ids, chosen.images, chosen.captions, table)


def photographs(folders: tuple[str, ...]) -> Stimuli:
    """The pictures of several folders in one table; ids are FOLDER/NAME."""
    from brainlens.datasets import images92
    from brainlens.datasets.source import picture_folder

    parts = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise DataError(f"phantom: the folder of pictures {str(folder)!r} is not found")
        parts[folder.name] = (images92.load_stimuli if (folder / images92.FILE).exists() else picture_folder)(folder)
    if len(parts) < len(folders):
        raise DataError(f"phantom: two folders of pictures have the same name: {', '.join(folders)}")
    captions = [caption for part in parts.values() for caption in part.captions]
    return Stimuli(
        np.array([f"{name}/{each}" for name, part in parts.items() for each in part.ids]),
        [image for part in parts.values() for image in part.images],
        captions if all(captions) else [],
        pd.DataFrame({"folder": np.repeat(list(parts), [len(part) for part in parts.values()])}),
    )


def brain_features(
    name: str | None, stimuli: Stimuli, *, cache: str | Path | None = None, device: str = "cpu"
) -> Features | None:
    """The layers of the brain's own network on a grid of 8 x 8 tokens; None where it reads the network that is decoded."""
    from brainlens.backbones.layers import extract_layers

    return None if name is None else extract_layers(name, stimuli, cache=cache, device=device)


def scenes(*, n_train: int = 1200, n_validation: int = 0, n_test: int = 200, seed: int = 0) -> Stimuli:
    """The scenes of all splits in one table with the column `split`."""
    if n_train < 1 or n_validation < 0 or n_test < 0:
        raise DataError(f"phantom: n_train {n_train}, n_validation {n_validation}, n_test {n_test}: at least one training scene")
    wanted = {"train": n_train, "validation": n_validation, "test": n_test}
    parts = {name: make_scenes(n, seed=seed, split=name) for name, n in wanted.items() if n}
    table = pd.concat([part.table.assign(split=name) for name, part in parts.items()], ignore_index=True)
    return Stimuli(
        np.concatenate([part.ids for part in parts.values()]),
        np.concatenate([part.images for part in parts.values()]),
        [caption for part in parts.values() for caption in part.captions],
        table,
    )


def features(stimuli: Stimuli, *, cache: str | Path | None = None) -> Features:
    """The miniature CLIP's vision layers of these scenes, float16: global and spatial tokens; layer "image" is the embedding."""
    from brainlens import miniatures
    from brainlens.backbones import vision

    return vision.extract(vision.load(miniatures.folder("clip")), stimuli, batch=128, cache=cache)


def texts(stimuli: Stimuli) -> Features:
    """The miniature CLIP's caption embeddings, layer "text": the mean over the phrasings of each scene, of length 1."""
    from brainlens import miniatures
    from brainlens.backbones import clip

    return clip.embed_texts(clip.load_clip(miniatures.folder("clip")), stimuli.captions, stimuli.ids)


def truth(
    stimuli: Stimuli,
    network: Features | None = None,
    *,
    grid: str = "4mm",
    subject: int = 1,
    seed: int = 0,
    kappa: float = KAPPA,
    concepts: str = "domains",
    mismatch: Mismatch = LINEAR,
    brain: Features | None = None,
    retinotopy: str | None = None,
    degrees: float = DEGREES,
) -> PhantomTruth:
    """The generative model behind `load` with the same arguments; network: `features(stimuli)` if it is there already.

    brain: the layers that the voxels read where they are of another network; the target of decoding is that of `network`.
    Raises DataError for a grid or degrees that do not apply.
    """
    if retinotopy is not None and grid != "4mm":
        raise DataError(f"phantom: grid {grid} is of voxels, and option retinotopy makes the brain a surface; give one of them")
    if retinotopy is None and degrees != DEGREES:
        raise DataError("phantom: degrees says how large the picture is for the fields of retinotopy; give both or neither")
    network = features(stimuli) if network is None else network
    target = None if brain is None else np.asarray(network["image"], dtype=np.float64)
    return phantom_truth(
        stimuli, network if brain is None else brain, subject=subject, grid=grid, kappa=kappa, seed=seed, concepts=concepts,
        mismatch=mismatch, target=target, template=None if retinotopy is None else field_template(retinotopy, degrees),
    )  # fmt: skip
