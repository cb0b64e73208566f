"""One step in pieces, in processes, in half precision, with a queue: always the loss and gradients of the joint batch."""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.multiprocessing as mp

from brainlens.models.processes import joined
from brainlens.models.volume.batches import Batches
from brainlens.models.volume.split import Split, gather_mean, split_tables
from brainlens.models.volume.steps import APART, joint_gradients, remember
from brainlens.models.volume.training import AlignmentRun, AlignmentTraining, train_contrastive
from brainlens.nn.distributed import processes
from brainlens.nn.losses import info_nce, trimodal
from brainlens.nn.memory_queue import MemoryQueue
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.types import DataError, Features, Responses, Volume

MASK = np.ones((4, 4, 4), dtype=bool)
DESIGN = VolumeDesign(patch=2, width=16, depth=2, heads=2, embed_dim=8)
QUICK = AlignmentTraining(steps=12, batch=16, evaluate_every=4, checkpoint_every=4, lr=3e-3, warmup=0.1)


def split(subjects: int = 1, n: int = 60, spoiled: str | None = None) -> Split:
    """Images seen twice by each subject, whose voxels read an 8-dimensional embedding by weights of their own."""
    rng = np.random.default_rng(2)
    z = rng.normal(size=(n, 8)).astype(np.float32)
    ids = np.array([f"i{i:02d}" for i in range(n)])
    text = (z + 0.3 * rng.normal(size=z.shape)).astype(np.float32)
    parts = []
    for s in range(subjects):
        x = np.repeat(z @ rng.normal(size=(8, 64)), 2, axis=0) + rng.normal(size=(2 * n, 64))
        stimulus = np.repeat(ids, 2)
        x[stimulus == spoiled] = 1e6  # larger values are no responses
        kind = np.repeat(np.where(np.arange(n) < n - 12, "train", "test"), 2)
        parts.append((x, pd.DataFrame({"stimulus": stimulus, "subject": f"s{s}", "split": kind})))
    data = np.concatenate([x for x, _ in parts]).astype(np.float32)
    trials = pd.concat([t for _, t in parts])
    responses = Responses(data, trials, pd.DataFrame(index=range(64)), Volume(MASK, np.eye(4)))
    return split_tables(responses, Features({"image": z}, ids, "made up"), Features({"text": text}, ids, "made up"))


def encoder(seed: int = 0, **changes: object) -> VolumeEncoder:
    return VolumeEncoder(MASK, replace(DESIGN, **changes), seed=seed).train()  # type: ignore[arg-type]


