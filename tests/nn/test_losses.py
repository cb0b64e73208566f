import itertools
import tempfile
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F

from brainlens.nn.distributed import gather, processes
from brainlens.nn.losses import CLIP_TEMPERATURE, info_nce, mixco, soft_clip, trimodal
from brainlens.nn.memory_queue import MemoryQueue
from brainlens.types import DataError


def rows(n, seed, d=6):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed))


def plain(a, b, t, extra_a=(), extra_b=(), labels=None, queue_labels=()):
    """The equation term by term."""
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    n = len(a)
    labels = list(range(n)) if labels is None else labels
    queue_labels = queue_labels if len(queue_labels) else [-1] * len(extra_a)
    total = 0.0
    for query, gallery, extra in ((a, b, extra_b), (b, a, extra_a)):
        for i in range(n):
            below = 0.0
            for j in range(n):
                if j == i or labels[j] != labels[i]:
                    below = below + torch.exp(query[i] @ gallery[j] / t)
            for k, row in enumerate(extra):
                if queue_labels[k] != labels[i]:
                    below = below + torch.exp(query[i] @ F.normalize(row, dim=0) / t)
            total = total - (query[i] @ gallery[i] / t - torch.log(below)) / n
    return total


@pytest.mark.parametrize("queued, labelled", itertools.product([False, True], repeat=2))
def test_equals_the_equation(queued, labelled):
    a, b = rows(7, 0), rows(7, 1)
    qa, qb = (rows(5, 2), rows(5, 3)) if queued else (None, None)
    labels = torch.tensor([0, 1, 2, 0, 4, 5, 1]) if labelled else None
    queue_labels = torch.tensor([9, 1, 8, 5, 7]) if queued and labelled else None
    ours = info_nce(a, b, 0.2, queue_a=qa, queue_b=qb, labels=labels, queue_labels=queue_labels)
    truth = plain(
        a,
        b,
        0.2,
        qa if queued else (),
        qb if queued else (),
        labels.tolist() if labelled else None,
        queue_labels.tolist() if queue_labels is not None else (),
    )
    torch.testing.assert_close(ours, truth, rtol=1e-5, atol=1e-6)


def test_a_batch_with_every_image_twice_counts_only_the_other_images():
    brain, image = rows(4, 0), rows(4, 1)
    twice = info_nce(torch.cat([brain, brain]), torch.cat([image, image]), 0.1, labels=torch.tensor([0, 1, 2, 3] * 2))
    logits = F.normalize(brain, dim=1) @ F.normalize(image, dim=1).T / 0.1
    counts = torch.full((4, 4), 2.0).fill_diagonal_(1).log()
    expected = sum(F.cross_entropy(matrix + counts, torch.arange(4)) for matrix in (logits, logits.T))
    torch.testing.assert_close(twice, expected)


def test_positive_repeats_average_the_log_probabilities():
    a, b, labels = rows(4, 0), rows(4, 1), torch.tensor([0, 0, 1, 2])
    logits = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / 0.1
    expected = 0.0
    for matrix in (logits, logits.T):
        log_p = matrix.log_softmax(1)
        each = [(log_p[0, 0] + log_p[0, 1]) / 2, (log_p[1, 0] + log_p[1, 1]) / 2, log_p[2, 2], log_p[3, 3]]
        expected = expected - sum(each) / 4
    torch.testing.assert_close(info_nce(a, b, 0.1, labels=labels, repeats="positive"), expected)


def test_trimodal_adds_and_leaves_out():
    brain, image, text = rows(5, 0), rows(5, 1), rows(5, 2)
    both = trimodal(brain, image, text)
    torch.testing.assert_close(both, info_nce(brain, image, CLIP_TEMPERATURE) + info_nce(brain, text, CLIP_TEMPERATURE))
    torch.testing.assert_close(trimodal(brain, None, text), info_nce(brain, text, CLIP_TEMPERATURE))
    expected = 0.3 * plain(brain, image, 0.2) + 2.0 * plain(brain, text, 0.2)
    torch.testing.assert_close(trimodal(brain, image, text, temperature=0.2, weights=(0.3, 2.0)), expected, rtol=1e-5, atol=1e-6)


def test_the_queue_is_a_ring_of_unit_rows_without_gradient():
    queue = MemoryQueue(6, 5, names=("brain", "image"))
    assert len(queue.content()["brain"]) == 0
    brain = rows(4, 0).requires_grad_()
    queue.push({"brain": brain, "image": rows(4, 1)}, torch.arange(4))
    queue.push({"brain": rows(3, 2), "image": rows(3, 3)}, torch.arange(4, 7))
    held = queue.content()
    assert len(queue) == 5
    assert sorted(held["labels"].tolist()) == [2, 3, 4, 5, 6]
    assert not held["brain"].requires_grad
    where = held["labels"].tolist().index(3)
    torch.testing.assert_close(held["brain"][where], F.normalize(brain[3], dim=0).detach())
    torch.testing.assert_close(held["image"].norm(dim=1), torch.ones(5))
    queue.push({"brain": rows(9, 4), "image": rows(9, 5)}, torch.arange(10, 19))
    assert sorted(queue.content()["labels"].tolist()) == [14, 15, 16, 17, 18]


