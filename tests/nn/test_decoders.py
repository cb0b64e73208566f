"""The decoders against scikit-learn and hand-worked cases."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge

from brainlens.nn.decoding_baselines import ComponentDecoder, ResidualMLP, VolumeCNN
from brainlens.solvers.kernel_ridge import kernel_ridge, principal_axes, whitened_metric


def problem(n: int = 40, v: int = 90, d: int = 5) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(3)
    x = torch.randn(n, v, generator=g) + 2.0
    y = x[:, :20] @ torch.randn(20, d, generator=g) + torch.randn(n, d, generator=g)
    return x, y, torch.randn(12, v, generator=g) + 2.0


def test_kernel_ridge_equals_sklearn():
    x, y, new = problem()
    (fit,) = kernel_ridge(x, [y], [0.3], validation=new, scores=[lambda p: 0.0])
    xc = x - x.mean(0)
    alpha = 0.3 * float((xc @ xc.T).diagonal().mean())
    truth = Ridge(alpha=alpha).fit(x.numpy(), y.numpy()).predict(new.numpy())
    np.testing.assert_allclose(fit.decoder(new).numpy(), truth, rtol=1e-4, atol=1e-4)


def test_leave_one_out_equals_refitting_with_the_same_centre():
    x, y, new = problem()
    (fit,) = kernel_ridge(x, [y], [0.3], validation=new, scores=[lambda p: 0.0])
    xc, yc = (x - x.mean(0)).double(), (y - y.mean(0)).double()
    alpha = 0.3 * (xc @ xc.T).diagonal().mean()
    for i in (0, 7, 39):
        keep = torch.arange(len(x)) != i
        k = xc[keep] @ xc[keep].T + alpha * torch.eye(len(x) - 1)
        left = xc[i] @ xc[keep].T @ torch.linalg.solve(k, yc[keep]) + y.mean(0)
        np.testing.assert_allclose(fit.left_out[i].numpy(), left.numpy(), rtol=1e-4, atol=1e-4)


def test_the_best_scoring_penalty_is_taken():
    x, y, new = problem()
    scores = iter([0.1, 0.9, 0.3])
    (fit,) = kernel_ridge(x, [y], [1.0, 2.0, 3.0], validation=new, scores=[lambda p: next(scores)])
    assert fit.alpha == 2.0
    assert fit.score == 0.9
    with pytest.raises(ValueError, match="alphas is empty"):
        kernel_ridge(x, [y], [], validation=new, scores=[lambda p: 0.0])


def test_whitened_errors_are_round():
    g = torch.Generator().manual_seed(0)
    y = torch.randn(4000, 3, generator=g)
    mix = torch.tensor([[2.0, 0, 0], [1.5, 0.4, 0], [0, 0.3, 0.1]])
    y = y + torch.tensor([3.0, -2.0, 1.0])
    p = y * 0.5 + torch.randn(4000, 3, generator=g) @ mix.T - 4
    metric = whitened_metric(p, y, shrinkage=0.0)
    error = metric.query(p) - metric.gallery(y)
    np.testing.assert_allclose(torch.cov(error.T).numpy(), np.eye(3), atol=0.01)
    np.testing.assert_allclose(error.mean(0).numpy(), np.zeros(3), atol=1e-3)  # around the right embedding, wherever it lies


def test_principal_axes_equal_sklearn():
    x = problem(60, 30)[0] * torch.linspace(3, 0.2, 30)
    x = x - x.mean(0)
    axes, scales = principal_axes(x, 8, generator=torch.Generator().manual_seed(0))
    pca = PCA(8).fit(x.numpy())
    np.testing.assert_allclose(scales.numpy() ** 2 * len(x) / (len(x) - 1), pca.explained_variance_, rtol=1e-4)
    ours = axes * scales
    np.testing.assert_allclose(np.abs((ours.T.numpy() * pca.components_).sum(1)), 1.0, atol=1e-4)
    np.testing.assert_allclose((x @ axes).var(0, correction=0).numpy(), 1.0, rtol=1e-3)


def test_modules_give_one_row_a_trial_whatever_the_batch():
    g = torch.Generator().manual_seed(1)
    mask = torch.rand(9, 8, 7, generator=g) > 0.4
    v = int(mask.sum())
    x = torch.randn(6, v, generator=g)
    for module in (ComponentDecoder(v, 4), ResidualMLP(torch.arange(0, v, 2), 4, width=16), VolumeCNN(mask, 4, width=8, depth=2)):
        module.eval()
        whole = module(x)
        assert whole.shape == (6, 4)
        parts = torch.cat([module(x[:1]), module(x[1:])])
        torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_the_volume_is_put_together_in_mask_order():
    mask = torch.zeros(3, 3, 3, dtype=torch.bool)
    mask[0, 1, 2] = mask[2, 0, 0] = True
    module = VolumeCNN(mask, 2, width=8, depth=1)
    seen = {}
    module.convolutions[0].register_forward_pre_hook(lambda m, args: seen.update(volume=args[0]))
    module(torch.tensor([[5.0, 7.0]]))
    assert seen["volume"][0, 0, 0, 1, 2] == 5.0
    assert seen["volume"][0, 0, 2, 0, 0] == 7.0
    assert seen["volume"].sum() == 12.0
    with pytest.raises(ValueError, match="3-D bool"):
        VolumeCNN(mask.float(), 2)


def test_targets_that_share_a_kernel_are_fitted_as_if_alone():
    x, y, new = problem()
    other = y[:, :2] - 3.0
    kinds = [lambda p: -float(p.square().mean()), lambda p: float(p[0, 0])]
    both = kernel_ridge(x, [y, other], [0.1, 1.0, 10.0], validation=new, scores=kinds)
    for fit, target, score in zip(both, (y, other), kinds, strict=True):
        (alone,) = kernel_ridge(x, [target], [0.1, 1.0, 10.0], validation=new, scores=[score])
        assert fit.alpha == alone.alpha
        torch.testing.assert_close(fit.decoder.weights, alone.decoder.weights, rtol=1e-5, atol=1e-6)
