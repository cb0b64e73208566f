"""Drawing near training pictures: the code is moved as the formula says, and models keep what they need for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from brainlens.attribution.cross_attention import AttentionRecord
from brainlens.models.generation.adapter_tables import open_pipeline
from brainlens.models.generation.adapter_training import AdapterTraining, empty_text
from brainlens.models.generation.anchors import Anchors
from brainlens.models.generation.neuro_adapter import NeuroAdapter
from brainlens.models.generation.pretraining import pretrain_attention
from brainlens.solvers.evidence import Evidence
from brainlens.solvers.ridge import ridge_cv, ridge_left_out
from brainlens.types import DataError

D = 5
QUICK = {"steps": 4, "batch": 8, "evaluate_every": 2, "draws": 8}


@pytest.fixture(scope="module")
def pipeline(made_pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_pipeline.build_pipeline(tmp_path_factory.mktemp("sd") / "tiny")


@pytest.fixture(scope="module")
def planted(made_pipeline) -> Any:
    return made_pipeline.Planted()


@pytest.fixture(scope="module")
def embeddings(planted: Any) -> np.ndarray:
    """Embeddings (image, 5) of which two channels are the factors that the brain reads."""
    rng = np.random.default_rng(5)
    return np.concatenate([planted.factors, rng.normal(size=(80, D - 2))], axis=1).astype(np.float32)


@pytest.fixture(scope="module")
def model(made_pipeline, pipeline: Path, planted: Any, embeddings: np.ndarray) -> NeuroAdapter:
    captions = [made_pipeline.CAPTIONS[k] for k in np.arange(80) % 2]
    before = pretrain_attention(
        pipeline, planted.latents, embeddings, captions=captions, tokens=3, training=AdapterTraining(**QUICK)
    )
    own = NeuroAdapter(3, joint=3, start="ridge", training=QUICK)
    return planted.fit(pipeline, own, prompts=embeddings[planted.shown], before=before)


def test_rows_left_out_are_those_of_fits_without_them() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 6)), rng.normal(size=(30, 4))
    y[:, 0] += x[:, 0] * 3
    fit = ridge_cv(x, y, [0.1, 1.0, 10.0, 1000.0])
    found = ridge_left_out(fit, x, y).numpy()
    assert len(fit.alpha.unique()) > 1
    for i in (0, 7, 29):
        for t in range(4):
            rest = np.arange(30) != i
            # scikit-learn centres anew without the row, as leaving it out does
            plain = Ridge(alpha=float(fit.alpha[t])).fit(x[rest], y[rest, t])
            assert found[i, t] == pytest.approx(float(plain.predict(x[i : i + 1])[0]), abs=1e-4)


def test_the_moved_code_is_the_embedding_near_the_anchor() -> None:
    rng = np.random.default_rng(1)
    z = rng.normal(size=(60, D)) @ rng.normal(size=(D, D)) + 1
    p = z + rng.normal(size=z.shape)
    anchors = Anchors(z.astype(np.float32), rng.normal(size=D).astype(np.float32), Evidence.fit(p, z))
    code, rows = rng.normal(size=(4, D)), np.array([3, 3, 50, 9])
    gain, shift = (part.double().numpy() for part in anchors.moved(rows, anchors.evidence.maps(0.4)))
    wanted = anchors.evidence.near(code + anchors.intercept, anchors.embeddings[rows], 0.4)
    np.testing.assert_allclose(code @ gain + shift + anchors.intercept, wanted, atol=1e-5)
    best = anchors.likeliest(code, 60)
    match = anchors.evidence.log_ratio(anchors.predicted(code), anchors.embeddings)
    np.testing.assert_array_equal(best[:, 0], match.argmax(1))
    assert all(np.all(np.diff(row[order]) <= 0) for row, order in zip(match, best, strict=True))
    sets = anchors.embeddings[rng.integers(60, size=(4, 7))]
    each = anchors.match(code, sets)
    np.testing.assert_allclose(each[2], anchors.match(code[2:3], sets[2])[0], atol=1e-12)


def test_candidates_are_drawn_near_their_own_anchor(model: NeuroAdapter, planted: Any, pipeline: Path) -> None:
    """A watched drawing is the same to the bit; a width towards 0 draws the anchor whatever else the brain says."""
    y = planted.y_new[:6]
    near = model.reconstruct(y, 3, steps=3, width=0.4)
    assert near.shape[:2] == (6, 3)
    np.testing.assert_array_equal(near[2:3], model.reconstruct(y[2:3], 3, steps=3, width=0.4))
    record = AttentionRecord(6, 3)
    np.testing.assert_array_equal(near[:, 0], model.reconstruct(y, 1, steps=3, width=0.4, watch=record)[:, 0])
    assert not np.array_equal(near, model.reconstruct(y, 3, steps=3))
    anchors, tokens = model._anchored()
    prompts = model._prompts(torch.from_numpy(model.inputs(y)), np.ones(3, bool), 1e-4)
    code = model._codes(torch.from_numpy(model.inputs(y)))
    rows = anchors.likeliest(code, 2).reshape(-1)
    wanted = tokens.of_codes(torch.zeros(12, 1, D), torch.from_numpy(anchors.embeddings[rows] - anchors.intercept))
    text = empty_text(open_pipeline(pipeline, "cpu"))
    plain = model._ready()[1].prompt_of(wanted, text)
    for found, own in zip(prompts.of(np.arange(6), 2).regions, plain.regions, strict=True):
        torch.testing.assert_close(found[0], own[0], atol=1e-3, rtol=1e-3)


def test_a_removed_region_takes_its_evidence_with_it(model: NeuroAdapter, planted: Any) -> None:
    y = planted.y_new[:5]
    other = y.copy()
    other[:, planted.parcels.members[planted.parcels.names.index("FFA")]] = 7.0
    np.testing.assert_array_equal(
        model.reconstruct(y, 2, steps=2, width=0.4, without=["FFA"]),
        model.reconstruct(other, 2, steps=2, width=0.4, without=["FFA"]),
    )


def test_own_embeddings_fit_best(model: NeuroAdapter, planted: Any) -> None:
    """Of the four combinations of two factors the one that was shown; 32 new responses, chance .25."""
    four = np.array([[a, b, 0, 0, 0] for a in (-1, 1) for b in (-1, 1)], np.float32)
    found = model.evidence(planted.y_new, four).argmax(1)
    shown = ((planted.new[:, 0] > 0) * 2 + (planted.new[:, 1] > 0)).astype(int)
    assert (found == shown).mean() > 0.8


def test_a_saved_model_keeps_its_anchors(model: NeuroAdapter, planted: Any, tmp_path: Path) -> None:
    again = NeuroAdapter.load(model.save(tmp_path / "model"))
    y = planted.y_new[:3]
    np.testing.assert_array_equal(again.reconstruct(y, 2, steps=2, width=0.5), model.reconstruct(y, 2, steps=2, width=0.5))
    on = planted.fit(model.pipeline_["place"], NeuroAdapter(3, joint=3, start="ridge", training=QUICK), before=again)
    np.testing.assert_array_equal(on.adapter_["tokens.read"].numpy(), model.adapter_["tokens.read"].numpy())
    assert on.anchors_ is not None


def test_what_cannot_be_is_one_line(model: NeuroAdapter, planted: Any, pipeline: Path) -> None:
    y = planted.y_new[:2]
    with pytest.raises(DataError, match="900 candidates near 72 training pictures"):
        model.reconstruct(y, 900, steps=1, width=0.4)
    with pytest.raises(DataError, match=r"width 2\.0"):
        model.reconstruct(y, 1, steps=1, width=2.0)
    with pytest.raises(DataError, match="a set for each response"):
        model.evidence(y, np.zeros((3, 4, D)))
    plain = planted.fit(pipeline, NeuroAdapter(3, training=QUICK))
    with pytest.raises(DataError, match="joint tokens that start by ridge"):
        plain.reconstruct(y, 1, steps=1, width=0.4)
