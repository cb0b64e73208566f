"""What was run, in plain sentences; what to cite; and provenance as rows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from brainlens.plots.style import SIMULATION, is_simulation
from brainlens.report import numbers
from brainlens.report.parts import LOST, lost
from brainlens.types import Result, Sensors, Surface, Volume
from brainlens.types.scores import spelled

ORDER = ("align", "attribute", "encode", "compare", "reconstruct", "describe")
TITLES = {
    "align": "Align: which picture or sentence was seen?",
    "attribute": "Attribute: which voxels, channels, pixels and words carried it?",
    "encode": "Encode: which part of the network predicts which part of the brain?",
    "compare": "Compare: which network predicts which part of the brain?",
    "scores": "Runs side by side",
    "sweep": "Sweep",
    "reconstruct": "Reconstruct: what did the picture look like?",
    "describe": "Describe: what does each voxel mean, in words?",
    "rsa": "Similarity: which layer orders pictures as the brain does?",
    "decode": "Decode: which category was seen?",
    "epochs": "Epochs: what does the recording look like around a picture?",
    "paper": "Paper: its tables, with the data at hand",
    "captions": "Captions: do pictures and sentences find each other?",
}
BY_METHOD = {  # a title that says what was asked where the method asks another question than the task
    ("encode", "ridge_onehot"): "Encode: how well do the categories shown predict each voxel?",
    ("encode", "ridge_patterns"): "Encode: which layer of the network predicts the patterns of images?",
    ("describe", "words"): "Describe: which categories does each region respond to?",
    ("describe", "agreement"): "Describe: do the words of several recordings agree?",
}
ENCODERS = {  # what stands behind the name of an encoder
    "ridge": "ridge regression from the responses to the embeddings",
    "ridge_whitened": "ridge, cosines after whitening by the covariance of its leave-one-out residuals",
    "ridge_projected": "ridge on reliable voxels, compared in the canonical metric",
    "canonical": "ridge, compared in the canonical metric",
    "linear": "one linear map, trained by the contrastive loss",
    "linear_projected": "one linear map, trained against targets in the canonical metric",
    "mlp": "a residual multi-layer perceptron on region voxels",
    "mlp_projected": "the multi-layer perceptron, trained against targets in the canonical metric",
    "mindeye_like": "a residual multi-layer perceptron trained by BiMixCo and SoftCLIP, after MindEye",
    "mindeye2_like": "a linear map for each subject and one multi-layer perceptron for all, after MindEye2",
    "cnn": "3D convolutions over the volume",
    "volume": "the transformer over patches of the whole brain",
    "neuroalign": "NeuroAlign: saliency extraction, semantic guidance, dynamic loss adjustment",
    "unfiltered": "NeuroAlign without its saliency extraction",
    "nice": "NICE: temporal and spatial convolutions",
    "nice_llm_like": "NICE with captions as a second target, in the manner of NICE-LLM",
    "ubp_like": "pictures at three levels of blur, each by how well it is found, in the manner of UBP",
    "nice_sa_like": "NICE with self-attention over channels",
    "nice_ga_like": "NICE with graph attention over channels",
    "atm": "a transformer over channels, in the manner of ATM",
    "eegnet": "EEGNet: depthwise separable convolutions",
    "ideal": "the ideal observer, which knows how the data were made",
}


def title(result: Result) -> str:
    """The question that a task answers."""
    if result.task == "attribute":
        kind = "channels and times" if isinstance(result.space, Sensors) else "voxels"
        what = {"pixels": "pixels", "words": "words", "stimuli": "pixels and words"}.get(str(result.config.get("of")), kind)
        return f"Attribute: which {what} carried the match?"
    if result.task == "compare" and "subjects" in result.tables:
        return "Encode: how well is the brain of each subject predicted?"
    known = BY_METHOD.get((result.task, str(result.config.get("method"))))
    if known is not None:
        return known
    return TITLES.get(result.task, result.task.replace("_", " ").capitalize())


def how(result: Result) -> str:
    """The method or encoder that the key numbers are of, which tells the cards of two runs of one task apart."""
    config = result.config
    if config.get("method") == "all":
        return "all methods"
    main = headline(result)
    return spelled(main) if main else ", ".join(_listed(config.get("method") or config.get("encoder")))


def sentence(result: Result) -> str:
    """What was run on what, in one or two plain sentences made from the result's config and shapes."""
    config = result.config
    parts = [_did(result), _on(result)]
    seed = config.get("seed", result.provenance.get("seed"))
    text = " ".join(p for p in parts if p)
    return f"{text} Seed {seed}." if isinstance(seed, int) else text


