"""The headline of several encoders is the best on validation images, in whatever order they were typed, and says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from brainlens.align import align
from brainlens.align.headline import best_last, spoken
from brainlens.models.volume.training import AlignmentTraining
from brainlens.report import wording
from brainlens.types import Features, Responses

QUICK = AlignmentTraining(steps=1, batch=16, evaluate_every=1, checkpoint_every=1)


def tables(validation: int = 12) -> tuple[Responses, Features]:
    """80 images whose embeddings the voxels hold linearly, which ridge reads and one step of a linear encoder does not."""
    rng = np.random.default_rng(0)
    embedding = rng.normal(size=(80, 6)).astype(np.float32)
    data = embedding @ rng.normal(size=(6, 40)).astype(np.float32) + 0.3 * rng.normal(size=(80, 40)).astype(np.float32)
    part = ["test"] * 15 + ["validation"] * validation + ["train"] * (65 - validation)
    ids = [f"i{k:02d}" for k in range(80)]
    return Responses.from_arrays(data, ids, split=part), Features.from_arrays({"image": embedding}, ids)


@pytest.mark.parametrize("names", [("ridge", "linear"), ("linear", "ridge")])
def test_the_best_on_validation_leads_in_whatever_order_it_was_named(names):
    found = align(*tables(), encoders=names, training=QUICK, linear=QUICK)
    result, key = found.result, "retrieval/brain->image/top5"
    scores = {name: result.metrics[f"align/{name}/validation/mrr"] for name in names}
    assert scores["ridge"] > scores["linear"]
    assert result.config["main"] == "ridge"
    assert result.config["encoders"] == list(found.models) == list(found.decoders) == ["linear", "ridge"]
    assert result.metrics[key] == result.metrics[f"align/ridge/{key}"] != result.metrics[f"align/linear/{key}"]
    assert spoken(result).startswith("headline: ridge, the best on 12 validation images by mean reciprocal rank (ridge ")
    assert "key numbers are of ridge, the best on validation images" in wording.sentence(result)


def test_test_images_have_no_part_in_the_choice():
    """The best on validation keeps the headline where test responses are shuffled and it finds nothing there."""
    responses, images = tables()
    data = np.array(responses.data)
    data[:15] = data[:15][::-1]
    found = align(replace(responses, data=data), images, encoders=("ridge", "linear"), training=QUICK, linear=QUICK)
    assert found.result.config["main"] == "ridge"


def test_where_nothing_can_be_compared_the_last_leads_and_the_page_says_so():
    found = align(*tables(validation=1), encoders=("ridge_whitened", "ridge"), training=QUICK, linear=QUICK)
    assert (found.result.config["main"], found.result.config["main_by"]) == ("ridge", "the last encoder named")
    assert "align/ridge/validation/mrr" not in found.result.metrics
    assert "the last encoder named: there are no two validation images" in spoken(found.result)
    assert "key numbers are of ridge, the last encoder named" in wording.sentence(found.result)


def test_one_encoder_is_no_choice():
    found = align(*tables(), encoders=("ridge",), training=QUICK, linear=QUICK)
    assert "main_by" not in found.result.config
    assert spoken(found.result) == ""
    assert best_last(found.decoders, found.split.validation) == (found.decoders, {}, "")
