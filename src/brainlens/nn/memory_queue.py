"""A ring of past embeddings that serve as further negatives."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from brainlens.types import DataError


class MemoryQueue(nn.Module):
    """The last `size` embeddings of each modality, without gradients, with the label of their image.

    names: the modalities, e.g. ("brain", "image", "text"), all of width `dim`. The content is cleared when the subject
    changes, since another brain's embeddings are negatives for the wrong reason. All state is in buffers, so that a
    resumed run continues with the same negatives.
    """

    past_labels: Tensor
    state: Tensor

    def __init__(self, dim: int, size: int = 4096, *, names: tuple[str, ...] = ("brain", "image", "text")):
        super().__init__()
        if size < 1:
            raise DataError(f"memory queue: size {size} must be at least 1")
        self.size, self.names = size, names
        for name in names:
            self.register_buffer(f"past_{name}", torch.zeros(size, dim))
        self.register_buffer("past_labels", torch.full((size,), -1, dtype=torch.int64))
        self.register_buffer("state", torch.tensor([0, 0, -1]))  # next row, rows held, subject

    def __len__(self) -> int:
        return int(self.state[1])

    def clear(self) -> None:
        """Forgets everything."""
        self.state.copy_(torch.tensor([0, 0, -1]))

    @torch.no_grad()
    def push(self, embeddings: dict[str, Tensor], labels: Tensor, *, subject: int = 0) -> None:
        """Appends rows (n, dim) of every modality; the oldest ones fall out. Another subject clears the queue first."""
        if set(embeddings) != set(self.names):
            raise DataError(f"memory queue: embeddings of {sorted(embeddings)} given, it holds {sorted(self.names)}")
        n = len(labels)
        wrong = {k: tuple(v.shape) for k, v in embeddings.items() if v.shape != (n, self.get_buffer(f"past_{k}").shape[1])}
        if wrong:
            raise DataError(f"memory queue: {n} labels but embeddings {wrong}")
        start, held, owner = (int(v) for v in self.state)
        if owner not in (-1, subject):
            start, held = 0, 0
        skip = max(0, n - self.size)
        rows = (start + torch.arange(skip, n, device=labels.device)) % self.size
        for name, rows_in in embeddings.items():
            past = self.get_buffer(f"past_{name}")
            past[rows] = F.normalize(rows_in[skip:].detach(), dim=-1).to(past)
        self.past_labels[rows] = labels[skip:].to(self.past_labels)
        self.state.copy_(torch.tensor([(start + n) % self.size, min(self.size, held + n), subject]))

    def content(self, *, subject: int = 0) -> dict[str, Tensor]:
        """Embeddings by modality (rows, dim) and "labels" (rows,); no rows if they belong to another subject."""
        held = len(self) if int(self.state[2]) == subject else 0
        return {name: self.get_buffer(f"past_{name}")[:held] for name in self.names} | {"labels": self.past_labels[:held]}
