"""Where a model's files are: a local folder or a hub name, both end as one folder that `from_pretrained` reads.

Only safetensors weights and no code are taken from it. Nothing is fetched when the name is a folder, and without a
network the answer is one line and not a wait.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from brainlens import store
from brainlens.backbones.names import REACH_S, check_reachable, is_folder, way_out
from brainlens.types import DataError, inside, reading

PATTERNS = ("*.json", "*.txt", "*.model", "*.safetensors")  # what is fetched: configuration, vocabulary, weights


def model_folder(name: str | Path, *, holding: str = "config.json") -> Path:
    """The folder with the model's files, which contains the file `holding`.

    name: a local folder, or a hub name such as "openai/clip-vit-large-patch14", looked up among the files fetched
    before and then fetched.

    Raises DataError naming the folder to provide where the model is not found locally and cannot be fetched.
    """
    if is_folder(name, (holding,)):
        return Path(name).expanduser()
    found = _fetched(str(name), holding) or _fetch(str(name))
    if not (found / holding).is_file():
        raise DataError(f"model {str(name)!r} has no {holding} on the hub; give a local folder of another format instead")
    return found


def _fetched(name: str, holding: str) -> Path | None:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:  # every reason for "not found" leads to the same next step, and their types change by version
        return None
    return folder if (folder / holding).is_file() and any(folder.rglob("*.safetensors")) else None


def _fetch(name: str) -> Path:
    from huggingface_hub import snapshot_download

    check_reachable(name)
    try:
        return Path(snapshot_download(name, allow_patterns=list(PATTERNS), etag_timeout=REACH_S))
    except Exception as error:
        said = " ".join(str(error).split())[:120]
        raise DataError(f"model {name!r} cannot be fetched ({type(error).__name__}: {said}); {way_out(name)}") from None


def files_hash(folder: Path) -> str:
    """SHA-256 over the names and bytes of a model's configuration, vocabulary and weights, in name order."""
    digest = hashlib.sha256()
    for path in sorted(p for pattern in PATTERNS for p in folder.rglob(pattern)):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file. Raises DataError naming the file if it is none."""
    value = store.read_json(path)
    if not isinstance(value, dict):
        raise DataError(f"{path.name} in {str(path.parent)!r} holds {type(value).__name__}, expected an object")
    return value


def library(name: str = "transformers") -> Any:
    """The module `transformers` or `diffusers`, once it is certain that it can be used.

    A torchvision that does not fit the installed torch makes both fail at import with an error that names neither.

    Raises DataError with the way out in that case.
    """
    if "torchvision" not in sys.modules and importlib.util.find_spec("torchvision") is not None:
        try:
            importlib.import_module("torchvision")
        except Exception as error:
            said = " ".join(str(error).split())[:120]
            raise DataError(
                f"the installed torchvision is broken ({said}) and {name} cannot work beside it; brainlens does not need it: "
                "run 'pip uninstall torchvision'"
            ) from None
    return importlib.import_module(name)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars, load reports and remarks of transformers and diffusers; what they were told before holds again
    afterwards."""
    log = library().utils.logging
    level, bars = log.get_verbosity(), log.is_progress_bar_enabled()
    other = sys.modules["diffusers"].utils.logging if "diffusers" in sys.modules else None
    other_level = None if other is None else other.get_verbosity()
    log.set_verbosity_error()
    log.disable_progress_bar()
    if other is not None:
        other.set_verbosity_error()
    try:
        yield
    finally:
        log.set_verbosity(level)
        if bars:
            log.enable_progress_bar()
        if other is not None:
            other.set_verbosity(other_level)


def check_inside(folder: Path) -> None:
    """Raises DataError for weights that lie outside the folder: named so by an index of their parts, or links to elsewhere.

    The hub's own folders are links into the store beside them, which counts as inside.
    """
    root = folder.parent.parent if folder.parent.name == "snapshots" else folder
    for index in sorted(folder.glob("*.index.json")):
        with reading(index, "fetch the model's files again"):
            names = {str(name) for name in read_json(index).get("weight_map", {}).values()}
            inside(folder, [name for name in names if not (folder / name).is_symlink()], str(index))
    files = [path for pattern in PATTERNS for path in folder.glob(pattern)]
    inside(root, [path.relative_to(root) for path in files], f"model folder {str(folder)!r}")


def load_weights(kind: Any, folder: Path, **pieces: Any) -> Any:
    """`kind.from_pretrained(folder)` from safetensors only, without remote code, and without weights left at random.

    pieces: further arguments of the model's own constructor.

    Raises DataError if the folder has no safetensors or lacks weights that the network needs.
    """
    if not any(folder.glob("*.safetensors")):
        other = sorted(p.name for p in folder.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"})
        have = f"; it has {other}" if other else ""
        raise DataError(
            f"model folder {str(folder)!r} has no *.safetensors{have}; convert the weights with save_pretrained first"
        )
    check_inside(folder)
    if kind.__module__.startswith("transformers"):  # diffusers' single networks never run code from their folder
        pieces["trust_remote_code"] = False
    try:
        with quiet():
            model, info = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, output_loading_info=True, **pieces
            )
    except DataError:
        raise
    except Exception as error:
        said = " ".join(str(error).split())[:160]
        raise DataError(f"model folder {str(folder)!r} cannot be loaded ({type(error).__name__}: {said})") from None
    missing = sorted(info["missing_keys"])
    if getattr(getattr(model.config, "vision_config", None), "pre_norm", True) is False:  # SLIP's towers (`backbones.slip`)
        model.vision_model.pre_layrnorm = importlib.import_module("torch").nn.Identity()
        missing = [name for name in missing if ".pre_layrnorm." not in name]
    if missing:
        raise DataError(f"model folder {str(folder)!r} lacks {len(missing)} weights that the network needs, first {missing[0]!r}")
    return model.eval().requires_grad_(False)


def load_tokenizer(folder: Path, *, vocabulary: int) -> Any:
    """The tokenizer of a model folder, for a network that knows token numbers below `vocabulary`.

    Raises DataError if its files are absent (transformers would make an empty one) or it does not fit the network.
    """
    transformers = library()
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model")):
        raise DataError(
            f"model folder {str(folder)!r} has no tokenizer files; copy tokenizer.json (or vocab.json and merges.txt) there"
        )
    try:
        with quiet():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    except Exception as error:
        said = " ".join(str(error).split())[:120]
        raise DataError(
            f"model folder {str(folder)!r} has a tokenizer that cannot be read ({said}); copy its files again"
        ) from None
    highest = max(tokenizer.get_vocab().values(), default=-1)
    if not 0 <= highest < vocabulary:
        raise DataError(
            f"model folder {str(folder)!r}: its tokenizer has numbers up to {highest}, its network {vocabulary}; "
            "they belong to different models"
        )
    return tokenizer
