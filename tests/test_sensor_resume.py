"""A sensor training that was stopped goes on to the same bits; recordings on disk are fitted as copies of them are."""

from __future__ import annotations

import signal
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from brainlens import store
from brainlens.models.sensors import checkpoint, moments
from brainlens.models.sensors.checkpoint import Checkpoint
from brainlens.models.sensors.decoder import NICE_TRAINING, SensorDecoder, SensorTraining
from brainlens.models.sensors.fit import fit_sensors
from brainlens.models.sensors.ridge import fit_ridge
from brainlens.models.sensors.split import split_subjects
from brainlens.subjects import Protocol
from brainlens.types import DataError, Features, Responses

QUICK = SensorTraining(epochs=6, batch=32, lr=1e-3, validation=12, width=16)
QUICK_NICE = replace(NICE_TRAINING, epochs=6, batch=32, lr=1e-3, validation=12)
World = tuple[Responses, Features, Features]


def world(subjects: int = 2, images: int = 90, shape: tuple[int, int] = (6, 100)) -> World:
    rng = np.random.default_rng(0)
    ids = np.array([f"s{i:03d}" for i in range(images)])
    z = rng.normal(size=(images, 4)).astype(np.float32)
    data = {name: z @ rng.normal(size=(4, 10)).astype(np.float32) for name in ("image", "saliency")}
    texts = Features({"text": z @ rng.normal(size=(4, 8)).astype(np.float32)}, ids, "text")
    table = pd.DataFrame({"stimulus": ids, "split": np.where(np.arange(images) < images - 10, "train", "test")})
    trials = pd.concat([table.assign(subject=str(s + 1)) for s in range(subjects)], ignore_index=True)
    signal_ = np.einsum("nk,kct->nct", z, rng.normal(size=(4, *shape)))
    values = np.concatenate([signal_ + rng.normal(size=signal_.shape) for _ in range(subjects)]).astype(np.float16)
    units = pd.DataFrame({"channel": [f"C{i}" for i in range(shape[0])]})
    return Responses(values, trials, units, times=np.arange(shape[1]) / 100, measure="z"), Features(data, ids, "net"), texts


ONE = Protocol(subject="1")


def fit(there: World, encoder: str = "neuroalign", **more: object) -> tuple[SensorDecoder, Responses]:
    training = QUICK if encoder == "neuroalign" else QUICK_NICE
    return fit_sensors(*there, encoder=encoder, **({"training": training, "protocol": ONE} | more))  # type: ignore[arg-type]


def bits(decoder: SensorDecoder) -> list[torch.Tensor]:
    parts = (decoder.model, decoder.image_head, decoder.text_head)
    return [value for part in parts for value in part.state_dict().values()] + list(decoder.scale)


def same(one: SensorDecoder, two: SensorDecoder) -> bool:
    equal = all(torch.equal(a, b) for a, b in zip(bits(one), bits(two), strict=True))
    return equal and one.log == two.log and one.best_epoch == two.best_epoch


class Stopped(Exception):
    """What ends a training in these tests."""