def test_the_queue_is_cleared_at_another_subject_and_survives_a_resume():
    queue = MemoryQueue(6, 8, names=("brain",))
    queue.push({"brain": rows(3, 0)}, torch.arange(3), subject=1)
    again = MemoryQueue(6, 8, names=("brain",))
    again.load_state_dict(queue.state_dict())
    for q in (queue, again):
        assert len(q.content(subject=2)["brain"]) == 0
        q.push({"brain": rows(2, 1)}, torch.arange(2), subject=1)
        assert len(q.content(subject=1)["brain"]) == 5
    assert all(torch.equal(x, y) for x, y in zip(queue.state_dict().values(), again.state_dict().values()))
    queue.push({"brain": rows(2, 1)}, torch.arange(2), subject=2)
    assert len(queue) == 2
    queue.clear()
    assert len(queue) == 0


def _worker(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model, x, y, labels, queue = _problem()
    mine = slice(4 * rank, 4 * rank + 4)
    loss = _loss(model, x[mine], y[mine], labels[mine], queue)
    loss.backward()
    gradient = model.weight.grad / 2  # averaged over processes, as DistributedDataParallel does
    dist.all_reduce(gradient)
    total = loss.detach() / 2
    dist.all_reduce(total)
    ints = gather(labels[mine])
    torch.save({"loss": total, "gradient": gradient, "labels": ints, "who": processes()}, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def _problem():
    torch.manual_seed(0)
    queue = {"brain": rows(6, 8), "image": rows(6, 9), "labels": torch.tensor([0, 1, 20, 21, 22, 23])}
    return torch.nn.Linear(10, 6, bias=False), rows(8, 3, 10), rows(8, 4), torch.tensor([0, 1, 2, 3, 0, 5, 6, 3]), queue


def _loss(model, x, y, labels, queue):
    return trimodal(model(x), y, None, temperature=0.1, queue=queue, labels=labels)


def test_two_processes_equal_the_joint_batch():
    model, x, y, labels, queue = _problem()
    joint = _loss(model, x, y, labels, queue)
    joint.backward()
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_worker, args=(folder,), nprocs=2)
        for rank in range(2):
            got = torch.load(Path(folder) / f"{rank}.pt", weights_only=True)
            torch.testing.assert_close(got["loss"], joint.detach(), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(got["gradient"], model.weight.grad, rtol=1e-5, atol=1e-6)
            assert torch.equal(got["labels"], labels)
            assert tuple(got["who"]) == (rank, 2)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda: info_nce(rows(1, 0), rows(1, 1)), "at least 2"),
        (lambda: info_nce(rows(3, 0), rows(4, 1)), "equal"),
        (lambda: info_nce(rows(3, 0), rows(3, 1), 0.0), "temperature"),
        (lambda: info_nce(rows(3, 0), rows(3, 1), repeats="drop"), "mask"),
        (
            lambda: info_nce(rows(3, 0), rows(3, 1), queue_a=rows(2, 2), queue_b=rows(2, 3), labels=torch.arange(3)),
            "queue_labels",
        ),
        (lambda: trimodal(rows(3, 0), None, None), "neither"),
        (lambda: MemoryQueue(6, 0), "at least 1"),
        (lambda: MemoryQueue(6, 4).push({"brain": rows(2, 0)}, torch.arange(2)), "image"),
        (lambda: MemoryQueue(6, 4, names=("brain",)).push({"brain": rows(2, 0)}, torch.arange(3)), "3 labels"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(DataError, match=words):
        call()


def log_p(query, gallery, t, i, j):
    """log of the softmax at j of the cosines of row i with all rows."""
    every = [F.cosine_similarity(query[i], row, dim=0) / t for row in gallery]
    return every[j] - torch.log(sum(torch.exp(one) for one in every))


def test_mixco_is_the_equation_and_a_row_mixed_with_itself_keeps_its_weight():
    a, b, t = rows(5, 0), rows(5, 1), 0.3
    order, share = torch.tensor([2, 1, 0, 4, 3]), torch.tensor([0.7, 0.2, 1.0, 0.4, 0.9])
    total = 0.0
    for i in range(5):
        parts = [(i, float(share[i])), (int(order[i]), 1 - float(share[i]))]
        for j, weight in parts:
            total = total - weight * (log_p(a, b, t, i, j) + log_p(b, a, t, j, i)) / 10
    torch.testing.assert_close(mixco(a, b, order, share, t), total, rtol=1e-5, atol=1e-6)
    whole = mixco(a, b, order, torch.ones(5), t)
    torch.testing.assert_close(whole, info_nce(a, b, t) / 2)  # the same two directions, added there and averaged here


def test_soft_clip_is_the_equation():
    a, b, t = rows(5, 2), rows(5, 3), 0.3
    total = 0.0
    for i, j in itertools.product(range(5), repeat=2):
        alike = torch.exp(log_p(b, b, t, i, j))
        total = total - alike * (log_p(a, b, t, i, j) + log_p(b, a, t, i, j)) / 10
    torch.testing.assert_close(soft_clip(a, b, t), total, rtol=1e-5, atol=1e-6)
    apart = torch.eye(5, 6)  # images that share nothing: at a small temperature each asks for itself alone
    torch.testing.assert_close(soft_clip(a, apart, 0.05), info_nce(a, apart, 0.05) / 2, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [lambda a, b, t: mixco(a, b, torch.arange(4), torch.ones(4), t), soft_clip])
def test_mistakes_of_mindeyes_losses(loss):
    with pytest.raises(DataError, match="temperature 0"):
        loss(rows(4, 0), rows(4, 1), 0)
    with pytest.raises(DataError, match="equal"):
        loss(rows(4, 0), rows(4, 1, 3), 0.1)
