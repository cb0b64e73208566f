"""The alignment on small made-up recordings: splits, the loop, exact resume, controls, bad input."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from brainlens.align import align
from brainlens.claims.encode import mispaired
from brainlens.claims.variants import unpaired
from brainlens.models.volume.aligners import DESIGN, find_start, fit_projected, fit_ridge, fit_volume
from brainlens.models.volume.batches import Batches, repeat_weights
from brainlens.models.volume.split import gather_mean, split_tables
from brainlens.models.volume.training import AlignmentTraining, learning_rate, train_contrastive, validate
from brainlens.nn.decoding_baselines import ComponentDecoder
from brainlens.types import DataError, Features, Responses

SHAPE = replace(DESIGN, patch=3, width=32, depth=2, heads=2)
QUICK = AlignmentTraining(steps=30, batch=32, evaluate_every=10, checkpoint_every=10, lr=1e-3)


def test_every_encoder_finds_the_images_and_shuffled_pairs_do_not(recording):
    responses, images, texts = recording()
    found = align(
        responses,
        images,
        texts,
        encoders=("ridge", "ridge_whitened", "linear", "mlp", "cnn", "volume"),
        training=QUICK,
        design=SHAPE,
    )
    metrics = found.result.metrics
    for name in ("ridge", "ridge_whitened", "linear", "volume"):
        for direction in ("brain->image", "image->brain", "brain->text", "text->brain"):
            assert metrics[f"align/{name}/retrieval/{direction}/top5"] > 3 * 5 / 30, (name, direction)
    assert metrics["retrieval/brain->image/chance1"] == pytest.approx(1 / 30)
    assert set(found.result.tables["comparison"]["encoder"]) == {"ridge", "ridge_whitened", "linear", "mlp", "cnn", "volume"}
    assert len(found.result.arrays["embedding/brain"]) == 30
    control = align(
        mispaired(responses, 1),
        images,
        texts,
        encoders=("ridge", "linear"),
        training=QUICK,
        linear=replace(QUICK, steps=100),
        design=SHAPE,
    )
    for name in ("ridge", "linear"):
        low = control.result.metrics[f"align/{name}/retrieval/brain->image/top5.low"]
        assert low <= 5 / 30


def test_volume_starts_where_the_ridge_in_its_metric_ends(recording):
    responses, images, texts = recording()
    split = split_tables(responses, images, texts)
    start = find_start(split, SHAPE)
    ridge, volume = fit_projected(start), fit_volume(split, replace(QUICK, steps=0), design=SHAPE, start=start)
    for a, b in zip(ridge.embed(split.test.mean()), volume.embed(split.test.mean()), strict=True):
        torch.testing.assert_close(*(torch.nn.functional.normalize(z, dim=1) for z in (a, b)), atol=1e-4, rtol=1e-4)


def test_a_killed_run_resumes_to_the_same_bits(tmp_path, recording):
    responses, images, texts = recording()
    split = split_tables(responses, images, texts)
    v = split.train.x.shape[1]

    def fresh() -> ComponentDecoder:
        torch.manual_seed(0)
        return ComponentDecoder(v, 12, dropout=0.5)

    whole = fresh()
    train_contrastive(whole, split, QUICK, seed=3)

    class Killed(Exception):
        pass

    def stop_at_20(step: int, record: dict[str, float]) -> None:
        if step == 20:
            raise Killed

    with pytest.raises(Killed):
        train_contrastive(fresh(), split, QUICK, seed=3, folder=tmp_path, progress=stop_at_20)
    resumed = fresh()
    steps = []
    train_contrastive(resumed, split, QUICK, seed=3, folder=tmp_path, progress=lambda step, record: steps.append(step))
    assert steps == [20, 30]
    for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_the_centre_of_the_targets_is_that_of_the_training_images_alone(recording):
    responses, images, texts = recording()
    found = split_tables(responses, images, texts)
    assert not set(found.train.ids) & (set(found.validation.ids) | set(found.test.ids))
    trained = np.isin(images.ids, found.train.ids)
    other = [Features({k: np.where(trained[:, None], f[k], 50 + 9 * f[k])}, f.ids, "spoilt") for k, f in
             (("image", images), ("text", texts))]  # fmt: skip
    spoilt = split_tables(responses, *other)
    for name, features in (("image", images), ("text", texts)):
        centre = features[name][trained].mean(0)
        np.testing.assert_allclose(found.centre[name], centre, rtol=1e-5, atol=1e-6)
        rows = features[name][[list(features.ids).index(i) for i in found.test.ids]] - centre
        expected = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        np.testing.assert_allclose(getattr(found.test, name), expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(spoilt.centre[name], found.centre[name])
        assert torch.equal(getattr(spoilt.train, name), getattr(found.train, name))


def test_what_is_kept_are_the_averaged_weights_of_the_best_validation(recording):
    whole = split_tables(*recording(60))
    split = replace(whole, train=unpaired(whole, seed=1).train)  # nothing to learn, so that validation soon becomes worse
    training = replace(QUICK, steps=14, evaluate_every=1, lr=0.01, warmup=0.01, patience=100)
    lost = []  # steps of the best validation, where the last one is clearly worse
    for seed in range(12):
        torch.manual_seed(seed)
        module = ComponentDecoder(split.train.x.shape[1], 12)
        slow = {name: value.clone() for name, value in module.state_dict().items()}
        baseline, states, losses = ComponentDecoder(split.train.x.shape[1], 12).eval(), [], []

        def look(step, record, module=module, slow=slow, baseline=baseline, states=states, losses=losses):
            for name, fast in module.state_dict().items():  # the weights after `step` steps
                share = min(training.average, step / (step + 9))
                slow[name] = share * slow[name] + (1 - share) * fast
            states.append({name: value.clone() for name, value in slow.items()})
            baseline.load_state_dict(slow)
            losses.append(validate(baseline, [split.validation.mean()], [split.validation], training)["validation_loss"])
            assert record["validation_loss"] == pytest.approx(losses[-1], rel=1e-4)

        log = train_contrastive(module, split, training, seed=seed, progress=look)
        best = int(np.argmin([record["validation_loss"] for record in log]))
        lost += [best] if losses[best] < 0.9 * losses[-1] else []
        for name, value in module.state_dict().items():
            torch.testing.assert_close(value, states[best][name], rtol=1e-4, atol=1e-5)
    assert len(lost) >= 4  # 8 of the 12 random starts, at .12 to .76 of the last loss; without them the test would see nothing
    assert max(lost) >= 1  # 3 of them are best after their second step or later, where the average has moved


def test_the_callers_random_state_is_left_alone(recording):
    responses, images, texts = recording(60)
    before = torch.get_rng_state()
    align(responses, images, texts, encoders=("linear", "volume"), training=replace(QUICK, steps=10), linear=QUICK, design=SHAPE)
    assert torch.equal(before, torch.get_rng_state())


def test_same_seed_same_numbers(recording):
    responses, images, texts = recording(80)
    runs = [
        align(responses, images, texts, encoders=("volume",), training=replace(QUICK, steps=10), linear=QUICK, design=SHAPE)
        for _ in range(2)
    ]
    np.testing.assert_array_equal(runs[0].result.arrays["embedding/brain"], runs[1].result.arrays["embedding/brain"])


def test_means_and_batches_against_a_plain_loop(recording):
    responses, images, texts = recording(40, repeats=3)
    part = split_tables(responses, images, texts).train
    trials = responses.trials
    for i in (0, 5):
        rows = (trials["stimulus"] == part.ids[i]).to_numpy()
        np.testing.assert_allclose(part.mean()[i].numpy(), responses.data[rows].mean(0), rtol=1e-5, atol=1e-5)
    weights = torch.tensor([[1.0, 0.0, 1.0]])
    got = gather_mean(part.x, torch.tensor([[0, -1, 2]]), weights)
    torch.testing.assert_close(got[0], (part.x[0] + part.x[2]) / 2)
    drawn = Batches(part, 32, "mean", 1).draw(4)
    torch.testing.assert_close(gather_mean(part.x, drawn.rows, drawn.weights), part.mean()[drawn.items])


def test_subsets_of_repeats_are_never_empty_and_never_hold_a_missing_one():
    rows = torch.tensor([[0, 1, 2], [3, -1, -1], [4, 5, -1]])
    generator = torch.Generator().manual_seed(0)
    seen = torch.stack([repeat_weights(rows, "subset", generator) for _ in range(200)])
    assert (seen.sum(2) >= 1).all()
    assert not seen[:, rows < 0].any()
    assert set(seen[:, 0].sum(1).tolist()) == {1.0, 2.0, 3.0}


def test_learning_rate_warms_up_and_falls():
    training = AlignmentTraining(steps=100, warmup=0.1, lr=1.0, min_lr=0.01)
    rates = [learning_rate(s, training) for s in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01, abs=2e-3)
    assert (np.diff(rates[10:]) <= 0).all()


def test_ridge_reports_what_it_chose(recording):
    responses, images, _ = recording(60)
    decoder = fit_ridge(split_tables(responses, images), whitened=True)
    assert set(decoder.chosen) == {"alpha_image"}
    assert decoder.parameters == decoder.linear.weights.numel() + 12


def spoil(kind: str, responses: Responses, images: Features) -> tuple[Responses, Features]:
    trials = responses.trials.copy()
    if kind == "leak":
        trials.loc[trials.index[(trials["split"] == "test").to_numpy()][0], "stimulus"] = "i000"
    if kind == "no split":
        trials = trials.drop(columns="split")
    if kind == "no test":
        trials["split"] = "train"
    if kind == "other ids":
        images = Features({"image": images["image"]}, np.array([f"x{i}" for i in range(len(images))]), "made up")
    if kind == "nan":
        data = responses.data.copy()
        data[0, :100] = np.nan
        responses = replace(responses, data=data)
    if kind == "layer":
        images = Features({"pooled": images["image"]}, images.ids, "made up")
    return replace(responses, trials=trials), images


@pytest.mark.parametrize(
    "kind, message",
    [
        ("leak", "more than one part of the split"),
        ("no split", "no column 'split'"),
        ("no test", "no trial has split 'test'"),
        ("other ids", "ids are not found"),
        ("nan", "NaN or infinite"),
        ("layer", "no layer 'image'"),
    ],
)
def test_bad_input_is_one_line(kind: str, message: str, recording):
    responses, images, _ = recording(60)
    responses, images = spoil(kind, responses, images)
    with pytest.raises(DataError, match=message) as error:
        align(responses, images, encoders=("ridge",))
    assert "\n" not in str(error.value)


def test_unknown_encoder_lists_the_known_ones(recording):
    responses, images, _ = recording(60)
    with pytest.raises(DataError, match="ridge_whitened"):
        align(responses, images, encoders=("transformer",))


def test_a_loss_that_is_not_finite_stops_and_names_images(recording):
    responses, images, texts = recording(60)
    split = split_tables(responses, images, texts)
    module = ComponentDecoder(split.train.x.shape[1], 12)
    torch.nn.init.constant_(module.linear.weight, float("nan"))
    with pytest.raises(DataError, match="in a batch with"):
        train_contrastive(module, split, QUICK)