def _did(result: Result) -> str:
    config = result.config
    target = "" if result.task == "captions" else _named(config.get("images") or config.get("model") or config.get("features"))
    of_target = f" of {target}" if target else ""
    encoders = _listed(config.get("encoders") or config.get("encoder"))
    method = _listed(config.get("method") or config.get("methods"))
    if result.task == "align":
        who = _encoders(config, encoders)
        return f"{who} learned to turn brain responses into embeddings{of_target}, and looked the test images up."
    if result.task == "attribute":
        named = f"The method {', '.join(method)}" if method else "An attribution method"
        how = "Every method of attribution" if method == ["all"] else named
        parts = {"pixels": "the picture", "words": "the caption", "stimuli": "picture and caption"}
        of = parts.get(str(config.get("of")), "the brain response")
        return f"{how} scored which parts of {of} carried the match."
    if result.task == "captions":
        sources = _listed(config.get("sources"))
        return f"Pictures and captions ({', '.join(sources)}) were embedded by {_named(config.get('clip'))} and looked up."
    if result.task == "describe" and config.get("method") == "words":
        return "The names of what was shown were ranked by the mean response of each region."
    if result.task == "describe" and config.get("method") == "agreement":
        which = "significant first words" if config.get("significant", True) else "first words"
        return (
            f"The {which} of {len(config.get('runs', []))} descriptions were compared: {', '.join(_listed(config.get('runs')))}."
        )
    if result.task == "describe":
        pictures = "drawn pictures" if config.get("bank") == "diffusion" else "training pictures"
        ridge = f"a ridge from {target}" if target else "a ridge"
        return f"Voxels got words from captions, ranked by the responses that {ridge} predicts to a bank of {pictures}."
    if config.get("method") == "ridge_onehot":
        return (
            "Each voxel's response was predicted from the category shown alone (ridge on one-hot categories), and scored on runs "
            "that were left out of the fit."
        )
    if config.get("method") == "ridge_patterns":
        return (
            f"The response pattern of each image was predicted from {target or 'features'} by ridge regression, layer and "
            "penalty chosen in nested folds, and scored on images that no fold was fitted on."
        )
    if result.task == "encode":
        how = f" with {', '.join(method or encoders)}" if method or encoders else ""
        source = f" from {target}" if target else ""
        rule = f" Means are over units by this rule: {config['scored_units']}." if config.get("scored_units") else ""
        return f"Each unit's response was predicted{source}{how}, and scored on responses that were not used for fitting.{rule}"
    if result.task == "reconstruct":
        how = ", ".join(method) or "An adapter"
        return (
            f"{how} drew the pictures of test responses, {config.get('candidates', 1)} candidates each, with a diffusion model "
            f"that reads tokens made of the parcels{of_target and f'; pictures are compared by embeddings{of_target}'}."
        )
    if result.task == "epochs":
        return f"The recording was cut into epochs around the onset of each picture and averaged; values are in {_unit(config)}."
    if result.task == "decode" and config.get("method") == "svm":
        return (
            f"The {config['target']} of each trial was predicted from its response pattern by linear support vectors, which had "
            f"not seen its {config['group']}."
        )
    if result.task == "decode" and config.get("target"):
        return f"Trials were told apart by {config['target']} at each time, by a classifier that had not seen them."
    if result.task == "scores":
        return "The scores that all of these runs have, side by side: value and 95 % interval."
    if result.task == "sweep":
        count = int(result.metrics.get("sweep/runs", 0))
        return f"{count} runs of {config.get('verb')}, each with its first score; their folders are named in the table."
    if result.task == "compare" and "subjects" in result.tables:
        count = len(result.tables["subjects"]) - 1  # the last row is the mean
        by = f" with {', '.join(method)}" if method else ""
        return f"A model was fitted to each of {count} subjects{by}, and scored on its own units."
    if result.task == "compare":
        models = ", ".join(_listed(config.get("models")))
        return f"The same units were predicted from each of {models}{' with ' + ', '.join(method) if method else ''}."
    return f"Task {result.task}{' with ' + ', '.join(method) if method else ''}{' on ' + target if target else ''}."


def _encoders(config: Mapping[str, Any], names: list[str]) -> str:
    """The encoders of a run, which of them the key numbers are of and by what rule, and what it is."""
    if not names:
        return "An encoder"
    main = str(config.get("main", names[-1]))
    by = config.get("main_by")
    rule = ", the best on validation images" if by == "validation images" else f", {by}" if by else ""
    what = ENCODERS.get(main, "")
    if config.get("linear_start"):
        what = "the volume encoder at its linear start, which was not trained further"
    if len(names) == 1:
        return f"The encoder {names[0]}{f' ({what})' if what else ''}"
    return f"Encoders ({', '.join(names)}; key numbers are of {spelled(main)}{rule}{f': {what}' if what else ''})"


