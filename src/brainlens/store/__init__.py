"""Everything that brainlens writes to disk, and the checked way back.

Arrays are `.npy` memory maps beside a JSON manifest; results are run folders; weights are safetensors. Every file
is whole or absent, hashed, and a missing or damaged piece is an error, never a fill value.
"""

from brainlens.store.arrays import (
    ArrayWriter,
    ids_hash,
    manifest,
    npy_header,
    open_array,
    open_npy,
    release,
    remove_array,
    save_array,
)
from brainlens.store.exports import save_npy, save_recording, save_table
from brainlens.store.features import cached_features, features_folder, load_features, save_features
from brainlens.store.files import (
    append_log,
    check_file,
    check_seal,
    checked_sha256,
    plain,
    read_json,
    read_log,
    replacing,
    save_figure,
    save_image,
    save_json,
    save_nifti,
    save_text,
    seal,
    sha256,
)
from brainlens.store.locks import PATIENCE, check_writable, lock
from brainlens.store.models import NOTE as MODEL_NOTE
from brainlens.store.models import StoredModel, load_model, save_model
from brainlens.store.remote import address, here, is_remote
from brainlens.store.remote_rows import open_rows
from brainlens.store.results import (
    TASKS,
    Start,
    code_version,
    fingerprint,
    load_result,
    lost_arrays,
    provenance,
    run_folder,
    save_result,
    settings_of,
)
from brainlens.store.rows import LazyRows, join_rows, select_rows
from brainlens.store.training import load_checkpoint, load_weights, remove_checkpoints, save_checkpoint, save_weights

__all__ = [
    "MODEL_NOTE",
    "PATIENCE",
    "TASKS",
    "ArrayWriter",
    "LazyRows",
    "Start",
    "StoredModel",
    "address",
    "append_log",
    "cached_features",
    "check_file",
    "check_seal",
    "check_writable",
    "checked_sha256",
    "code_version",
    "features_folder",
    "fingerprint",
    "here",
    "ids_hash",
    "is_remote",
    "join_rows",
    "load_checkpoint",
    "load_features",
    "load_model",
    "load_result",
    "load_weights",
    "lock",
    "lost_arrays",
    "manifest",
    "npy_header",
    "open_array",
    "open_npy",
    "open_rows",
    "plain",
    "provenance",
    "read_json",
    "read_log",
    "release",
    "remove_array",
    "remove_checkpoints",
    "replacing",
    "run_folder",
    "save_array",
    "save_checkpoint",
    "save_features",
    "save_figure",
    "save_image",
    "save_json",
    "save_model",
    "save_nifti",
    "save_npy",
    "save_recording",
    "save_result",
    "save_table",
    "save_text",
    "save_weights",
    "seal",
    "select_rows",
    "settings_of",
    "sha256",
]