class Stop:
    """Counts epochs, and stops the training in one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.at, self.seen = at, []

    def __call__(self, epoch: int, record: dict[str, float]) -> None:
        self.seen.append(epoch)
        if epoch == self.at:
            raise Stopped


@pytest.fixture
def every(monkeypatch: pytest.MonkeyPatch) -> None:
    """A state after every epoch, whatever it costs."""
    monkeypatch.setattr(checkpoint, "SHARE", 1e9)


@pytest.mark.usefixtures("every")
@pytest.mark.parametrize("encoder, at", [("neuroalign", 4), ("neuroalign", 1), ("linear", 3), ("nice", 5)])
def test_a_stopped_training_goes_on_to_the_same_bits(tmp_path: Path, encoder: str, at: int) -> None:
    there, place = world(), tmp_path / "kept"
    whole, _ = fit(there, encoder)
    with pytest.raises(Stopped):
        fit(there, encoder, checkpoint=place, progress=Stop(at))
    before = torch.random.get_rng_state()
    torch.manual_seed(77)  # another state of the global generator than the one that was stopped
    rest = Stop()
    resumed, _ = fit(there, encoder, checkpoint=place, progress=rest)
    torch.random.set_rng_state(before)
    assert rest.seen == list(range(at, 6))
    assert same(whole, resumed)
    assert resumed.seconds > 0
    assert not place.exists()


def test_the_weights_that_are_left_are_those_of_the_best_epoch() -> None:
    """A training that goes on after its best epoch ends as one that stops there, to the bit."""
    there, training = world(), replace(QUICK_NICE, epochs=40, patience=None, lr=2e-2)
    whole, _ = fit(there, "linear", training=training)
    best = 1 + int(np.argmin([record["validation"] for record in whole.log]))
    assert (whole.best_epoch, len(whole.log)) == (best, 40)
    assert best < 40
    short, _ = fit(there, "linear", training=replace(training, epochs=best))
    assert all(torch.equal(a, b) for a, b in zip(bits(whole), bits(short), strict=True))


@pytest.mark.usefixtures("every")
def test_early_stopping_and_a_second_stop_change_nothing(tmp_path: Path) -> None:
    there, training = world(), replace(QUICK_NICE, epochs=60, patience=2, lr=2e-2)
    whole, _ = fit(there, "linear", training=training)
    many = len(whole.log)
    assert 4 < many < 60
    for at in (2, many - 1):
        with pytest.raises(Stopped):
            fit(there, "linear", training=training, checkpoint=tmp_path, progress=Stop(at))
    last = Stop()
    assert same(whole, fit(there, "linear", training=training, checkpoint=tmp_path, progress=last)[0])
    assert last.seen == [many - 1]


@pytest.mark.usefixtures("every")
def test_a_finished_training_that_is_kept_is_returned_at_once(tmp_path: Path) -> None:
    there, again = world(), Stop()
    kept = Checkpoint(tmp_path / "kept", keep=True)
    one, _ = fit(there, checkpoint=kept)
    two, _ = fit(there, checkpoint=kept, progress=again)
    assert again.seen == []
    assert same(one, two)
    saved = store.load_checkpoint(kept.folder)
    assert saved is not None
    assert 0 < saved["seconds"] < two.seconds  # what the training took is counted, and not only what reading it did


def test_states_are_written_no_oftener_than_they_may_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    monkeypatch.setattr(store, "save_checkpoint", lambda folder, state: written.append(state["epoch"]))
    clock = iter(range(10**6))
    monkeypatch.setattr(checkpoint.time, "perf_counter", lambda: float(next(clock)))  # every look takes a second
    monkeypatch.setattr(checkpoint, "SHARE", 0.25)
    fit(world(), "linear", training=replace(QUICK_NICE, epochs=20), checkpoint=tmp_path)
    assert written[0] == 1
    assert 3 <= len(written) <= 8


CHANGES: dict[str, Callable[[World], tuple[World, dict[str, object]]]] = {
    "training": lambda w: (w, {"training": replace(QUICK, lr=2e-3)}),
    "encoder": lambda w: (w, {"encoder": "nice", "training": QUICK}),
    "seed": lambda w: (w, {"seed": 1}),
    "subject": lambda w: (w, {"protocol": Protocol(subject="2")}),
    "recording": lambda w: ((replace(w[0], data=w[0].data + np.float16(0.5)), *w[1:]), {}),
    "images": lambda w: ((w[0], replace(w[1], data={k: v + 1 for k, v in w[1].data.items()}), w[2]), {}),
    "texts": lambda w: ((*w[:2], replace(w[2], data={"text": w[2]["text"] + 1})), {}),
    "code": lambda w: (w, {}),
}


@pytest.mark.usefixtures("every")
@pytest.mark.parametrize("change", CHANGES)
def test_a_state_of_another_configuration_is_not_used(tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there, place = world(), tmp_path / "kept"
    with pytest.raises(Stopped):
        fit(there, checkpoint=place, progress=Stop(3))
    other, more = CHANGES[change](there)
    if change == "code":
        monkeypatch.setitem(store.TASKS, "align", 99)
    plain, _ = fit(other, **more)
    seen = Stop()
    found, _ = fit(other, checkpoint=place, progress=seen, **more)
    assert seen.seen[0] == 0
    assert same(plain, found)
    assert not place.exists()


PROGRAM = """
import os, signal, sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
import torch
from brainlens import store
from brainlens.models.sensors import checkpoint as resume
torch.set_num_threads(1)
spec = spec_from_file_location("here", sys.argv[1])
here = module_from_spec(spec); spec.loader.exec_module(here)
resume.SHARE = 1e9
kill = int(sys.argv[4])

def tell(epoch, record):
    if epoch == kill:
        os.kill(os.getpid(), signal.SIGKILL)

