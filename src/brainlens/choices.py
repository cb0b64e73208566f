"""Words that an option may be, where the command line refuses others before a library of numbers is loaded.

The modules that act on them take them from here.
"""

ENCODE_METHODS = ("factortopy", "ridge", "class_token", "patch_token", "gnet")
ATTRIBUTE_METHODS = ("bottleneck", "rise", "gradcam", "chefer", "integrated_gradients", "random")

VOLUME_BASELINES = ("ridge", "ridge_whitened", "linear", "mlp", "mindeye_like", "mindeye2_like", "cnn")
VOLUME_CONTROLS = ("ridge_projected", "linear_projected", "mlp_projected")  # baselines given the metric of the volume encoder
VOLUME_ENCODERS = (*VOLUME_BASELINES, *VOLUME_CONTROLS, "volume")
TRAINED_SENSOR_ENCODERS = (
    *("neuroalign", "nice", "nice_sa_like", "nice_ga_like", "nice_llm_like", "ubp_like", "atm", "eegnet", "linear"),
)
SOLVED_SENSOR_ENCODERS = ("ridge", "canonical")
SENSOR_ENCODERS = (*TRAINED_SENSOR_ENCODERS, *SOLVED_SENSOR_ENCODERS, "unfiltered", "sensors")
ENCODERS = tuple(dict.fromkeys((*VOLUME_ENCODERS, *SENSOR_ENCODERS)))
MODALITIES = ("both", "image", "text")
PROTOCOLS = ("within", "across")
GALLERIES = ("image", "concept")

RECONSTRUCT_PRESETS = ("default", "paper")
TOKENS = ("joint", "region")
STARTS = ("attention", "predicted", "ridge", "random")
CHOOSERS = ("evidence", "ridge", "predictor")
LESIONS = ("removal", "refit")
PICTURE_PROTOCOLS = ("mindeye", "brain-diffuser", "neuroadapter")
PICTURE_NETWORKS = ("alexnet", "clip", "inception", "efficientnet", "swav")
SCHEDULERS = ("ddim", "ddpm", "euler", "dpm")
