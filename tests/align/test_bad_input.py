"""What `align` refuses, in one table: each mistake is one line that names the thing, and what is only odd is counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from brainlens import miniatures, store
from brainlens.align import align
from brainlens.align.run import _warn_of_patches, check_whole_brain
from brainlens.backbones import clip
from brainlens.datasets.source import Source
from brainlens.models.volume.estimators import VolumeAligner
from brainlens.models.volume.presets import preset
from brainlens.models.volume.split import split_tables
from brainlens.models.volume.stored import check_recording, volume_aligner
from brainlens.models.volume.training import AlignmentTraining, train_contrastive
from brainlens.nn.decoding_baselines import ComponentDecoder
from brainlens.nn.losses import info_nce
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.stimuli.captions import CaptionSource, clean_captions, with_source
from brainlens.subjects import join_subjects
from brainlens.types import DataError, Features, Responses, Result, Stimuli, Volume
from brainlens.warned import BrainlensWarning

MASK = np.ones((4, 4, 4), dtype=bool)
HOLED = MASK.copy()
HOLED[0, 0, 0] = False
FEW = AlignmentTraining(steps=4, batch=8, evaluate_every=2, checkpoint_every=2)
DESIGN = VolumeDesign(patch=2, width=8, depth=1, heads=2, embed_dim=6)


def responses(mask: np.ndarray = MASK, *, size: float = 4.0, subject: str = "1", n: int = 40) -> Responses:
    rng = np.random.default_rng(0)
    stimulus = [f"i{i:02d}" for i in range(n)]
    trials = pd.DataFrame({"stimulus": stimulus, "subject": subject, "split": np.where(np.arange(n) < n - 10, "train", "test")})
    data = rng.normal(size=(n, int(mask.sum()))).astype(np.float32)
    return Responses(data, trials, pd.DataFrame(index=range(data.shape[1])), Volume(mask, np.diag([size, size, size, 1])))


def images(n: int = 40, prefix: str = "i") -> Features:
    z = np.random.default_rng(1).normal(size=(n, 6)).astype(np.float32)
    return Features({"image": z}, np.array([f"{prefix}{i:02d}" for i in range(n)]), "made up")


def stored(folder: Path, *, version: str = "") -> Path:
    """A run folder as `align` leaves it; `version` spoils what another version would have written otherwise."""
    one = responses()
    config = {"encoders": ["volume"], "trained_on": ["1"]}
    store.save_result(Result("align", {"x": 1.0}, units=one.units, space=one.space, config=config), folder)
    if version == "no model":
        return folder
    model(one).save(folder / "model")
    if version in ("weights", "design"):
        found = store.load_model(folder / "model")
        entry = found.state["decoder"]["readers"]["both"]
        if version == "weights":
            entry["weights"]["position"] = entry["weights"]["position"][:-1].clone()
        else:
            entry["built"]["design"]["swirl"] = 3
        parts = {"version": found.version, "parameters": found.parameters, "state": found.state}
        store.save_model(folder / "model", model=found.model, **parts)
    return folder


def model(one: Responses) -> VolumeAligner:
    """A transformer as the paper's form has it, after four steps."""
    small = VolumeAligner("small", design=vars(DESIGN), training=vars(FEW))
    return small.fit_split(split_tables(one, images()))


def reopened(folder: Path, recording: Responses) -> VolumeAligner:
    """The model of a run, for a recording."""
    found = volume_aligner(folder)
    check_recording(folder, found, recording)
    return found


def spoiled_training(folder: Path) -> None:
    part = responses()
    part.data[3] = 1e6  # what no reader lets through, so the network itself makes it infinite
    module = ComponentDecoder(64, 6)
    module.register_forward_hook(lambda _, inputs, out: torch.where((inputs[0].abs().amax(1) > 1e3)[:, None], torch.inf, out))
    train_contrastive(module, split_tables(part, images()), replace(FEW, batch=27), folder=folder)


def other_subject(folder: Path) -> None:
    for subject in ("1", "2"):
        torch.manual_seed(0)
        train_contrastive(ComponentDecoder(64, 6), split_tables(responses(subject=subject), images()), FEW, folder=folder)


def other_version(folder: Path) -> None:
    store.save_checkpoint(folder, {"step": 3})
    train_contrastive(ComponentDecoder(64, 6), split_tables(responses(), images()), FEW, folder=folder)


def two_captions(ids: list[str]) -> Stimuli:
    own = Stimuli(np.array(["i00", "i01"]), np.zeros((2, 4, 4, 3), np.uint8))
    return with_source(own, CaptionSource("other", {name: ["x"] for name in ids}))


