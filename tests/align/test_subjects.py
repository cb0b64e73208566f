"""Several brains in one space, and parts of a brain: what may be joined, and what is refused by name."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from brainlens.align import align
from brainlens.models.volume.presets import preset
from brainlens.models.volume.training import AlignmentTraining
from brainlens.subjects import join_stimuli, join_subjects, select_regions, select_subjects
from brainlens.types import DataError, Features, Responses, Stimuli, Volume

MASK = np.zeros((5, 4, 4), dtype=bool)
MASK[:4] = True
QUICK = AlignmentTraining(steps=20, batch=16, evaluate_every=10, lr=2e-3)


def subject(name: str, *, seen: slice = slice(0, 60), seed: int = 0, **changes: object) -> Responses:
    """Two trials of each image seen; half of the 64 voxels read the images, in region A, B or LANG."""
    z = embeddings()["image"]
    rng = np.random.default_rng([seed, len(name), ord(name[-1])])
    rows = np.repeat(np.arange(60)[seen], 2)
    common = np.random.default_rng(6).normal(size=(8, 64))
    weights = (common + 0.3 * rng.normal(size=(8, 64))) * (np.arange(64) < 32)
    x = z[rows] @ weights + rng.normal(size=(len(rows), 64))
    ids = embeddings().ids[rows]
    kind = np.where(rows < 45, "train", "test")
    trials = pd.DataFrame({"stimulus": ids, "subject": name, "split": kind, "session": 1})
    roi = np.array([["A", "B", "LANG", "none"][(i + ord(name[-1])) // 16 % 4] for i in range(64)], dtype=object)
    units = pd.DataFrame({"x": np.arange(64.0), "roi": roi})
    space = changes.get("space", Volume(MASK, np.diag([4.0, 4, 4, 1])))
    return Responses(x.astype(np.float32), trials, units, space)  # type: ignore[arg-type]


def embeddings() -> Features:
    z = np.random.default_rng(5).normal(size=(60, 8)).astype(np.float32)
    return Features({"image": z}, np.array([f"i{i:02d}" for i in range(60)]), "made up")


def test_subjects_join_and_come_apart_again():
    a, b = subject("s1"), subject("s2")
    both = join_subjects([a, b])
    assert len(both) == len(a) + len(b)
    assert "x" in both.units
    for one in (a, b):
        again = select_subjects(both, [one.trials["subject"][0]])
        np.testing.assert_array_equal(again.data, one.data)
    roi = np.stack([one.units["roi"] for one in (a, b)])
    for voxel in range(64):  # the first subject's region, else the second's
        named = [name for name in roi[:, voxel] if name != "none"]
        assert both.units["roi"][voxel] == (named[0] if named else "none")


def test_one_model_for_two_subjects_scores_each_in_its_own_gallery_and_the_mean():
    both = join_subjects([subject("s1"), subject("s2", seen=slice(0, 55))])
    found = align(both, embeddings(), encoders=("linear", "ridge"), training=QUICK, linear=QUICK)
    metrics = found.result.metrics
    assert metrics["subject/s1/retrieval/brain->image/gallery"] == 15
    assert metrics["subject/s2/retrieval/brain->image/gallery"] == 10
    for score in ("top1", "top5", "mean_rank", "chance1"):
        each = [metrics[f"subject/{name}/retrieval/brain->image/{score}"] for name in ("s1", "s2")]
        assert metrics[f"retrieval/brain->image/{score}"] == pytest.approx(np.mean(each))
    assert metrics["retrieval/brain->image/n"] == 15
    assert metrics["retrieval/brain->image/top5"] > 0.5
    assert len(found.result.arrays["subject/s2/ranks/brain->image"]) == 10
    assert set(found.result.arrays["ids"]) == set(found.split.test.of("s1").ids)


def test_regions_are_chosen_by_name():
    one = subject("s1")
    roi = one.units["roi"]
    assert len(select_regions(one, ["A"]).units) == (roi == "A").sum()
    visual = select_regions(one, ["visual"])
    assert set(visual.units["roi"]) == {"A", "B"}
    assert isinstance(visual.space, Volume)
    assert len(visual.space) == len(visual.units)
    np.testing.assert_array_equal(visual.data, one.data[:, roi.isin(["A", "B"])])
    assert set(select_regions(one, ["visual", "LANG"]).units["roi"]) == {"A", "B", "LANG"}
    assert select_regions(one, []) is one
    assert select_regions(one, ["whole", "A"]) is one


def test_stimuli_of_two_subjects_are_one_table_read_where_they_are():
    images = np.arange(4 * 12, dtype=np.uint8).reshape(4, 2, 2, 3)
    a = Stimuli(np.array(["p", "q", "r"]), images[:3], [["a"], ["b"], ["c"]], pd.DataFrame({"domain": list("xyz"), "own": 1}))
    b = Stimuli(np.array(["s", "q"]), images[[3, 1]], [["d"], ["b"]], pd.DataFrame({"domain": list("wy")}))
    both = join_stimuli([a, b])
    assert both.ids.tolist() == ["p", "q", "r", "s"]
    assert both.captions == [["a"], ["b"], ["c"], ["d"]]
    assert both.table["domain"].tolist() == ["x", "y", "z", "w"]
    for i in range(4):
        np.testing.assert_array_equal(both.images[i], images[i])
    np.testing.assert_array_equal(both.take(["s", "p"]).images[0], images[3])


OTHER_GRID = Volume(MASK, np.diag([2.0, 2, 2, 1]))
OTHER_MASK = Volume(MASK[::-1].copy(), np.diag([4.0, 4, 4, 1]))


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: join_subjects([subject("s1"), subject("s2", space=OTHER_GRID)]), "'s2' is in another space than .* 2 and 4 mm"),
        (lambda: join_subjects([subject("s1"), subject("s2", space=OTHER_MASK)]), "another mask .* 64 and 64 voxels, 32 in one"),
        (lambda: join_subjects([subject("s1"), subject("s2", space=None)]), "64 units in no space, .* 64 in Volume"),
        (lambda: join_subjects([subject("s1"), subject("s1")]), "subject 's1' comes 2 times"),
        (lambda: join_subjects([]), "no responses"),
        (lambda: select_subjects(subject("s1"), ["s7"]), r"'s7' is not in this recording; it has \['s1'\]"),
        (lambda: select_regions(subject("s1"), ["V9"]), "region 'V9' is not one of whole, visual, A, B, LANG"),
        (lambda: preset("huge"), "'huge' is not one of default, small, small_remedied, paper"),
        (lambda: preset("default").changed(training={"stpes": 3}), "training has no 'stpes'; it has steps, batch"),
    ],
)
def test_mistakes_are_one_line(call, words):
    with pytest.raises(DataError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_paper_preset_is_the_paper():
    paper = preset("paper")
    design, training = paper.design, paper.training
    assert (design.patch, design.width, design.depth, design.heads, design.embed_dim) == (14, 1280, 12, 16, 1024)
    assert (design.class_token, design.per_patch, design.padding) == ("learned", False, "end")
    assert (training.lr, training.warmup, training.min_lr, training.batch) == (3e-4, 0.01, 1e-5, 256)
    assert (training.epochs, training.queue) == (150, 4096)
    assert training.on(9000).steps == 5273
    short = paper.changed(training={"steps": 7, "batch": None})
    assert short.training.on(9000).steps == 7
    assert short.linear.steps == 7
    assert preset("default").changed(training={"epochs": 2}).training.on(640).steps == 10


def test_the_paper_grid_is_padded_to_98_112_98_and_only_patches_with_brain_are_kept():
    from brainlens.nn.volume_encoder import cubic_patches
    from brainlens.phantom.anatomy import anatomy

    space, _ = anatomy("2mm")
    assert space.mask.shape == (91, 109, 91)
    group, inside = cubic_patches(space.mask, preset("paper").design.patch)
    blocks = {tuple(b) for b in np.argwhere(space.mask) // 14}
    assert max(b[0] for b in blocks) < 98 // 14
    assert max(b[1] for b in blocks) < 112 // 14
    assert group.max() + 1 == len(blocks)
    assert len(blocks) < 7 * 8 * 7 / 2
    assert inside.max() < 14**3
