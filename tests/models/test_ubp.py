"""UBP's like: the released network and step, what the prior makes of noisy recordings, what is stored, and what it refuses."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from brainlens.align.sensor_options import SensorOptions, preset
from brainlens.align.sensors import align_sensors
from brainlens.models.sensors import UBP, checkpoint
from brainlens.models.sensors.checkpoint import Checkpoint
from brainlens.models.sensors.decoder import UBP_TRAINING, build
from brainlens.models.sensors.fit import fit_sensors
from brainlens.models.sensors.training import blurred_step
from brainlens.nn.blur_prior import LESS, MEDIUM, MORE, BlurPrior
from brainlens.stimuli.blur import LEVELS
from brainlens.subjects import Protocol
from brainlens.types import DataError, Features, Responses

N, C, T, D, HELD = 320, 6, 60, 10, 40
QUICK = {"max_epochs": 12, "batch": 64, "lr": 1e-3, "options": {"validation": 40}}
INFO = {"ch_names": [f"c{k}" for k in range(C)], "unit": "z"}


class Released(nn.Module):
    """The layers of EEGProjectLayer as published, under our own hand."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, width)
        self.drop, self.norm = nn.Dropout(0.3), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x.reshape(len(x), -1))
        return self.norm(y + self.drop(self.second(F.gelu(y))))


