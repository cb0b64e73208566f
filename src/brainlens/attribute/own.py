"""An aligner of one's own as what `attribute` explains: its network, and embeddings brought into the space of its cosines."""

from __future__ import annotations

import numpy as np

from brainlens.models.volume.estimators import VolumeAligner
from brainlens.nn.volume_encoder import VolumeEncoder
from brainlens.types import DataError, Features


def opened(
    model: VolumeEncoder | VolumeAligner, images: Features, texts: Features | None
) -> tuple[VolumeEncoder, Features, Features | None]:
    """The network of a model with the targets that fit it.

    VolumeAligner: the embeddings (stimulus, d) as it was fitted on them are centred and mapped by its `gallery`. VolumeEncoder:
    the embeddings lie in its space already and stay as they are.
    Raises DataError for a model that is neither.
    """
    if isinstance(model, VolumeEncoder):
        return model, images, texts
    if not isinstance(model, VolumeAligner):
        raise DataError(
            f"attribute: a {type(model).__name__} has no voxels to explain; fit a VolumeAligner, or give its `network_`"
        )
    mapped = [None if table is None else _mapped(model, table, name) for table, name in ((images, "image"), (texts, "text"))]
    assert mapped[0] is not None
    return model.network_, mapped[0], mapped[1]


def _mapped(model: VolumeAligner, table: Features, name: str) -> Features:
    key = name if name in table.data else next(iter(table.data))
    rows = model.gallery(np.asarray(table.check_finite()[key], dtype=np.float32), modality=name)
    return Features({name: rows}, table.ids, table.model)
