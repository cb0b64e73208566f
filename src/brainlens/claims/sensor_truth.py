"""What the simulated EEG's truth says of a decoder: when the information is there, and over which channels.

Onsets: ridge regression from growing time windows to the true amplitudes of early (V1, V2V3, V4) and of category sources; a
source's own curve is dated at half of its height. Topography: contributions of the channels to the right answer (gradient x
input, summed over time) against the root-mean-square map of the noise-free signal. The decoder reads whitened channels; with the
whitener counted as its first layer the same contributions are those of the recorded channels, and both are reported.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from brainlens import store
from brainlens.attribution.channels import channel_share, contributions, similarity_score
from brainlens.claims.sensors import SensorStudy, SensorTables, Subject, gallery_of, training_of
from brainlens.metrics.timecourse import half_height, mean_correlation, time_windows, window_scores
from brainlens.models.sensors.contributions import posterior
from brainlens.models.sensors.decoder import SensorDecoder, build
from brainlens.models.sensors.linear import LINEAR, stored_decoder
from brainlens.phantom.eeg import EARLY, RATE
from brainlens.types import positions


def time_claims(subject: Subject, tables: SensorTables, *, images: int = 4000, step: float = 0.02) -> dict[str, float]:
    """Onsets (s) and final correlations of the low-level and the category amplitudes in growing windows up to .6 s."""
    responses = subject.responses
    rows = np.flatnonzero((responses.trials["split"] == "train").to_numpy())[:images]
    train, test = responses.rows(rows), responses.where(split="test").average()
    early = subject.truth.sources["region"].isin(EARLY).to_numpy()
    assert responses.times is not None
    windows = [window for window in time_windows(responses.times, step=step, kinds=("growing",)) if window.stop <= 0.6]
    found: dict[str, float] = {}
    for name, keep in (("low_level", early), ("category", ~early)):
        values = subject.truth.signal[:, keep]
        names = [part.trials["stimulus"].to_numpy(str) for part in (train, test)]
        target = [values[positions(shown, tables.stimuli.ids, "scenes")] for shown in names]
        curve = window_scores(train.data, target[0], test.data, windows, mean_correlation, test_target=target[1])
        found |= {f"eeg/onset/{name}": half_height(windows, curve), f"eeg/onset/{name}.correlation": float(curve[-1])}
        at = int(np.argmin([abs(window.stop - 0.12) for window in windows]))
        found[f"eeg/onset/{name}.share_at_120ms"] = float(curve[at] / curve[-1])
    return found


def topography(
    subject: Subject, tables: SensorTables, study: SensorStudy, folder: Path, which: tuple[str, int]
) -> dict[str, float]:
    """Correlation of channel contributions with the true topography, and the share of the posterior channels.

    which: method and subject number. NaN where no channel contributes to the right answers, as at chance.
    Raises DataError where the subject's decoder was not kept.
    """
    decoder = kept_decoder(subject, tables, study, folder, which)
    encoder, training = training_of(which[0], study)
    test = subject.responses.where(split="test").average()
    ids = test.trials["stimulus"].to_numpy(dtype=str)
    gallery = torch.as_tensor(gallery_of(decoder, tables, ids, encoder, training))
    unwhiten = torch.as_tensor(np.linalg.inv(subject.matrix), dtype=torch.float32)
    whitener = torch.as_tensor(subject.matrix, dtype=torch.float32)
    recorded = (unwhiten @ torch.as_tensor(np.asarray(test.data, np.float32))).numpy()
    back = posterior(subject.responses.units["channel"])
    truth = subject.truth.topography()
    whitened_truth = np.sqrt(np.mean((subject.matrix @ subject.truth.clean()[-len(ids) :]) ** 2, axis=(0, 2)))
    found = {"eeg/topography_posterior_share.uniform": float(back.mean())}
    found["eeg/topography_posterior_share.truth"] = float(truth[back].sum() / truth.sum())
    for name, data, first, target in (("", recorded, whitener, truth), (".whitened", test.data, None, whitened_truth)):

        def embed(x: torch.Tensor, first: torch.Tensor | None = first) -> torch.Tensor:
            x = x if first is None else first @ x
            embedded: torch.Tensor = decoder.model((x - decoder.scale[0]) / decoder.scale[1])
            return embedded

        def score(rows: slice, embed=embed):  # type: ignore[no-untyped-def]
            return similarity_score(embed, gallery[rows], against=gallery)

        mean = contributions(score, np.asarray(data, np.float32))
        share = channel_share(mean) if (mean.sum(axis=1) > 0).any() else np.full(len(back), np.nan)
        found[f"eeg/topography_correlation{name}"] = float(np.corrcoef(share, target)[0, 1])
        found[f"eeg/topography_posterior_share{name}"] = float(share[back].sum())
    return found


def kept_decoder(
    subject: Subject, tables: SensorTables, study: SensorStudy, folder: Path, which: tuple[str, int]
) -> SensorDecoder:
    """A subject's own NeuroAlign decoder of the first seed, in evaluation mode; it takes recordings that are not box-filtered."""
    kept = store.load_weights(folder, f"decoder-{which[0]}-{which[1]}")
    if which[0] in LINEAR:
        model, head = ({n.removeprefix(p): v for n, v in kept.items() if n.startswith(p)} for p in ("model.", "image."))
        return stored_decoder(subject.responses.data.shape[1:], {"model": model, "image_head": head})
    encoder, training = training_of(which[0], study)
    widths = (tables.network["saliency"].shape[1], tables.texts["text"].shape[1])
    scale = (kept["scale.0"], kept["scale.1"])
    decoder = build(encoder, subject.responses.data.shape[1:], widths, training=training, seed=0, device="cpu", scale=scale)
    for part, module in (("model", decoder.model), ("image", decoder.image_head), ("text", decoder.text_head)):
        module.load_state_dict({n.removeprefix(f"{part}."): v for n, v in kept.items() if n.startswith(f"{part}.")})
        module.eval()
    decoder.model.encoder.filtered = False  # type: ignore[union-attr]
    return decoder


def signal_facts(subject: Subject) -> dict[str, float]:
    """Signal to noise of a single trial and of the mean of 80, and the amplitude (uV) that was calibrated."""
    truth = subject.truth
    covariance = np.cov(truth.signal, rowvar=False)
    power = np.einsum("kct,kl,lct->", truth.patterns, covariance, truth.patterns, optimize=True)
    amplitude = float(np.sqrt(power / (truth.patterns.shape[1] * RATE)))
    return {"eeg/snr_single": truth.snr(), "eeg/snr_80": truth.snr(80), "eeg/amplitude_uv": amplitude}
