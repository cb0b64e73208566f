"""The baselines after MindEye: their schedule, maps of several subjects, and what is stored, trained further and refused."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch

from brainlens.align import align
from brainlens.models.volume.batches import Batches
from brainlens.models.volume.estimators import MindEyeAligner, SharedSubjectAligner, load_aligner
from brainlens.models.volume.split import split_tables
from brainlens.models.volume.steps import MindEyeStep, joint_gradients, mindeye_step
from brainlens.models.volume.training import AlignmentTraining, train_contrastive
from brainlens.nn.decoding_baselines import SharedSubjectMLP
from brainlens.nn.losses import mixco, soft_clip
from brainlens.types import DataError, Features, Responses

QUICK = {"steps": 120, "batch": 32, "evaluate_every": 20, "average": 0.0}
V, D, N, NEW = 40, 8, 150, 30


def brain(name: str, seed: int, *, n: int = N + NEW) -> tuple[np.ndarray, np.ndarray]:
    """Responses (n, V) of a subject and the images (n, D) that all subjects see; each reads them by weights of its own."""
    images = np.random.default_rng(seed).normal(size=(n, D)).astype(np.float32)
    rng = np.random.default_rng([seed, ord(name)])
    return (images @ rng.normal(size=(D, V)) / np.sqrt(D) + 0.3 * rng.normal(size=(n, V))).astype(np.float32), images


def fitted(seed: int = 0) -> tuple[SharedSubjectAligner, dict[str, np.ndarray], np.ndarray]:
    data = {name: brain(name, seed)[0] for name in "ab"}
    images = brain("a", seed)[1]
    y, z = np.concatenate([data[name][:N] for name in "ab"]), np.concatenate([images[:N]] * 2)
    ids = [f"i{k}" for k in range(N)] * 2
    model = SharedSubjectAligner(training=QUICK, seed=seed).fit(y, z, ids=ids, subject=list("a" * N + "b" * N))
    return model, data, images


@pytest.fixture(scope="module")
def made():
    return fitted()


def top1(model: SharedSubjectAligner, y: np.ndarray, images: np.ndarray, whose: str) -> float:
    rows = model.retrieve(y[N:], images[N:], k=1, subject=[whose] * NEW)
    return float((rows[:, 0] == np.arange(NEW)).mean())


def test_each_subject_is_read_by_its_own_map(made) -> None:
    model, data, images = made
    assert top1(model, data["a"], images, "a") > 0.3
    assert top1(model, data["b"], images, "b") > 0.3
    assert top1(model, data["a"], images, "b") < 0.2  # chance is .03
    both = model.transform(np.concatenate([data["a"][:3], data["b"][:3]]), subject=list("aaabbb"))
    np.testing.assert_allclose(both[3:], model.transform(data["b"][:3], subject=list("bbb")), rtol=1e-5, atol=1e-6)
    assert model.score(data["a"][N:], images[N:], subject=["a"] * NEW) > 0.3


def test_a_stored_model_gives_the_same_to_the_bit(made, tmp_path) -> None:
    model, data, _ = made
    again = load_aligner(model.save(tmp_path / "m"))
    assert isinstance(again, SharedSubjectAligner)
    np.testing.assert_array_equal(again.transform(data["b"], subject=["b"] * len(data["b"])),
                                  model.transform(data["b"], subject=["b"] * len(data["b"])))  # fmt: skip


def test_a_new_subject_gets_a_map_and_the_others_keep_theirs(made) -> None:
    model, data, images = made
    c = brain("c", 0)[0]
    kept = model.transform(data["a"][N:], subject=["a"] * NEW).copy()
    further = SharedSubjectAligner(training=QUICK).fit(c[:N], images[:N], subject=["c"] * N, start_from=model)
    assert top1(further, c, images, "c") > 0.3
    assert further.decoder_.module.subjects == ["a", "b", "c"]
    np.testing.assert_array_equal(model.transform(data["a"][N:], subject=["a"] * NEW), kept)
    assert model.decoder_.module.subjects == ["a", "b"]
    first = further.decoder_.module.enter[0].weight
    torch.testing.assert_close(first, model.decoder_.module.enter[0].weight, rtol=0.1, atol=0.01)  # decayed alone


def test_one_subject_needs_no_name() -> None:
    y, images = brain("a", 1)
    for kind in (SharedSubjectAligner, MindEyeAligner):
        model = kind(training=QUICK).fit(y[:N], images[:N])
        assert (model.retrieve(y[N:], images[N:], k=1)[:, 0] == np.arange(NEW)).mean() > 0.3


def test_the_forward_pass_is_the_equation() -> None:
    module = SharedSubjectMLP(["a", "b"], torch.tensor([1, 3, 4]), 6, width=5, blocks=2).eval()
    x = torch.randn(4, 5)
    own = dict(module.named_parameters())

    def norm(h, w, b):
        return (h - h.mean(1, keepdim=True)) / (h.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt() * w + b

    def gelu(h):
        return h * 0.5 * (1 + torch.erf(h / 2**0.5))

    h = x[:, [1, 3, 4]] @ own["enter.1.weight"].T + own["enter.1.bias"]
    for k in range(2):
        name = f"blocks.{k}."
        inner = gelu(norm(h, own[name + "0.weight"], own[name + "0.bias"]) @ own[name + "1.weight"].T + own[name + "1.bias"])
        h = h + inner @ own[name + "4.weight"].T + own[name + "4.bias"]
    h = h @ own["leave.weight"].T + own["leave.bias"]
    for k in range(3):
        name = f"head.{k}."
        h = gelu(norm(h, own[name + "0.weight"], own[name + "0.bias"])) @ own[name + "2.weight"].T + own[name + "2.bias"]
    torch.testing.assert_close(module(x, "b"), h, rtol=1e-5, atol=1e-6)


def test_a_third_of_the_steps_mix_and_the_temperature_of_the_others_rises() -> None:
    steps = [mindeye_step(k, 90, 400, seed=k) for k in range(90)]
    assert [one.order is not None for one in steps] == [True] * 30 + [False] * 60
    assert {one.temperature for one in steps[:30]} == {0.006}
    soft = [one.temperature for one in steps[30:]]
    assert soft[0] == pytest.approx(0.004)
    assert soft[-1] == pytest.approx(0.0075)
    assert soft == sorted(soft)
    share = torch.cat([one.share for one in steps[:30]])
    assert (share < 1).float().mean() == pytest.approx(0.5, abs=0.02)
    mixed = share[share < 1]
    assert mixed.mean() == pytest.approx(0.5, abs=0.02)
    assert mixed.var() == pytest.approx(0.25 / 1.3, abs=0.01)  # Beta(b, b) has variance 1 / (4 (2 b + 1))
    again = mindeye_step(3, 90, 400, seed=3)
    torch.testing.assert_close(again.share, steps[3].share)
    assert sorted(again.order.tolist()) == list(range(400))


def test_a_step_has_the_gradients_of_its_loss() -> None:
    y, images = brain("a", 2)
    split = split_of(y, images)
    drawn = Batches(split.train, 16, "mean", 0).draw(0)
    for what in (mindeye_step(0, 30, 16, seed=1), MindEyeStep(0.005)):
        module = torch.nn.Linear(V, D)
        loss, _ = joint_gradients(module, split.train, drawn, mindeye=what, modality="image")
        x, target = split.train.mean(drawn.items), split.train.image[drawn.items]
        own = module.weight.detach().clone().requires_grad_()
        if what.order is None:
            plain = soft_clip(x @ own.T + module.bias, target, 0.005)
        else:
            mix = torch.stack([s * x[i] + (1 - s) * x[j] for i, (s, j) in enumerate(zip(what.share, what.order, strict=True))])
            plain = mixco(mix @ own.T + module.bias, target, what.order, what.share, 0.006)
        plain.backward()
        torch.testing.assert_close(loss, plain.detach())
        torch.testing.assert_close(module.weight.grad, own.grad, rtol=1e-4, atol=1e-6)


def tables(y: np.ndarray, images: np.ndarray, subject: list[str] | None = None) -> tuple[Responses, Features]:
    ids = np.array([f"i{k:03d}" for k in range(len(images))])
    part = np.where(np.arange(len(images)) < N, "train", "test")
    times = len(y) // len(images)
    trials = pd.DataFrame({"stimulus": np.tile(ids, times), "split": np.tile(part, times)})
    trials = trials if subject is None else trials.assign(subject=subject)
    return Responses(y, trials, pd.DataFrame(index=range(V))), Features({"image": images}, ids, "made up")


def split_of(y: np.ndarray, images: np.ndarray):
    return split_tables(*tables(y, images))


def test_align_fits_one_model_to_several_subjects_and_scores_each() -> None:
    n = N + NEW
    y = np.concatenate([brain(name, 0)[0] for name in "ab"])
    responses, features = tables(y, brain("a", 0)[1], list("a" * n + "b" * n))
    recipe = AlignmentTraining(**QUICK)
    found = align(responses, features, encoders=("mindeye_like", "mindeye2_like"), linear=recipe)
    metrics = found.result.metrics
    own = [metrics[f"align/mindeye2_like/subject/{name}/retrieval/brain->image/top1"] for name in "ab"]
    assert min(own) > 0.3
    assert metrics["align/mindeye2_like/retrieval/brain->image/top1"] == pytest.approx(np.mean(own))
    log = found.result.tables["log"]
    assert log.loc[log["encoder"] == "mindeye2_like", "step"].max() == 120  # no early stop


def test_mistakes(made) -> None:
    model, data, _ = made
    with pytest.raises(DataError, match=r"a map for each of \['a', 'b'\]; say with subject="):
        model.transform(data["a"])
    with pytest.raises(DataError, match=r"subject 'z' has no linear map in this model; it has \['a', 'b'\]"):
        model.transform(data["a"][:2], subject=["z", "a"])
    with pytest.raises(DataError, match=r"each of 3 rows, got \(2,\)"):
        model.transform(data["a"][:3], subject=["a", "a"])
    split = split_of(*brain("a", 0))
    for change in ({"accumulate": 2}, {"queue": 64}):
        with pytest.raises(DataError, match="BiMixCo mixes the rows of a whole batch"):
            train_contrastive(torch.nn.Linear(V, D), split, AlignmentTraining(**QUICK, **change), mindeye=True)