def world(seed: int = 0, noisy: float = 0.0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Recordings (N, C, T) of the medium embedding, embeddings (N, 3, D) whose detail fades with blur, and which rows are noise.

    What all levels share is coarse, what they lose by degrees is detail; `noisy` of the training rows show nothing of either.
    """
    rng = np.random.default_rng(seed)
    coarse, detail = rng.normal(size=(2, N, D))
    levels = np.stack([coarse + share * detail for share in (1.2, 0.8, 0.4)], axis=1)
    patterns = rng.normal(size=(D, C, 1)) * np.sin(rng.uniform(0.1, 1, size=(D, 1, 1)) * np.arange(T))
    data = np.einsum("nk,kct->nct", levels[:, 1], patterns) + rng.normal(size=(N, C, T))
    lost = (rng.random(N) < noisy) & (np.arange(N) < N - HELD)
    data[lost] = rng.normal(size=(int(lost.sum()), C, T)) * data[~lost].std()
    return data.astype(np.float32), levels.astype(np.float32), lost


def tables(data: np.ndarray, levels: np.ndarray) -> tuple[Responses, Features]:
    ids = np.array([f"s{k:03d}" for k in range(N)])
    split = np.where(np.arange(N) < N - HELD, "train", "test")
    trials = pd.DataFrame({"stimulus": ids, "split": split, "subject": "1"})
    responses = Responses(data, trials, pd.DataFrame({"channel": INFO["ch_names"]}), times=np.arange(T) / 250, measure="z")
    layers = {name: levels[:, k] for k, name in enumerate(LEVELS)}
    return responses, Features({"image": levels[:, 0], **layers}, ids, "made up")


DATA, IMAGES, _ = world()


def decoder_for(shape: tuple[int, int], width: int):
    scale = torch.zeros(shape[0], 1), torch.ones(shape[0], 1)
    return build("ubp_like", shape, (width, None), training=UBP_TRAINING, seed=0, device="cpu", scale=scale)


def test_the_network_is_the_released_one() -> None:
    ours, theirs = decoder_for((17, 250), 32).model, Released(17 * 250, 32)
    pairs = [(theirs.first, ours.head.enter), (theirs.second, ours.head.residual[1]), (theirs.norm, ours.head.norm)]
    for to, where in pairs:
        to.load_state_dict(where.state_dict())
    copied = sum(p.numel() for p in theirs.parameters())
    assert sum(p.numel() for p in ours.parameters()) == copied + 1  # and the scale
    assert ours.scale().item() == pytest.approx(math.log(1 + 1 / 0.07))
    x = torch.randn(5, 17, 250)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x), rtol=1e-5, atol=1e-5)
    for net in (ours, theirs):
        torch.manual_seed(3)
        net.train()
        net.drawn = net(x)
    torch.testing.assert_close(ours.drawn, theirs.drawn, rtol=1e-5, atol=1e-5)  # and drops what it drops


def test_a_step_is_that_of_the_loss_with_every_row_at_its_level() -> None:
    decoder = decoder_for((C, T), D)
    decoder.model.eval()
    rows, target = torch.tensor([7, 2, 9, 4]), torch.tensor([3, 1, 0, 2])
    blurred = torch.from_numpy(IMAGES[:4]).permute(1, 0, 2).contiguous()
    prior = BlurPrior(12)
    prior.level[rows] = torch.tensor([MORE, LESS, MEDIUM, MORE])
    value, _ = blurred_step(decoder, (torch.from_numpy(DATA[:4]), None, target), blurred, rows, UBP_TRAINING, prior)
    found = {name: p.grad.clone() for name, p in decoder.model.named_parameters()}
    decoder.model.zero_grad()
    shown = torch.stack([torch.from_numpy(IMAGES[i, level]) for i, level in zip([3, 1, 0, 2], [2, 0, 1, 2], strict=True)])
    scale = torch.log1p(torch.exp(decoder.model.logit_scale))
    logits = scale * decoder.model(torch.from_numpy(DATA[:4])) @ (shown / shown.norm(dim=1, keepdim=True)).T
    loss = (F.cross_entropy(logits, torch.arange(4)) + F.cross_entropy(logits.T, torch.arange(4))) / 2
    loss.backward()
    assert value == pytest.approx(float(loss.detach()), rel=1e-5)
    for name, p in decoder.model.named_parameters():
        torch.testing.assert_close(found[name], p.grad, rtol=1e-4, atol=1e-6)
    expected = torch.ones(12, dtype=torch.float64)
    expected[rows] = 0.3 * logits.diagonal().detach().double() + 0.7
    torch.testing.assert_close(prior.similarity, expected, rtol=1e-5, atol=1e-6)


@pytest.fixture
def priors(monkeypatch: pytest.MonkeyPatch) -> list[BlurPrior]:
    """Every prior that a training makes."""
    made: list[BlurPrior] = []

    class Kept(BlurPrior):
        def __init__(self, *given: object, **named: object) -> None:
            super().__init__(*given, **named)  # type: ignore[arg-type]
            self.sum, self.epochs = torch.zeros(len(self.level)), 0
            made.append(self)

        def advance(self) -> None:
            self.sum, self.epochs = self.sum + self.level, self.epochs + 1
            super().advance()

    monkeypatch.setattr("brainlens.models.sensors.training.BlurPrior", Kept)
    return made


def test_recordings_that_are_noise_get_more_blur_over_ten_seeds(priors: list[BlurPrior]) -> None:
    differences, found = [], []
    for seed in range(10):
        data, levels, lost = world(seed, noisy=0.1)
        training = UBP(**QUICK).training
        result = align_sensors(
            *tables(data, levels), encoder="ubp_like", training=training, protocol=Protocol(subject="1"), seed=seed
        )
        prior = priors[-1]
        rows = _training_rows(training.validation, seed)
        level = (prior.sum / prior.epochs).numpy()
        differences.append(level[lost[rows]].mean() - level[~lost[rows]].mean())
        found.append(result.metrics["retrieval/brain->image/top5"] / result.metrics["retrieval/brain->image/chance5"])
    print("level of noise less that of the others:", np.round(differences, 3), "top5 over chance:", np.round(found, 2))
    assert min(differences) > 0
    assert min(found) > 3


def _training_rows(validation: int, seed: int) -> np.ndarray:
    """Rows that are trained on, in their order: stimuli are sorted by name, as they are made."""
    from brainlens.subjects import held_out

    return np.flatnonzero(~held_out(N - HELD, validation, seed))


def test_what_is_looked_for_is_the_medium_picture() -> None:
    responses, features = tables(DATA, IMAGES)
    training = UBP(**QUICK).training
    result = align_sensors(responses, features, encoder="ubp_like", training=training, protocol=Protocol(subject="1"))
    assert result.config["gallery_layer"] == "blur_medium"
    np.testing.assert_array_equal(result.arrays["embedding/image"], IMAGES[N - HELD :, MEDIUM])
    log = result.tables["log"]
    assert log[list(LEVELS)].sum(axis=1).to_numpy() == pytest.approx(1)
    assert log["blur_medium"].iloc[0] == 1  # the first epoch
    assert log["blur_medium"].min() < 1


def test_arrays_mappings_and_tables_give_the_same_model_to_the_bit(tmp_path) -> None:
    settings = QUICK | {"max_epochs": 2}
    ids = [f"s{k:03d}" for k in range(N)]
    features = Features({name: IMAGES[:, k] for k, name in enumerate(LEVELS)}, np.array(ids), "made up")
    given = (IMAGES, dict(zip(ids, IMAGES, strict=True)), features, torch.from_numpy(IMAGES))
    models = [UBP(**settings).fit(DATA, images, ids=ids, sfreq=250, info=INFO) for images in given]
    unnamed = UBP(**settings).fit(DATA, IMAGES, sfreq=250, info=INFO)  # rows of equal embeddings are one image
    first = models[0].transform(DATA[:5], sfreq=250, info=INFO)
    for model in models[1:]:
        np.testing.assert_array_equal(model.transform(DATA[:5], sfreq=250, info=INFO), first)
    assert unnamed.transform(DATA[:5], sfreq=250, info=INFO).shape == first.shape
    again = UBP.load(models[0].save(tmp_path / "m"))
    np.testing.assert_array_equal(again.transform(DATA[:5], sfreq=250, info=INFO), first)
    assert again.retrieve(DATA[:5], IMAGES[:, MEDIUM], k=3, sfreq=250, info=INFO).shape == (5, 3)
    assert again.score(DATA, IMAGES, ids=ids, sfreq=250, info=INFO) == models[0].score(
        DATA, features, ids=ids, sfreq=250, info=INFO
    )


def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)  # a state after every epoch
    training = UBP(**QUICK).training
    there = tables(*world(3, noisy=0.1)[:2])
    common = {"encoder": "ubp_like", "training": training, "protocol": Protocol(subject="1")}
    whole, _ = fit_sensors(*there, **common)

    def stop(epoch: int, record: dict[str, float]) -> None:
        if epoch == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_sensors(*there, **common, progress=stop, checkpoint=Checkpoint(tmp_path, keep=True))
    assert any(record["blur_medium"] < 1 for record in whole.log[7:])  # there is a prior to go on with
    again, _ = fit_sensors(*there, **common, checkpoint=Checkpoint(tmp_path, keep=True))
    assert again.log == whole.log
    for one, two in zip(again.model.state_dict().values(), whole.model.state_dict().values(), strict=True):
        assert torch.equal(one, two)


def test_the_recipe_is_the_released_one() -> None:
    within = preset("things_eeg2", "ubp_like", SensorOptions(("ubp_like",)))
    across = preset("things_eeg2", "ubp_like", SensorOptions(("ubp_like",), protocol=Protocol("across", "1")))
    meg = preset("things_meg", "ubp_like", SensorOptions(("ubp_like",)))
    assert (within.epochs, within.batch, within.lr, within.betas, within.decay_sensor) == (50, 1024, 1e-4, (0.9, 0.999), 1e-4)
    assert (across.lr, meg.epochs) == (1e-5, 50)
    assert UBP().training == within


@pytest.mark.parametrize(
    "images, more, words",
    [
        (IMAGES[:, 0], {}, r"images of shape \(320, 10\) where UBP takes \(trial, 3, d\)"),
        (IMAGES[:, :2], {}, r"images of shape \(320, 2, 10\) where UBP takes"),
        (IMAGES[:-1], {}, "319 rows for 320 trials"),
        (IMAGES.astype(str), {}, "embeddings are numbers"),
        (np.where(np.arange(N)[:, None, None] == 5, np.nan, IMAGES), {}, "1 rows hold NaN or infinity, first row 5"),
        ({f"s{k:03d}": IMAGES[k, 0] for k in range(N)}, {"named": True}, r"images of shape \(10,\) where UBP takes \(3, d\)"),
        (Features({"image": IMAGES[:, 0]}, np.array([f"s{k:03d}" for k in range(N)]), "x"), {"named": True},
         r"ubp_like is trained to find blurred pictures; images have the layers \['image'\]"),
        (IMAGES, {"texts": IMAGES[:, 0]}, "UBP is trained on images alone; leave texts out"),
        (IMAGES, {"options": {"blur": 3}}, "option 'blur' is not one of"),
    ],
)  # fmt: skip
def test_mistakes(images: object, more: dict, words: str) -> None:
    ids = [f"s{k:03d}" for k in range(N)] if more.get("named") else None
    settings = QUICK | ({"options": more["options"]} if "options" in more else {})
    with pytest.raises(DataError, match=words) as error:
        UBP(**settings).fit(DATA, images, more.get("texts"), ids=ids, sfreq=250, info=INFO)
    assert "\n" not in str(error.value)


def test_a_recording_without_blurred_pictures_is_refused() -> None:
    responses, features = tables(DATA, IMAGES)
    bare = Features({"image": features["image"]}, features.ids, "made up")
    with pytest.raises(DataError, match="ubp_like is trained to find blurred pictures"):
        align_sensors(responses, bare, encoder="ubp_like", training=UBP(**QUICK).training, protocol=Protocol(subject="1"))
