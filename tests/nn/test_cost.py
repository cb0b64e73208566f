"""The cost model of a FactorTopy step: its operations against those that torch counts, its fit against planted costs."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType

import numpy as np
import pytest
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(scope="module")
def cost(benchmark_program: Callable[[str], ModuleType]) -> ModuleType:
    return benchmark_program("cost")


@pytest.mark.parametrize("more", [{}, {"batch": 4}, {"layers": 4}, {"channels": 192}, {"units": 900}], ids=str)
def test_products_are_those_that_torch_counts(cost: ModuleType, more: dict[str, int]) -> None:
    size = cost.Size(**{"units": 300, "batch": 8, "layers": 2, "channels": 96} | more)
    step = cost.stepper(size)
    with FlopCounterMode(display=False) as counter:
        step()
    assert size.work()[:3].sum() == pytest.approx(counter.get_total_flops() / 2, rel=0.05)


def test_the_fit_finds_the_costs_that_were_planted(cost: ModuleType) -> None:
    planted = np.array([0.003, 5e-11, 2e-11, 3e-11, 1e-9])
    measured = np.array([cost.predict(planted, size) for size in cost.KNOWN])
    found = cost.fit(cost.KNOWN, measured)
    for size in cost.HELD_OUT:
        assert cost.predict(found, size) == pytest.approx(cost.predict(planted, size), rel=1e-6)
    assert not set(cost.KNOWN) & set(cost.HELD_OUT)
