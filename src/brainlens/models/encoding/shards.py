"""A layered encoding model over several processes: each trains a run of the units, and all hold the same shared weights.

The loss is a mean over images and units, so with n_r of N units in process r

    loss = sum_r n_r / N loss_r,      d loss / d shared = sum_r n_r / N d loss_r / d shared

and channel weights, biases, free selectors and pooling fields need no message at all. A step sends one message of the
size of the shared weights (selectors and bottlenecks). States are kept as one process writes them, so that a training goes on
with any number of processes.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from brainlens.models.processes import in_order, shared, sum_gradients
from brainlens.nn.distributed import gather_uneven, processes
from brainlens.types import DataError

Network = TypeVar("Network", bound=nn.Module)
OWN = ("readout", "common_readout", "bias", "field", "code")  # tensors with a row a unit, beside the free selectors


def of_units(name: str) -> bool:
    """Whether a parameter or buffer of this name has a row a unit."""
    return name in OWN or name.startswith("selectors.free.")


@dataclass(frozen=True)
class Shard:
    """The units of this process: `rank` of so many `sizes`, which follow each other and differ by one at most."""

    rank: int
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, units: int) -> Shard:
        """The shard of this process. Raises DataError for fewer units than processes."""
        rank, world = processes()
        if units < world:
            raise DataError(f"{units} units for {world} processes; start at most one process a unit")
        return cls(rank, tuple(units // world + (r < units % world) for r in range(world)))

    @property
    def rows(self) -> slice:
        """Its units among all."""
        start = sum(self.sizes[: self.rank])
        return slice(start, start + self.sizes[self.rank])

    @property
    def share(self) -> float:
        """n_r / N."""
        return self.sizes[self.rank] / sum(self.sizes)

    def cut(self, network: Network) -> Network:
        """The network of these units alone; alone, the network itself."""
        if len(self.sizes) == 1:
            return network
        own = copy.deepcopy(network)
        for name, value in [*own.named_parameters(), *own.named_buffers()]:
            if of_units(name):
                value.data = value.data[self.rows].clone()
        return own

    def agree(self, network: nn.Module) -> None:
        """Gives every process the shared weights of the first."""
        for name, value in network.named_parameters():
            if not of_units(name):
                shared(value.data)

    def sum_gradients(self, network: nn.Module, loss: Tensor) -> Tensor:
        """Sums the gradients of the shared weights, and returns the sum of the losses, scalars."""
        return sum_gradients((value for name, value in network.named_parameters() if not of_units(name)), loss)

    def mean(self, total: float, count: int) -> float:
        """The mean of what all processes counted; NaN where that is nothing."""
        totals, counts = in_order(total), in_order(count)
        return sum(totals) / sum(counts) if sum(counts) else float("nan")

    def whole(self, value: Tensor) -> Tensor:
        """The rows of all units (unit, ...), in every process, where they were."""
        device = torch.device("cuda") if torch.distributed.is_initialized() and _on_gpu() else value.device
        return gather_uneven(value.detach().to(device), list(self.sizes)).to(value.device)

    def join(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of the whole network, of those of all processes, whose tensors of units are (n_r, ...)."""
        return {name: self.whole(value) if of_units(name) else value for name, value in state.items()}

    def part(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The state of these units, of that of the whole network, whose tensors of units are (unit, ...)."""
        if len(self.sizes) == 1:
            return dict(state)
        return {name: value[self.rows].clone() if of_units(name) else value for name, value in state.items()}

    def join_optimiser(self, network: nn.Module, optimiser: torch.optim.Optimizer) -> dict[str, Any]:
        """The state of the optimiser as one process would hold it."""
        return self._through(network, optimiser, optimiser.state_dict(), self.whole)

    def part_optimiser(self, network: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        """What these units need of such a state."""
        return self._through(network, optimiser, state, lambda value: value[self.rows].clone())

    def _through(
        self, network: nn.Module, optimiser: torch.optim.Optimizer, state: dict[str, Any], change: Any
    ) -> dict[str, Any]:
        if len(self.sizes) == 1:
            return state
        own = {number for number, name in enumerate(_names(network, optimiser)) if of_units(name)}
        moments = {
            number: {k: change(v) if number in own and isinstance(v, Tensor) and v.ndim else v for k, v in held.items()}
            for number, held in sorted(state["state"].items())
        }
        return {**state, "state": moments}


ALONE = Shard(0, (1,))  # one process: its one shard is all units, however many


def _names(network: nn.Module, optimiser: torch.optim.Optimizer) -> Iterator[str]:
    """Names of the parameters in the order in which the optimiser numbers them."""
    names = {id(value): name for name, value in network.named_parameters()}
    for group in optimiser.param_groups:
        for value in group["params"]:
            yield names[id(value)]


def _on_gpu() -> bool:
    return torch.distributed.get_backend() == "nccl"