MISTAKES: dict[str, tuple[Callable[[Path], object], str]] = {
    "another space": (lambda f: reopened(stored(f), responses(size=2.0)), "recording is in another space .* 2 and 4 mm"),
    "another grid": (
        lambda f: reopened(stored(f), responses(np.ones((5, 4, 4), bool))),
        r"grid \(5, 4, 4\) and \(4, 4, 4\)",
    ),
    "another mask": (lambda f: reopened(stored(f), responses(HOLED)), "another mask .* 63 and 64 voxels, 1 in one alone"),
    "other voxels": (lambda f: VolumeEncoder(MASK, DESIGN)(torch.zeros(2, 63)), r"\(2, 63\) is not \(batch, 64 voxels"),
    "two spaces": (lambda f: join_subjects([responses(), responses(size=2.0, subject="2")]), "subject '2' is in another space"),
    "another subject": (
        lambda f: reopened(stored(f), responses(subject="5")),
        "model is of subject 1, the responses are of 5",
    ),
    "a run without a model": (lambda f: reopened(stored(f, version="no model"), responses()), "no model; run `brainlens align`"),
    "weights of another version": (
        lambda f: reopened(stored(f, version="weights"), responses()),
        "another version: position",
    ),
    "design of another version": (lambda f: reopened(stored(f, version="design"), responses()), r"another version.*swirl"),
    "checkpoint of another subject": (other_subject, r"its subjects is \['1'\], this run's \['2'\]"),
    "checkpoint of another version": (other_version, "its version is 1, this run's 2"),
    "other image ids": (
        lambda f: align(responses(), images(prefix="x"), encoders=("ridge",)),
        "image features: .* ids are not found",
    ),
    "other caption ids": (lambda f: two_captions(["x7", "i00"]), "1 of 2 images have none, first 'i01'"),
    "an empty caption": (lambda f: clean_captions([["a cat"], ["  "]], ["i00", "i01"]), "first 'i01'; write one"),
    "a batch of one": (lambda f: info_nce(torch.ones(1, 4), torch.ones(1, 4)), "use at least 2 rows"),
    "a batch of one in training": (lambda f: AlignmentTraining(batch=1), "batch 1 is too small"),
    "more pieces than rows": (
        lambda f: train_contrastive(ComponentDecoder(64, 6), split_tables(responses(), images()), replace(FEW, accumulate=9)),
        "a batch of 8 in 1 processes x 9 pieces",
    ),
    "too few images": (
        lambda f: align(responses(n=13), images(13), encoders=("ridge",)),
        "3 training images leave no validation set",
    ),
    "a loss that is not finite": (spoiled_training, r"loss is (nan|inf) at step 0, in a batch with \['i03'\], trials \[3\]"),
}


@pytest.mark.parametrize("call, words", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_that_names_it(call, words, tmp_path):
    with pytest.raises(DataError, match=words) as error:
        call(tmp_path)
    assert "\n" not in str(error.value)


def test_the_encoder_of_a_run_comes_back_as_it_was(tmp_path):
    found, x = reopened(stored(tmp_path), responses()), np.random.default_rng(3).normal(size=(3, 64))
    assert np.array_equal(found.transform(x), model(responses()).transform(x))


def test_captions_beyond_the_limit_or_said_twice_are_counted():
    network = clip.load_clip(miniatures.folder("clip"))
    said = [["a red car on a beach", "a red car on a beach", " "], ["a dog " * 100]]
    kept, counts = clean_captions(said, ["i00", "i01"])
    assert (counts["repeated"], counts["empty"]) == (1, 1)
    with pytest.warns(BrainlensWarning, match=f"1 of 2 captions are longer than {network.max_tokens} tokens and were cut"):
        clip.embed_texts(network, kept, ["i00", "i01"])


WHOLE = [
    ("paper", ("visual",), None, "error"),
    ("paper", ("V1", "V2"), ["volume"], "error"),
    ("small", ("visual",), None, "warning"),
    ("small_remedied", ("V1",), ["ridge", "volume"], "warning"),
    ("paper", (), None, ""),
    ("paper", ("whole",), None, ""),
    ("paper", ("visual",), ["ridge", "mlp"], ""),
    ("default", ("visual",), None, ""),
]


@pytest.mark.parametrize(("name", "regions", "encoders", "found"), WHOLE)
def test_a_form_for_the_whole_brain_is_not_fitted_on_regions_in_silence(
    name: str, regions: tuple[str, ...], encoders: list[str] | None, found: str, recwarn: pytest.WarningsRecorder
) -> None:
    source = Source(regions=regions)
    if found == "error":
        with pytest.raises(DataError, match=f"--region {', '.join(regions)} keeps a part of it.*--part-of-brain") as error:
            check_whole_brain(name, source, encoders)
        assert "\n" not in str(error.value)
    else:
        check_whole_brain(name, source, encoders)
    said = [str(one.message) for one in recwarn]
    assert len(said) == (found == "warning"), said
    assert all(f"preset {name}" in text and "\n" not in text for text in said)


@pytest.mark.parametrize(
    ("name", "size", "found"), [("paper", 2.0, ""), ("paper", 1.8, ""), ("small", 4.0, ""), ("paper", 4.0, "56 mm"),
                                ("small", 2.0, "14 mm"), ("small", 3.0, "21 mm"), ("default", 2.0, "")],
)  # fmt: skip
def test_patches_of_another_size_than_published_are_named(
    name: str, size: float, found: str, recwarn: pytest.WarningsRecorder
) -> None:
    space = Volume(MASK, np.diag([size, size, size, 1]))
    _warn_of_patches(preset(name), ["ridge", "volume"], space)
    said = [str(one.message) for one in recwarn]
    assert len(said) == bool(found), said
    assert all(found in text and f"have 28 mm, here {round(28 / size)} voxels" in text for text in said)
    _warn_of_patches(preset(name), ["ridge"], space)
    assert len(recwarn) == len(said)
