import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from brainlens.attribution.bottleneck import Bottleneck, Statistics, bottleneck, divergence, divergence_slope, draw, statistics
from brainlens.attribution.targets import frozen
from brainlens.nn.volume_encoder import VolumeDesign, VolumeEncoder
from brainlens.types import DataError

SETTINGS = Bottleneck(steps=8, copies=4)


def problem(samples=5, tokens=6, width=8, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, tokens, width, generator=g) * 2 + 1
    matrix = torch.randn(width, 7, generator=g)
    targets = torch.randn(samples, 2, 7, generator=g)
    reference = statistics([torch.randn(50, tokens, width, generator=g) * 2 + 1])
    return x, (lambda z: torch.tanh(z).mean(1) @ matrix), targets, reference


def plain(x, tail, targets, reference, settings):
    """One sample at a time by autograd and torch's Adam, the divergence by torch's distributions."""
    maps = []
    for i in range(len(x)):
        alpha = torch.full((1, *x.shape[1:]), 5.0, requires_grad=True)
        optimiser = torch.optim.Adam([alpha], lr=settings.lr)
        generator = torch.Generator().manual_seed(settings.seed)
        scale = reference.std * settings.variance**0.5
        for _ in range(settings.steps):
            lam = alpha.sigmoid()
            noise = reference.mean + scale * draw(generator, settings, x)
            many = x[i : i + 1].expand(settings.copies, -1, -1)
            z = lam * many + (1 - lam) * noise
            posterior = Normal(lam * x[i : i + 1] + (1 - lam) * reference.mean, (1 - lam) * scale)
            kl = kl_divergence(posterior, Normal(reference.mean, scale))
            cos = sum(F.cosine_similarity(tail(z), t[None]) for t in targets[i])
            loss = settings.beta * kl.mean() - cos.mean()
            optimiser.zero_grad()
            loss.backward()
            if settings.read == "before":
                maps_now = kl.detach()
            optimiser.step()
        if settings.read == "after":
            maps_now = divergence(alpha.detach(), ((x[i : i + 1] - reference.mean) / scale) ** 2)
        maps.append(maps_now.sum(-1) / math.log(2))
    return torch.cat(maps)


@pytest.mark.parametrize("changes", [{}, {"read": "after"}, {"variance": 0.3, "beta": 1.0}, {"antithetic": True, "lr": 0.5}])
def test_equals_one_at_a_time_by_autograd(changes):
    settings = replace(SETTINGS, **changes)
    x, tail, targets, reference = problem()
    ours = bottleneck(x, tail, targets, reference=reference, settings=settings, batch=3)
    truth = plain(x, tail, targets, reference, settings)
    torch.testing.assert_close(ours, truth, rtol=1e-4, atol=1e-4 * float(truth.max()))


def test_does_not_depend_on_the_batch_or_the_other_samples():
    x, tail, targets, reference = problem()
    together = bottleneck(x, tail, targets, reference=reference, settings=SETTINGS, batch=5)
    for batch in (1, 2):
        alone = bottleneck(x, tail, targets, reference=reference, settings=SETTINGS, batch=batch)
        torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-4)
    one = bottleneck(x[3:4], tail, targets[3:4], reference=reference, settings=SETTINGS)
    torch.testing.assert_close(one, together[3:4], rtol=1e-4, atol=1e-4)


def test_divergence_is_torchs_and_stays_finite():
    alpha = torch.linspace(-12, 12, 97, dtype=torch.float64)
    r = torch.linspace(-3, 3, 97, dtype=torch.float64)
    lam = alpha.sigmoid()
    truth = kl_divergence(Normal(lam * r, 1 - lam), Normal(0.0, 1.0))
    torch.testing.assert_close(divergence(alpha, r**2), truth)
    asked = alpha.clone().requires_grad_()
    (slope,) = torch.autograd.grad(divergence(asked, r**2).sum(), asked)
    torch.testing.assert_close(divergence_slope(alpha, r**2), slope)
    for dtype in (torch.float32, torch.bfloat16):
        far = torch.tensor([-100.0, 17.0, 25.0, 80.0], dtype=dtype)
        assert torch.isfinite(divergence(far, torch.ones_like(far))).all()
        assert torch.isfinite(divergence_slope(far, torch.ones_like(far))).all()