def gradients(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def filled_queue(part: object, size: int = 40) -> MemoryQueue:
    queue = MemoryQueue(8, size)
    rows = torch.randn(3, 20, 8, generator=torch.Generator().manual_seed(4))
    queue.push(dict(zip(("brain", "image", "text"), rows, strict=True)), torch.arange(20))
    return queue


@pytest.mark.parametrize("modality", ["both", "image", "text"])
@pytest.mark.parametrize("queued", [False, True])
def test_pieces_have_the_loss_and_gradients_of_the_whole_batch(queued, modality):
    part = split().train
    drawn = Batches(part, 16, "subset", 0).draw(3)
    queue = filled_queue(part) if queued else None
    if queue is not None and modality != "both":
        queue.names = ("brain", modality)
    plain = encoder()
    x = gather_mean(part.x, drawn.rows, drawn.weights)
    image = part.image[drawn.items] if modality != "text" else None
    text = part.text[drawn.items] if modality != "image" else None
    z = plain(x)
    labels = drawn.items if queued else None
    past = queue.content() if queue is not None else {}
    truth = sum(
        info_nce(z, aim, 0.07, queue_a=past.get("brain"), queue_b=past.get(name), labels=labels, queue_labels=past.get("labels"))
        for name, aim in (("image", image), ("text", text))
        if aim is not None
    )
    truth.backward()
    for pieces in (1, 2, 4):
        module = encoder()
        loss, embedded = joint_gradients(module, part, drawn, accumulate=pieces, queue=queue, modality=modality)
        torch.testing.assert_close(loss, truth.detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(embedded, z.detach(), rtol=1e-5, atol=1e-5)
        for name, gradient in gradients(module).items():
            torch.testing.assert_close(gradient, plain.get_parameter(name).grad, rtol=1e-5, atol=1e-5)


def test_dropout_is_the_same_in_both_passes_over_a_piece():
    part = split().train
    drawn = Batches(part, 16, "mean", 0).draw(0)
    module, plain = encoder(dropout=0.3, patch_dropout=0.4), encoder(dropout=0.3, patch_dropout=0.4)
    loss, _ = joint_gradients(module, part, drawn, accumulate=2)
    x = gather_mean(part.x, drawn.rows, drawn.weights)
    halves = []
    for k in range(2):
        torch.manual_seed(drawn.seed + APART * k)
        halves.append(plain(x[8 * k : 8 * k + 8]))
    truth = trimodal(torch.cat(halves), part.image[drawn.items], part.text[drawn.items], temperature=0.07)
    truth.backward()
    torch.testing.assert_close(loss, truth.detach(), rtol=1e-5, atol=1e-5)
    for name, gradient in gradients(module).items():
        torch.testing.assert_close(gradient, plain.get_parameter(name).grad, rtol=1e-5, atol=1e-5)


def test_recomputed_activations_change_nothing():
    part = split().train
    drawn = Batches(part, 16, "mean", 0).draw(0)
    kept, recomputed = encoder(dropout=0.2), encoder(dropout=0.2, checkpointing=True)
    for module in (kept, recomputed):
        joint_gradients(module, part, drawn)
    for name, gradient in gradients(kept).items():
        torch.testing.assert_close(gradients(recomputed)[name], gradient, rtol=1e-5, atol=1e-6)


def test_half_precision_is_near_and_its_gradients_are_scaled():
    part = split().train
    drawn = Batches(part, 16, "mean", 0).draw(0)
    exact = encoder()
    loss, _ = joint_gradients(exact, part, drawn)
    for precision, off in (("bfloat16", 0.05), ("float16", 0.01)):
        module = encoder()
        near, _ = joint_gradients(module, part, drawn, precision=precision, scale=lambda value: value * 8)
        assert 0 < abs(float(near - loss)) < off
        assert all(g.dtype == torch.float32 for g in gradients(module).values())
        flat = [torch.cat([g.ravel() for g in gradients(m).values()]) for m in (module, exact)]
        assert torch.nn.functional.cosine_similarity(*flat, dim=0) > 0.98
        assert 7 < flat[0].norm() / flat[1].norm() < 9


def test_a_float16_overflow_skips_the_step_and_lowers_the_scale():
    part = split()
    run = AlignmentRun.begin(encoder(), replace(QUICK, precision="float16"), part.train)
    run.scaler.load_state_dict({**run.scaler.state_dict(), "scale": 2.0**40})
    before = {k: v.clone() for k, v in run.module.state_dict().items()}
    from brainlens.models.volume.training import _step

    _step(run, part.train, Batches(part.train, 16, "mean", 0), replace(QUICK, precision="float16"))
    assert all(torch.equal(before[k], v) for k, v in run.module.state_dict().items())
    assert run.scaler.get_scale() == 2.0**39


# --- subjects


def test_a_batch_is_of_one_subject_and_every_subject_has_its_turn():
    part = split(subjects=3).train
    batches = Batches(part, 16, "mean", 1)
    drawn = [batches.draw(step) for step in range(18)]
    for one in drawn:
        assert set(part.subject[one.items.numpy()]) == {part.subjects[one.subject]}
        assert len(set(part.ids[one.items.numpy()])) == 16
    turns = [one.subject for one in drawn]
    per = batches.lengths[0]
    for cycle in np.split(np.array(turns), len(turns) // (3 * per)):
        assert sorted(cycle[::per]) == [0, 1, 2]
        assert (cycle.reshape(3, per) == cycle[::per, None]).all()


def test_repeats_are_averaged_within_a_subject_only():
    part = split(subjects=2)
    rows = part.train.mean()
    for name in ("s0", "s1"):
        own = part.train.of(name)
        assert set(own.subject) == {name}
        torch.testing.assert_close(own.mean(), rows[torch.from_numpy(part.train.items(name))])
    assert set(part.validation.of("s0").ids) == set(part.validation.of("s1").ids)
    with pytest.raises(DataError, match=r"subject 's9' is not in this part of the split; it has \['s0', 's1'\]"):
        part.train.of("s9")


def test_the_queue_in_the_loop_holds_the_last_steps_of_the_subject_at_hand():
    data = split(subjects=2)
    part, batches = data.train, Batches(data.train, 16, "mean", 0)
    queue = MemoryQueue(8, 24)
    for step in range(6):
        drawn = batches.draw(step)
        z = torch.randn(16, 8, generator=torch.Generator().manual_seed(step))
        remember(queue, part, drawn, z, accumulate=1, modality="both")
        held = queue.content(subject=drawn.subject)["labels"].tolist()
        assert set(held) <= set(part.items(part.subjects[drawn.subject]).tolist())
        assert set(drawn.items.tolist()) <= set(held)
        changed = step == 0 or batches.subject(step - 1) != drawn.subject
        assert len(queue) == (16 if changed else 24)


# --- a whole training


OPTIONS = {
    "plain": {},
    "pieces and queue": {"accumulate": 2, "queue": 24},
    "bfloat16": {"precision": "bfloat16", "accumulate": 2},
    "float16": {"precision": "float16", "queue": 24},
    "text alone": {"modality": "text", "queue": 8},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_a_stopped_run_goes_on_to_the_same_bits_with_every_option(options, tmp_path):
    data, training = split(subjects=2), replace(QUICK, **options)

    class Stopped(Exception):
        pass

    def stop_at_8(step: int, record: dict[str, float]) -> None:
        if step == 8:
            raise Stopped

    whole, resumed = (encoder(dropout=0.1, patch_dropout=0.3) for _ in range(2))
    log = train_contrastive(whole, data, training, seed=3)
    with pytest.raises(Stopped):
        train_contrastive(encoder(dropout=0.1, patch_dropout=0.3), data, training, seed=3, folder=tmp_path, progress=stop_at_8)
    assert train_contrastive(resumed, data, training, seed=3, folder=tmp_path) == log
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), resumed.state_dict().values(), strict=True))
    assert all(torch.isfinite(value).all() for value in whole.state_dict().values())


def test_a_queue_of_targets_holds_no_brain_and_leaves_that_direction_to_the_batch():
    part = split().train
    training = replace(QUICK, queue=24, queue_holds="targets")
    run, batches = AlignmentRun.begin(encoder(), training, part), Batches(part, 16, "mean", 0)
    for step in range(2):
        drawn = batches.draw(step)
        loss, z = joint_gradients(run.module, part, drawn, queue=run.queue)
        before = {name: value.clone() for name, value in run.queue.content().items()}
        remember(run.queue, part, drawn, z, accumulate=1, modality="both")
    assert sorted(before) == ["image", "labels", "text"]
    assert len(before["image"]) == 16
    items, truth = drawn.items, 0
    same = items[:, None] == torch.cat([items, before["labels"]])[None]
    same[torch.arange(16), torch.arange(16)] = False
    b = torch.nn.functional.normalize(z, dim=1)
    for aim, name in ((part.image, "image"), (part.text, "text")):
        logits = (b @ torch.cat([aim[items], before[name]]).T / 0.07).masked_fill(same, -torch.inf)
        truth = truth + torch.nn.functional.cross_entropy(logits, torch.arange(16))
        truth = truth + torch.nn.functional.cross_entropy(aim[items] @ b.T / 0.07, torch.arange(16))
    torch.testing.assert_close(loss, truth, rtol=1e-5, atol=1e-5)


def test_past_brains_pull_all_present_ones_together_and_past_targets_do_not():
    """With equal brain embeddings the loss from targets to brains does not say where they should lie; with older ones it does."""
    rng = torch.Generator().manual_seed(0)
    aim = torch.nn.functional.normalize(torch.randn(16, 8, generator=rng) + 2, dim=1)  # on one side of the sphere
    place, past = torch.randn(8, generator=rng), torch.randn(8, generator=rng)

    def pull(queue: torch.Tensor | None) -> torch.Tensor:
        z = place.clone().requires_grad_()
        b = torch.nn.functional.normalize(z, dim=0).expand(16, 8)
        gallery = b if queue is None else torch.cat([b, queue])
        torch.nn.functional.cross_entropy(aim @ gallery.T / 0.07, torch.arange(16)).backward()
        assert z.grad is not None
        return -z.grad

    assert float(pull(None).norm()) < 1e-5
    old = torch.nn.functional.normalize(past, dim=0).expand(40, 8)
    mean = aim.mean(0) - (aim.mean(0) @ place) * place / (place @ place)
    assert float(torch.nn.functional.cosine_similarity(pull(old), mean, dim=0)) > 0.9


def test_epochs_count_the_steps():
    assert AlignmentTraining(epochs=150, batch=256).on(9000).steps == 5273
    assert AlignmentTraining(steps=7).on(9000).steps == 7


# --- two processes


def _worker(rank: int, folder: str, port: int) -> None:
    """One of two processes, told who it is as `torchrun` tells."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with joined() as device:
        assert (device, processes()) == ("cpu", (rank, 2))
        found = [_short_training(1, queue, Path(folder) / f"checkpoints{queue}") for queue in (0, 24)]
        torch.save(found, f"{folder}/{rank}.pt")
    assert processes() == (0, 1)


def _short_training(pieces: int, queue: int, folder: Path | None = None) -> dict[str, object]:
    """Loss and gradients of one step, then the weights and the log of a whole training."""
    data, training = split(subjects=2), replace(QUICK, accumulate=pieces, queue=queue)
    module = encoder(dropout=0.1, patch_dropout=0.3)
    drawn = Batches(data.train, 16, "subset", 0).draw(5)
    loss, _ = joint_gradients(module, data.train, drawn, accumulate=pieces, queue=filled_queue(data.train) if queue else None)
    found: dict[str, object] = {"loss": loss, "gradients": gradients(module)}
    module = encoder(dropout=0.1, patch_dropout=0.3)
    log = train_contrastive(module, data, training, seed=1, folder=folder)
    return found | {"weights": dict(module.state_dict()), "log": log}


def test_two_processes_train_as_one_does_with_the_joint_batch(tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.spawn(_worker, args=(str(tmp_path), port), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for truth, both in zip([_short_training(2, queue) for queue in (0, 24)], zip(*found, strict=True), strict=True):
        for got in both:
            torch.testing.assert_close(got["loss"], truth["loss"], rtol=1e-5, atol=1e-5)
            for kind in ("gradients", "weights"):
                for name, value in truth[kind].items():
                    a, b = got[kind][name], value
                    if name.endswith("qkv.bias"):  # a key bias cancels in the softmax: AdamW walks on its rounding noise
                        a, b = a[[*range(16), *range(32, 48)]], b[[*range(16), *range(32, 48)]]
                    torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
            for mine, theirs in zip(got["log"], truth["log"], strict=True):
                assert mine == pytest.approx(theirs, rel=1e-4)
        assert all(torch.equal(both[0]["weights"][name], value) for name, value in both[1]["weights"].items())


# --- what goes wrong


@pytest.mark.parametrize(
    "change, words",
    [
        ({"precision": "float8"}, "float8' is not one of float32, bfloat16, float16"),
        ({"modality": "sound"}, "sound' is not one of both, image, text"),
        ({"batch": 1}, "batch 1 is too small"),
        ({"accumulate": 0}, "accumulate 0"),
        ({"queue": -1}, "queue -1"),
        ({"queue_holds": "brains"}, "brains' is not one of all, targets"),
        ({"temperature": 0.0}, "temperature"),
        ({"accumulate": 20}, "a batch of 16 in 1 processes x 20 pieces is too small for a contrastive loss"),
    ],
)
def test_mistakes_are_one_line(change, words):
    with pytest.raises(DataError, match=words) as error:
        train_contrastive(encoder(), split(), replace(QUICK, **change))
    assert "\n" not in str(error.value)


def test_a_loss_that_is_not_finite_names_image_and_trials_and_leaves_the_last_checkpoint(tmp_path):
    from brainlens import store

    good, bad = split(), split(spoiled="i07")
    module = encoder()
    module.register_forward_hook(
        lambda _, inputs, out: out + torch.where(inputs[0].flatten(1).abs().amax(1) > 1e3, torch.nan, 0.0)[:, None]
    )
    with pytest.raises(DataError, match=r"the loss is nan at step 0, in a batch with \['i07'\], trials \[14, 15\]"):
        train_contrastive(module, bad, replace(QUICK, batch=48))
    calls = []

    def break_it(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return output * (float("nan") if len(calls) == 10 else 1.0)

    module = encoder()
    module.register_forward_hook(break_it)
    with pytest.raises(DataError, match="at step 9, in a batch with"):
        train_contrastive(module, good, replace(QUICK, evaluate_every=12), folder=tmp_path)
    saved = store.load_checkpoint(tmp_path)
    assert saved["step"] == 8
    assert all(torch.isfinite(value).all() for value in saved["module"].values())


def test_a_checkpoint_of_another_run_is_refused_by_name(tmp_path):
    data = split(subjects=2)
    train_contrastive(encoder(), data, replace(QUICK, steps=4), folder=tmp_path)
    one = replace(data, train=data.train.of("s0"), validation=data.validation.of("s0"))
    cases = [
        ((encoder(), one, replace(QUICK, steps=4)), r"its subjects is \['s0', 's1'\], this run's \['s0'\]"),
        ((encoder(), data, replace(QUICK, steps=4, lr=1.0)), "its training.lr is 0.003, this run's 1.0"),
        ((encoder(depth=1), data, replace(QUICK, steps=4)), "its encoder is"),
    ]
    for arguments, words in cases:
        with pytest.raises(DataError, match=words) as error:
            train_contrastive(*arguments, folder=tmp_path)
        assert "\n" not in str(error.value)
