"""What to cite: the methods that ran, the data, and the surfaces and templates that were drawn on."""

from __future__ import annotations

from typing import Any

import numpy as np

from brainlens import datasets
from brainlens.plots.standard import in_standard_space
from brainlens.types import Result, Sensors, Volume

BOTTLENECK = (
    "Bridging Vision, Language, and Brain: Whole-Brain Interpretation of Visual Representations "
    "via Information Bottleneck Attribution"
)
FACTORTOPY = "Yang, H., Gee, J., Shi, J. (2024). Brain Decodes Deep Nets (FactorTopy: layer, space, scale and channel selectors)"
RIDGE = "Naselaris, T. et al. (2011). Encoding and decoding in fMRI. NeuroImage 56, 400-410 (voxelwise ridge regression)"
RSA = "Kriegeskorte, N., Mur, M., Bandettini, P. (2008). Representational similarity analysis. Front Syst Neurosci 2, 4"
SENSOR = "A Neuroscience-inspired Framework for Tri-modality Alignment of Brain Signals, Vision, and Language"
NICE = "Song, Y. et al. (2024). Decoding Natural Images from EEG for Object Recognition. ICLR (NICE)"
METHODS: dict[str, dict[str, str]] = {  # task -> method or encoder -> what it rests on, a line each
    "encode": {
        "factortopy": FACTORTOPY,
        "class_token": f"{FACTORTOPY}, its baseline of class tokens",
        "patch_token": f"{FACTORTOPY}, its baseline of patch tokens",
        "gnet": "St-Yves, G. et al. (2023). Brain-optimized deep neural network models. Nat Commun 14, 3329 (GNet)",
        "ridge": RIDGE,
        "ridge_onehot": RIDGE,
        "ridge_patterns": f"{RIDGE}\n{RSA}",
    },
    "align": {
        "volume": f"{BOTTLENECK} (whole-brain alignment)",
        "mindeye_like": "Scotti, P. S. et al. (2023). Reconstructing the Mind's Eye: fMRI-to-Image. NeurIPS (MindEye)",
        "mindeye2_like": "Scotti, P. S. et al. (2024). MindEye2: Shared-Subject Models. ICML (MindEye2)",
        "neuroalign": SENSOR,
        "unfiltered": f"{SENSOR}, without its saliency extraction",
        "nice": NICE,
        "nice_sa_like": NICE,
        "nice_ga_like": NICE,
        "nice_llm_like": NICE,
        "ubp_like": "Wu, H. et al. (2025). Bridging the Vision-Brain Gap with an Uncertainty-Aware Blur Prior. CVPR (UBP)",
        "atm": "Li, D. et al. (2024). Visual Decoding and Reconstruction via EEG Embeddings with Guided Diffusion. NeurIPS (ATM)",
        "eegnet": "Lawhern, V. J. et al. (2018). EEGNet. J Neural Eng 15, 056013",
    },
    "attribute": {
        "bottleneck": f"{BOTTLENECK} (section 4.2, attribution)",
        "rise": "Petsiuk, V., Das, A., Saenko, K. (2018). RISE: Randomized Input Sampling for Explanation. BMVC",
        "gradcam": "Selvaraju, R. R. et al. (2017). Grad-CAM. ICCV",
        "chefer": "Chefer, H., Gur, S., Wolf, L. (2021). Generic Attention-model Explainability. ICCV",
        "integrated_gradients": "Sundararajan, M., Taly, A., Yan, Q. (2017). Axiomatic Attribution for Deep Networks. ICML",
        "gradient_x_input": "Shrikumar, A. et al. (2016). Not Just a Black Box. arXiv:1605.01713 (gradient times input)",
        "deeplift": "Shrikumar, A., Greenside, P., Kundaje, A. (2017). Learning Important Features. ICML (DeepLIFT)",
    },
    "decode": {
        "lda": "King, J.-R., Dehaene, S. (2014). Characterizing the dynamics of mental representations. "
        "Trends Cogn Sci 18, 203-210",
    },
    "rsa": {"": RSA},
    "reconstruct": {
        "": "Towards Interpretable Visual Decoding with Attention to Brain Representations (region tokens)",
    },
    "describe": {
        "": "Gao, T. et al. BrainLMM: A Label-Free Framework for Mapping Multi-Semantic Representation in the Visual Cortex",
    },
}
METHODS["compare"] = METHODS["encode"]
SURFACE = "Fischl, B., Sereno, M. I., Dale, A. M. (1999). Cortical surface-based analysis II. NeuroImage 9, 195-207 (fsaverage5)"
TEMPLATE = (
    "Fonov, V. et al. (2011). Unbiased average age-appropriate atlases for pediatric studies. NeuroImage 54, 313-327 (MNI152)"
)

OWN = "yours"  # the citation of a layout: the recording in it is the user's own


def citations(results: list[Result]) -> list[str]:
    """What these runs rest on: the papers of the methods that ran, the data, and templates where something is drawn on one."""
    out: list[str] = []
    for result in results:
        known = METHODS.get(result.task, {})
        out += [line for name in ("", *ran(result)) if name in known for line in known[name].splitlines()]
        for table in (result.config, result.provenance):
            given = table.get("citation")
            out += [given] if isinstance(given, str) and given != "brainlens" else []
        name = str(result.config.get("dataset", ""))
        if name in datasets.DATASETS and name not in datasets.SIMULATED:
            facts = datasets.facts(name)
            out += [f"{facts['citation']}: {facts['title']}"] if facts["citation"] != OWN else []
    drawn = [result for result in results if _has_maps(result) and in_standard_space(result)]
    out += [SURFACE] if drawn else []
    out += [TEMPLATE] if any(isinstance(result.space, Volume) for result in drawn) else []
    return list(dict.fromkeys(out))


def _has_maps(result: Result) -> bool:
    """Whether a result of voxels or vertices holds numbers of each of them, which maps are drawn of."""
    if result.space is None or isinstance(result.space, Sensors):
        return False
    return any(np.shape(array)[:1] == (len(result.space),) for array in result.arrays.values())


def ran(result: Result) -> list[str]:
    """The methods or encoders that a run used, by name; what the task itself takes where the run does not say."""
    config = result.config
    names: list[str] = []
    for key in ("method", "methods", "encoder", "encoders"):
        value: Any = config.get(key)
        names += [str(v) for v in value] if isinstance(value, (list, tuple)) else [] if value is None else [str(value)]
    if not names:
        sensors = isinstance(result.space, Sensors)
        assumed = {"attribute": "bottleneck", "align": "neuroalign" if sensors else "volume", "encode": "factortopy"}
        names = [assumed[result.task]] if result.task in assumed else []
    return list(dict.fromkeys(name.split("/")[-1] for name in names))
