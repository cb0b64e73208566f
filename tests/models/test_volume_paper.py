"""The paper's form of the whole-brain aligner: single trials, targets as they are, the checkpoint that retrieves best."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from brainlens.align import align
from brainlens.claims.volume_paper import REMEDIES
from brainlens.claims.volume_paper import changed as changed_by
from brainlens.models.volume.batches import repeat_weights
from brainlens.models.volume.estimators import VolumeAligner
from brainlens.models.volume.presets import preset
from brainlens.models.volume.split import split_tables
from brainlens.models.volume.training import AlignmentRun, AlignmentTraining
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.types import DataError, Features, Responses, Volume

CUBE = Volume(np.ones((6, 6, 6), bool), np.eye(4))


@pytest.fixture(scope="module")
def recording() -> tuple[Responses, Features]:
    rng = np.random.default_rng(0)
    ids = np.array([f"i{k:02d}" for k in range(40)])
    z = rng.standard_normal((40, 8)).astype(np.float32) + 2.0
    stimulus = np.repeat(ids, 3)
    data = np.repeat(z, 3, axis=0) @ rng.standard_normal((8, 216)) + rng.standard_normal((120, 216))
    split = np.repeat(["train"] * 30 + ["test"] * 10, 3)
    trials = pd.DataFrame({"stimulus": stimulus, "split": split})
    units = pd.DataFrame({"roi": ["V1"] * 216})
    return Responses(data.astype(np.float32), trials, units, space=CUBE, measure="z"), Features({"image": z}, ids, "made")


def test_single_rows_are_one_trial_each_and_all_come_up() -> None:
    rows = torch.tensor([[0, 1, 2], [3, 4, -1]]).repeat(200, 1)
    weights = repeat_weights(rows, "single", torch.Generator().manual_seed(0))
    assert torch.equal(weights.sum(1), torch.ones(400))
    assert float(weights[rows < 0].sum()) == 0
    share = weights[0::2].mean(0)
    assert torch.allclose(share, torch.full((3,), 1 / 3), atol=0.1)
    assert torch.allclose(weights[1::2].mean(0)[:2], torch.full((2,), 0.5), atol=0.1)
    with pytest.raises(DataError, match="'one' is not one of mean, subset, single"):
        repeat_weights(rows, "one", torch.Generator())


def test_targets_are_as_the_network_gives_them(recording) -> None:
    responses, images = recording
    plain, centred = (split_tables(responses, images, centred=c) for c in (False, True))
    unit = images["image"] / np.linalg.norm(images["image"], axis=1, keepdims=True)
    rows = [list(images.ids).index(name) for name in plain.train.ids]
    np.testing.assert_allclose(plain.train.image.numpy(), unit[rows], atol=1e-6)
    assert float(plain.centre["image"].abs().max()) == 0
    assert not torch.allclose(centred.train.image, plain.train.image)


@pytest.mark.parametrize("select, kept", [("loss", 1), ("retrieval", 2)])
def test_the_checkpoint_is_the_one_that_is_selected(recording, select: str, kept: int) -> None:
    split = split_tables(*recording)
    module = torch.nn.Linear(216, 8)
    run = AlignmentRun.begin(module, AlignmentTraining(), split.train)
    records = [(5.0, 0.2), (4.0, 0.3), (9.0, 0.6), (8.0, 0.5)]
    states = []
    for step, (loss, mrr) in enumerate(records):
        with torch.no_grad():
            run.averaged.weight.fill_(float(step))
        states.append(copy.deepcopy(run.averaged.state_dict()))
        run.judge({"step": step, "validation_loss": loss, "validation_mrr": mrr}, select)
    assert torch.equal(run.best["weight"], states[kept]["weight"])
    assert run.stale == len(records) - 1 - kept


def test_presets_say_what_the_paper_says() -> None:
    for name in ("paper", "small"):
        chosen = preset(name)
        assert (chosen.training.repeats, chosen.training.select, chosen.centred) == ("single", "retrieval", False)
    assert preset("default").centred
    assert VolumeAligner.small().settings().training.on(3 * 9000).steps == round(60 * 27000 / 128)
    with pytest.raises(DataError, match="select 'luck' is not one of loss, retrieval"):
        AlignmentTraining(select="luck")


def test_the_remedied_form_is_the_small_one_but_for_its_remedies() -> None:
    plain, other = preset("small"), VolumeAligner.small(remedied=True).settings()
    changed = {k: v for k, v in vars(other.training).items() if v != vars(plain.training)[k]}
    assert {"temperature": 0.07, "queue": 0, "lr": 1e-3}.items() <= changed.items()
    assert set(changed) <= {"temperature", "queue", "lr", "warmup", "batch", "epochs", "evaluate_every", "checkpoint_every"}
    design = {k for k, v in vars(other.design).items() if v != vars(plain.design)[k]}
    assert design == {"depth", "patch_dropout", "patch_start"}
    assert other.centred is plain.centred is False


@pytest.mark.parametrize("remedy", REMEDIES)
def test_each_remedy_is_a_recipe_of_its_own(remedy: str) -> None:
    assert [name for name in REMEDIES if changed_by(name) == changed_by(remedy)] == [remedy]
    base = preset("small_remedied" if remedy.startswith("remedied") else "small")
    assert (changed_by(remedy) == base) == (remedy in ("", "remedied"))


def test_an_unknown_remedy_is_one_line() -> None:
    with pytest.raises(DataError, match="remedy 'luck' is not one of none, remedied, remedied_tau01"):
        changed_by("luck")


@pytest.mark.parametrize("start", [0.0, 1.5])
def test_a_start_of_the_projection_that_cannot_be_is_one_line(start: float) -> None:
    with pytest.raises(DataError, match=f"patch_start={start} must be above 0 and at most 1") as error:
        VolumeDesign(patch_start=start)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("per_patch", [False, True])
def test_a_small_start_of_the_projection_leaves_positions_to_tell_patches_apart(per_patch: bool) -> None:
    mask = np.ones((12, 12, 12), dtype=bool)
    shape = VolumeDesign(patch=3, width=16, depth=1, heads=2, embed_dim=8, per_patch=per_patch)
    for seed in range(10):
        x = torch.randn(64, int(mask.sum()), generator=torch.Generator().manual_seed(seed))
        for start in (1.0, 0.1):
            tokens = VolumeEncoder(mask, replace(shape, patch_start=start), seed=seed).eval().tokens(x)[:, 1:].detach()
            place, voxels = float(tokens.mean(0).var(0).sum()), float(tokens.var(0).mean(0).sum())
            expected = (1 / 16) / (1 / 16 + start**2)  # positions have a variance of 1 / width, patches of start squared
            assert place / (place + voxels) == pytest.approx(expected, abs=0.06)


def test_the_small_form_trains_and_is_scored_without_a_centre(recording) -> None:
    chosen = preset("small").recipe(
        training={"steps": 3, "batch": 8, "queue": 16, "evaluate_every": 1},
        design={"patch": 3, "width": 16, "depth": 1, "heads": 2},
    )  # fmt: skip
    found = align(*recording, encoders=("ridge", "volume"), training=chosen.training, design=chosen.design, centred=False)
    assert found.result.config["centred"] is False
    assert float(found.models["volume"].centre_["image"].max()) == 0
    assert 0 <= found.result.metrics["retrieval/brain->image/top1"] <= 1