decoder, _ = here.fit(here.world(), checkpoint=Path(sys.argv[2]), progress=tell)
store.save_weights(sys.argv[3], "bits", {str(i): value.float() for i, value in enumerate(here.bits(decoder))})
"""


def program(place: Path, out: Path, kill: int) -> int:
    command = [sys.executable, "-c", PROGRAM, __file__, str(place), str(out), str(kill)]
    return subprocess.run(command, check=False).returncode


def test_signal_9_changes_no_bit(tmp_path: Path) -> None:
    assert program(tmp_path / "a", tmp_path / "whole", -1) == 0
    assert program(tmp_path / "b", tmp_path / "resumed", 3) == -signal.SIGKILL
    saved = store.load_checkpoint(tmp_path / "b")
    assert saved is not None
    assert saved["epoch"] == 3
    assert program(tmp_path / "b", tmp_path / "resumed", -1) == 0
    assert not (tmp_path / "b").exists()
    whole, resumed = (store.load_weights(tmp_path / name, "bits") for name in ("whole", "resumed"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def on_disk(there: World, place: Path) -> World:
    """The same recording as a memory map whose rows lie in another order."""
    order = np.random.default_rng(3).permutation(len(there[0]))
    store.save_array(place, "x", there[0].data[order])
    back = store.select_rows(store.open_array(place, "x"), np.argsort(order))
    return replace(there[0], data=back), *there[1:]


@pytest.mark.parametrize("kind", ["within", "across"])
def test_recordings_on_disk_are_fitted_as_copies_are(tmp_path: Path, kind: str) -> None:
    there, protocol = world(3), Protocol(kind, "2")
    mapped = on_disk(there, tmp_path)
    for part, other in zip(split_subjects(mapped[0], protocol), split_subjects(there[0], protocol), strict=True):
        assert isinstance(part.data, store.LazyRows)
        assert np.array_equal(part.data, other.data)
        assert part.trials.equals(other.trials)
    for encoder in ("neuroalign", "linear"):
        (one, test), (two, _) = (fit(w, encoder, protocol=protocol) for w in (there, mapped))
        assert same(one, two)
        assert np.array_equal(one.embed(test.data), two.embed(test.data))
    ridges = [fit_ridge(w[0], w[1], protocol=protocol, validation=12)[0] for w in (there, mapped)]
    assert np.array_equal(ridges[0].weights, ridges[1].weights)
    assert ridges[0].validation == ridges[1].validation


def test_single_trials_on_disk_are_averaged_as_copies_are(tmp_path: Path) -> None:
    responses, images, texts = world(1)
    twice = responses.rows(np.arange(180) // 2)
    twice = replace(twice, data=twice.data + np.random.default_rng(1).normal(size=twice.data.shape).astype(np.float16))
    mapped = on_disk((twice, images, texts), tmp_path)
    assert same(fit((twice, images, texts), "nice")[0], fit(mapped, "nice")[0])


def test_ridge_never_holds_the_recording(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a copy of the rows nor the bins of all of them: tens of thousands of rows would be gigabytes of each."""
    responses, images, _ = world(1, images=6010, shape=(20, 100))
    store.save_array(tmp_path, "x", responses.data)
    mapped = replace(responses, data=store.open_array(tmp_path, "x"))
    size = mapped.data.nbytes
    monkeypatch.setattr(moments, "BLOCK", 128)  # rows, as 1,024 are to 48,000
    tracemalloc.start()
    fit_ridge(mapped, images, protocol=ONE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.4 * size  # a block in float16 and float32, the Gram matrix, the tables of trials


def test_volts_of_a_user_are_refused_and_never_multiplied() -> None:
    responses, images, texts = world(2)
    plain = replace(responses, data=np.asarray(responses.data, np.float32) * 5, measure="uV")
    volts = replace(plain, data=plain.data.astype(np.float64) * 1e-6)
    for attempt in (
        lambda: fit((volts, images, texts), "linear"),
        lambda: fit_ridge(volts, images, protocol=ONE, validation=12),
    ):
        with pytest.raises(DataError, match="looks like volts or tesla"):
            attempt()
    mixed = np.where((plain.trials["subject"] == "2").to_numpy()[:, None, None], volts.data, plain.data)
    with pytest.raises(DataError, match=r"subject '2'.*looks like volts or tesla"):
        fit((replace(plain, data=mixed), images, texts), "linear")