def test_the_variance_acts_and_the_tokens_that_matter_are_found():
    g = torch.Generator().manual_seed(0)
    matrix = torch.randn(8, 7, generator=g)
    x = torch.randn(4, 6, 8, generator=g)
    reference = Statistics(torch.zeros(6, 8), torch.ones(6, 8), 100)

    def tail(z):
        return z[:, 2] @ matrix  # only token 2 is read

    targets = tail(x)
    settings = Bottleneck(beta=1.0, steps=30)
    maps = bottleneck(x, tail, targets, reference=reference, settings=settings)
    assert (maps.argmax(1) == 2).all()
    others = maps[:, [0, 1, 3, 4, 5]]
    assert float((maps[:, 2] / others.max(1).values).min()) > 3
    less = bottleneck(x, tail, targets, reference=reference, settings=replace(settings, variance=0.01))
    assert float((less - maps).abs().max() / maps.max()) > 0.05


def test_more_compression_gives_less_information():
    x, tail, targets, reference = problem()
    totals = [
        float(bottleneck(x, tail, targets, reference=reference, settings=replace(SETTINGS, steps=20, beta=beta)).sum())
        for beta in (0.01, 1.0, 100.0)
    ]
    assert totals[0] > totals[1] > totals[2]


def test_extreme_settings_do_not_overflow():
    x, tail, targets, reference = problem()
    maps = bottleneck(x, tail, targets, reference=reference, settings=Bottleneck(lr=10.0, steps=30, beta=0.0, copies=2))
    assert torch.isfinite(maps).all()


def test_runs_behind_a_layer_of_the_volume_encoder():
    mask = torch.ones(6, 6, 6, dtype=torch.bool).numpy()
    encoder = VolumeEncoder(mask, VolumeDesign(patch=3, width=16, depth=3, heads=2, embed_dim=8))
    encoder.train()
    x = torch.randn(3, encoder.n_voxels)
    with frozen(encoder):
        tokens = encoder.prefix(encoder.tokens(x), 1)
        reference = statistics([encoder.prefix(encoder.tokens(torch.randn(40, encoder.n_voxels)), 1)])
        maps = bottleneck(tokens, lambda z: encoder.forward_from(z, 1), torch.randn(3, 8), reference=reference, settings=SETTINGS)
    assert maps.shape == (3, 9)
    assert encoder.training
    assert all(p.requires_grad and p.grad is None for p in encoder.parameters())


def test_statistics_of_batches_are_those_of_all_rows():
    rows = torch.randn(23, 3, 4) * 5 + 100
    found = statistics(rows.split(7))
    torch.testing.assert_close(found.mean, rows.mean(0))
    torch.testing.assert_close(found.std, rows.std(0))
    assert found.n == 23
    assert float(statistics([torch.ones(4, 1, 1)]).std) == pytest.approx(0.01)


@pytest.mark.parametrize(
    "call, words",
    [
        (lambda x, tail, t, r: bottleneck(x[0], tail, t, reference=r), "sample, token, channel"),
        (lambda x, tail, t, r: bottleneck(x, tail, t[:2], reference=r), "5 samples"),
        (lambda x, tail, t, r: bottleneck(x, tail, t * 0, reference=r), "target 0 is zero"),
        (lambda x, tail, t, r: bottleneck(x[:, :3], tail, t, reference=r), "same layer"),
        (lambda x, tail, t, r: bottleneck(x / 0, tail, t, reference=r), "NaN or infinity"),
        (lambda x, tail, t, r: bottleneck(x, lambda z: tail(z) * torch.nan, t, reference=r), "the loss is NaN or infinite"),
        (lambda x, tail, t, r: Bottleneck(variance=0), "variance"),
        (lambda x, tail, t, r: Bottleneck(beta=-1), "negative"),
        (lambda x, tail, t, r: Bottleneck(read="mean"), "before"),
        (lambda x, tail, t, r: Bottleneck(copies=3, antithetic=True), "odd"),
        (lambda x, tail, t, r: statistics([torch.zeros(1, 2, 2)]), "at least 2"),
    ],
)
def test_mistakes_are_named(call, words):
    with pytest.raises(DataError, match=words):
        call(*problem())