def headline(result: Result) -> str:
    """The encoder that scores without a name belong to; empty where a run has one encoder or none."""
    names = result.config.get("encoders") or []
    return str(result.config.get("main", names[-1])) if result.task == "align" and len(names) > 1 else ""


def _unit(config: Mapping[str, Any]) -> str:
    measure = str(config.get("measure", "z"))
    return {"z": "units of the baseline's standard deviation (z)", "uV": "µV"}.get(measure, measure)


def _listed(value: Any) -> list[str]:
    """Names as a list, as the field writes them."""
    many = list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
    return [spelled(str(v)) for v in many]


def _on(result: Result) -> str:
    config = result.config
    data = _named(config.get("dataset") or result.provenance.get("dataset"))
    units = (
        {Volume: "voxels", Surface: "vertices", Sensors: "channels"}.get(type(result.space), "units") if result.space else "units"
    )
    bits = []
    if data:
        bits.append(f"Data: {SIMULATION if is_simulation(result) else data}")
    count = len(result.space) if result.space is not None else (len(result.units) if result.units is not None else 0)
    if count:
        bits.append(f"{count:,} {units}")
    for name in ("train", "validation", "test"):
        keys = (f"data/{name}_images", f"encoding/images_{name}", f"describe/images_{name}")
        n = next((result.metrics[key] for key in keys if key in result.metrics), None)
        if n:
            bits.append(f"{n:,.0f} {name} pictures")
    return ", ".join(bits) + "." if bits else ""


def _named(value: Any) -> str:
    if isinstance(value, Mapping):
        value = value.get("name") or value.get("model") or ""
    return str(value).replace("\\", "/").rstrip("/").split("/")[-1] if value else ""


def warnings(result: Result) -> list[str]:
    """Counts of what was lost, and the warnings that the run wrote down."""
    out = numbers.losses(result.metrics)
    gone = lost(result)
    if gone:
        which = f"array{'s' * (len(gone) > 1)} {', '.join(map(repr, gone))}"
        out.append(f"The run's folder misses the {which}: what needs it is not drawn; run again with --again to have it.")
    for table in (result.config, result.provenance):
        listed = table.get("warnings", [])
        out += [str(w) for w in ([listed] if isinstance(listed, str) else listed)]
    if "warnings" in result.tables and "message" in result.tables["warnings"].columns:
        out += [str(m) for m in result.tables["warnings"]["message"]]
    undefined = [k for k, v in result.metrics.items() if v != v and not k.endswith("/onset")]  # without one there is none
    if undefined:
        out.append(f"{len(undefined)} undefined scores (not enough data to compute them), first: {numbers.label(undefined[0])}")
    return list(dict.fromkeys(out))


def provenance(result: Result) -> list[tuple[str, str]]:
    """Rows (what, value): seed, device, time, memory, data fingerprints, versions."""
    p = dict(result.provenance)
    rows: list[tuple[str, str]] = []
    for key, text, form in (
        ("started", "started", str),
        ("seed", "seed", str),
        ("device", "device", str),
        ("device_name", "accelerator", str),
        ("instructions", "vector instructions", str),
        ("threads", "threads", str),
        ("wall_s", "wall time", _duration),
        ("wall_time_s", "wall time", _duration),
        ("fit_s", "time of the fit", _duration),
        ("peak_mb", "peak memory", lambda v: f"{float(v):,.0f} MB"),
        ("device_peak_mb", "peak accelerator memory", lambda v: f"{float(v):,.0f} MB"),
        ("platform", "platform", str),
    ):
        if p.get(key) is not None:
            rows.append((text, form(p.pop(key))))
    data = p.pop("data", None)
    pairs = data.items() if isinstance(data, Mapping) else [(f"data {i + 1}", v) for i, v in enumerate(data or [])]
    rows += [(f"fingerprint: {k}", str(v)) for k, v in pairs]
    versions = p.pop("versions", None)
    if isinstance(versions, Mapping):
        rows.append(("versions", ", ".join(f"{k} {v}" for k, v in versions.items())))
    rows += [(str(k), _plain(v)) for k, v in p.items() if v is not None and k not in ("warnings", "citation", "dataset")]
    return rows


def settings(result: Result) -> list[tuple[str, str]]:
    """Every argument of the run, as rows."""
    return [(str(k), _plain(v)) for k, v in result.config.items() if k not in ("warnings", "citation", LOST)]


def _duration(seconds: Any) -> str:
    s = float(seconds)
    return f"{s:.1f} s" if s < 120 else f"{s / 60:.1f} min" if s < 7200 else f"{s / 3600:.1f} h"


def _plain(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 600 else text[:600] + " …"
