"""The paper's form of the whole-brain aligner: single trials, targets as they are, the checkpoint that retrieves best."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from brainlens.align import align
from brainlens.models.volume.batches import repeat_weights
from brainlens.models.volume.estimators import VolumeAligner
from brainlens.models.volume.presets import preset
from brainlens.models.volume.split import split_tables
from brainlens.models.volume.training import AlignmentRun, AlignmentTraining
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


def test_the_small_form_trains_and_is_scored_without_a_centre(recording) -> None:
    chosen = preset("small").recipe(
        training={"steps": 3, "batch": 8, "queue": 16, "evaluate_every": 1},
        design={"patch": 3, "width": 16, "depth": 1, "heads": 2},
    )  # fmt: skip
    found = align(*recording, encoders=("ridge", "volume"), training=chosen.training, design=chosen.design, centred=False)
    assert found.result.config["centred"] is False
    assert float(found.models["volume"].centre_["image"].max()) == 0
    assert 0 <= found.result.metrics["retrieval/brain->image/top1"] <= 1
