"""What a network may be called, and whether it can be there: said before a library of numbers is loaded."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from urllib.parse import urlsplit

from brainlens.types import DataError

PIXELS = "pixels"  # a control that every network must beat
UNTRAINED = "untrained:"  # the other: the miniature's architecture with weights drawn from the seed that follows
MARKS = ("config.json", "model_index.json")  # a folder of a network holds one of them
REACH_S = 5.0  # seconds to wait for the hub before saying that it is not reached


def check_network(name: str | None) -> None:
    """Raises DataError for a name that no network can have: a folder without one, and a hub name that neither was fetched before
    nor can be fetched now. A name that the hub does not know is found when it is fetched.
    """
    if name in (None, "miniature", PIXELS) or str(name).startswith(UNTRAINED):
        return
    if not is_folder(str(name), MARKS) and not any(_fetched_before(str(name)).glob("snapshots/*/*")):
        check_reachable(str(name))


def is_folder(name: str | Path, holding: tuple[str, ...]) -> bool:
    """Whether a network is a local folder, which has one of these files; False for a name that the hub may know.

    Raises DataError for a folder without them and for what is neither.
    """
    local = Path(name).expanduser()
    if local.is_dir():
        if not any((local / one).is_file() for one in holding):
            raise DataError(
                f"model folder {str(name)!r} has no {' or '.join(holding)}; give the folder that save_pretrained wrote"
            )
        return True
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(name)) or str(name).startswith((".", "/")):
        raise DataError(f"model {str(name)!r} is neither a folder nor a hub name like 'openai/clip-vit-large-patch14'")
    return False


def way_out(name: str) -> str:
    """What to do about a network that cannot be fetched."""
    return f"put its files (config.json, *.safetensors, ...) into a folder and give that folder instead of {name!r}"


def check_reachable(name: str) -> None:
    """Raises DataError, within seconds, where the hub is switched off or does not answer."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        raise DataError(f"model {name!r} is not found locally and the hub is switched off; {way_out(name)}")
    address = urlsplit(constants.ENDPOINT)
    if not any(os.environ.get(key) for key in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")):
        try:
            socket.create_connection((address.hostname or "", address.port or 443), timeout=REACH_S).close()
        except OSError:
            raise DataError(f"model {name!r} is not found locally and the hub cannot be reached; {way_out(name)}") from None


def _fetched_before(name: str) -> Path:
    """The folder of the hub's own cache that a network's files lie in, once they were fetched."""
    from huggingface_hub import constants

    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
