"""The claims of `encode`: FactorTopy and its baselines on the phantom, and what their selectors find of its truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from brainlens.datasets.runs import keep
from brainlens.datasets.source import Opened, Source, Tell
from brainlens.encode import EncodingDesign, fit_encoding, selector_truth
from brainlens.encode.scoring import score_part
from brainlens.metrics.statistics import bootstrap_mean
from brainlens.models.encoding.readout import pooled_ridge
from brainlens.models.encoding.tables import EncodingTables, LayerTokens, tables, usable_layers
from brainlens.models.encoding.training import EncodingTraining
from brainlens.phantom.readout import pooling
from brainlens.types import DataError, Features, Responses, Result

METHODS = ("factortopy", "ridge")
CONTROLS = ("oracle", "shuffled")
NAMES = {"encoding/r2_mean": "r2_mean", "encoding/r2_of_ceiling": "r2_of_ceiling", "encoding/hierarchy_slope": "hierarchy_slope"}
EQ1 = "factortopy_eq1"  # without the common reading
BESIDE = "factortopy_beside"  # selectors are searched beside it
OURS = ("factortopy", EQ1, BESIDE)
QUICK = EncodingTraining(steps=1500, batch=16, lr=5e-3, epoch=250, patience=3)


@dataclass(frozen=True)
class Plan:
    """What is fitted: methods and controls by name, the recipe of factortopy and that of its trained baselines, and how many
    voxels without signal join the informative ones."""

    methods: tuple[str, ...] = METHODS + CONTROLS
    design: EncodingDesign = field(default_factory=lambda: EncodingDesign(samples=3))
    training: EncodingTraining = field(
        default_factory=lambda: EncodingTraining(steps=0)
    )  # steps from the searched start only cost, see docs
    baselines: EncodingTraining = QUICK
    noise: int = 600
    seed: int = 0


def informative_and_noise(responses: Responses, *, noise: int, seed: int) -> Responses:
    """All voxels of the regions and a random sample of the others, so that a fit is judged on voxels with nothing to find too."""
    informative = responses.units["informative"].to_numpy(dtype=bool)
    others = np.flatnonzero(~informative)
    drawn = np.random.default_rng(seed).choice(others, size=min(noise, len(others)), replace=False)
    chosen = informative.copy()
    chosen[drawn] = True
    return responses.columns(chosen)


def encode_claims(
    recording: Opened,
    source: Source,
    runs: Path,
    *,
    plan: Plan | None = None,
    device: str = "cpu",
    tell: Tell,
    done: Callable[[str, dict[str, float] | None], dict[str, float] | None] | None = None,
) -> dict[str, float]:
    """`encode/...`: R2 of each method over voxels with ncsnr > .3, and how much of the truth the selectors find.

    The responses are taken as they are, z-scored by the caller. oracle: a ridge readout of the tokens that each voxel truly
    reads, what is attainable with perfect selectors, and oracle_common the same beside the last layer's global token;
    factortopy_eq1: without the common reading; factortopy_beside: selectors searched beside it; shuffled: factortopy on training
    responses of other images.
    done(name, None) gives the metrics of a method that was finished before, done(name, metrics) keeps them.
    """
    if recording.layers is None:
        raise DataError("encode claims need the network's layers; open the recording with layers=True")
    chosen = plan or Plan()
    responses = informative_and_noise(recording.responses, noise=chosen.noise, seed=chosen.seed)
    metrics: dict[str, float] = {}
    for method in chosen.methods:
        found = done(method, None) if done is not None else None
        if found is None:
            tell(f"encoding, {method}", None)
            if method in ("oracle", "oracle_common"):
                found = oracle(responses, recording.layers, chosen, common=method == "oracle_common")
            else:
                found = fitted(
                    method, responses, recording.layers, source=source, runs=runs, plan=chosen, device=device, tell=tell
                )  # fmt: skip
            if done is not None:
                done(method, found)
        metrics |= found
    return metrics


def fitted(
    method: str, responses: Responses, layers: Features, *, source: Source, runs: Path, plan: Plan, device: str, tell: Tell
) -> dict[str, float]:
    """The metrics of one method under the names of the claim table; its result is kept in a run folder."""
    shuffled, ours = method == "shuffled", method in (*OURS, "shuffled")
    design, training = form(method, plan) if ours else (plan.design, plan.baselines)
    result, model = fit_encoding(
        mispaired(responses, plan.seed) if shuffled else responses, layers, method="factortopy" if ours else method,
        design=design, training=training, seed=plan.seed, device=device,
        progress=lambda step, record: tell(f"encoding, {method}", step / max(1, training.steps)),
    )  # fmt: skip
    metrics = named(result, method) | floor(result, method)
    if ours and not shuffled:
        truth = selector_truth(result)
        metrics |= {f"encode/{method}/{key}": value for key, value in truth.items()}
        result = replace(result, metrics={**result.metrics, **truth})
    if not shuffled:  # a report must not mix a control up with a finding
        network = {"name": source.model, "layers": None, "steps": None, "grid": None}  # as the phantom's layers were read
        keep(replace(result, config={**result.config, "network": network}), runs, source, model=model)
    return metrics


def form(method: str, plan: Plan) -> tuple[EncodingDesign, EncodingTraining]:
    """The form and the recipe of one of `OURS`, and of the shuffled one."""
    design = replace(plan.design, common=None) if method == EQ1 else plan.design
    return design, replace(plan.training, search_beside=method == BESIDE)


def mispaired(responses: Responses, seed: int) -> Responses:
    """Training and validation images each with the responses to another of their part; the test part stays as it is."""
    trials = responses.trials.copy()
    names = trials["stimulus"].astype(str).to_numpy(dtype=object)
    part = trials["split"].astype(str).to_numpy()
    rng = np.random.default_rng(seed)
    for split in sorted(set(part) - {"test"}):
        here = np.unique(names[part == split])
        order = rng.permutation(len(here))
        other = dict(zip(here[order], here[np.roll(order, 1)], strict=True))  # one long cycle: no image keeps its own
        names[part == split] = [other[name] for name in names[part == split]]
    trials["stimulus"] = names
    return replace(responses, trials=trials)


def oracle(responses: Responses, layers: Features, plan: Plan, *, common: bool = False) -> dict[str, float]:
    """`encode/oracle/...`: ridge on the channels of each voxel's true layer, pooled by its true field or its global token; and
    `encode/oracle_common/...` with the last layer's global token beside them, which holds what the phantom's voxels share."""
    used = usable_layers(layers, None if plan.design.layers is None else list(plan.design.layers))
    data = tables(responses, layers, seed=plan.seed)
    tokens = LayerTokens(layers, used, data.train.rows)
    number, pool = true_selectors(data, layers, used)
    beside = used[-1] if common else None
    predicted = pooled_ridge([data.train, data.validation], data.test, tokens, layer=number, pool=pool, common=beside)
    design = plan.design
    predicted, data = data.in_units(predicted)
    metrics, more, _ = score_part(predicted, data, {}, least=design.least_ncsnr, resamples=design.resamples, seed=plan.seed)
    return named(Result("encode", metrics, more, data.units, {}, {}, {}), "oracle_common" if common else "oracle")


def true_selectors(data: EncodingTables, layers: Features, used: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Of every unit of a phantom its layer's number in `used` (-1: none), (unit,), and its weights (unit, 65) on 64 places and
    the global token."""
    units, pool = data.units, np.zeros((len(data.units), 65))
    layer = units["layer"].to_numpy(float)
    place = {at: used.index(name) for at, name in enumerate(layers.layer) if name in used}
    number = np.array([place.get(int(n), -1) if np.isfinite(n) else -1 for n in layer])
    everywhere = units["is_global"].to_numpy(bool)
    pool[everywhere, -1] = 1
    local = (number >= 0) & ~everywhere
    pool[local, :-1] = pooling(units[["rf_x", "rf_y", "rf_size"]].to_numpy(float)[local], (8, 8))
    return number, pool


def named(result: Result, method: str) -> dict[str, float]:
    """A result's metrics under the names of the claim table, with their intervals."""
    found: dict[str, float] = {}
    for key, value in result.metrics.items():
        base, _, rest = key.partition(".")
        if base in NAMES:
            found[f"encode/{method}/{NAMES[base]}{'.' + rest if rest else ''}"] = value
    return found


def floor(result: Result, method: str) -> dict[str, float]:
    """What is found where nothing is: mean R2 and confidence of the noise voxels beside those of the informative ones."""
    assert result.units is not None
    informative = result.units["informative"].to_numpy(dtype=bool)
    found: dict[str, float] = {}
    for name, mask in (("noise", ~informative), ("informative", informative)):
        for key, array in (("r2_mean", "r2"), ("confidence_mean", "confidence")):
            values = result.arrays.get(array, np.array([]))[mask] if array in result.arrays else np.array([])
            values = values[np.isfinite(values)]
            if len(values) > 1:
                mean, low, high = bootstrap_mean(values, resamples=1000)
                base = f"encode/{method}/{name}_voxels/{key}"
                found |= {base: mean, f"{base}.low": low, f"{base}.high": high}
    return found
