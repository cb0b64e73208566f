"""A bucket of a local S3 server with a recording in it, and what is asked of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from brainlens.store import remote

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server_module = pytest.importorskip("moto.server", reason="pip install 'brainlens[test]'")
    pytest.importorskip("s3fs", reason="pip install 'brainlens[remote]'")
    made = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    made.start()
    host, port = made.get_host_and_port()
    yield f"http://{host}:{port}"
    made.stop()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder recording: 24 pictures shown twice, 12 units."""
    folder, rng = tmp_path_factory.mktemp("own") / "study", np.random.default_rng(0)
    (folder / "images").mkdir(parents=True)
    names = [f"p{i:02d}" for i in range(24)]
    for name in names:
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / "images" / f"{name}.png")
    kind = np.where(np.arange(24) < 14, "train", "test")
    pd.DataFrame({"stimulus": np.repeat(names, 2), "split": np.repeat(kind, 2)}).to_csv(folder / "trials.csv", index=False)
    np.save(folder / "responses.npy", rng.normal(size=(48, 12)).astype(np.float32))
    places = rng.normal(size=(12, 3)) * 30
    pd.DataFrame(places, columns=list("xyz")).assign(roi="V1").to_csv(folder / "units.csv", index=False)
    return folder


class Bucket:
    """A bucket with the recording under `lab/study`, and this process's environment set to its server."""

    def __init__(self, server: str, name: str, recording: Path) -> None:
        import boto3

        access = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
        self.client = boto3.client("s3", endpoint_url=server, **access)
        self.client.create_bucket(Bucket=name)
        self.name, self.url = name, f"s3://{name}/lab/study"
        for path in sorted(p for p in recording.rglob("*") if p.is_file()):
            self.put(path.relative_to(recording).as_posix(), path.read_bytes())

    def put(self, name: str, content: bytes) -> None:
        self.client.put_object(Bucket=self.name, Key=f"lab/study/{name}", Body=content)


@pytest.fixture
def bucket(server: str, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    for key, value in (KEYS | {"AWS_ENDPOINT_URL": server, "BRAINLENS_CACHE": str(tmp_path / "cache")}).items():
        monkeypatch.setenv(key, value)
    return Bucket(server, f"b{abs(hash(tmp_path)) % 10**9}", recording)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, int]]:
    """The ranges that are asked for, as (name, start, stop)."""
    ranges: list[tuple[str, int, int]] = []
    plain = remote.system_of

    def counted() -> Any:
        system = plain()
        cat = system.cat_file

        def cat_file(key: str, start: int, end: int) -> bytes:
            ranges.append((Path(key).name, start, end))
            return cat(key, start=start, end=end)

        system.cat_file = cat_file
        return system

    monkeypatch.setattr(remote, "system_of", counted)
    return ranges


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tries follow each other as often as they do for a user, and faster."""
    monkeypatch.setattr(remote, "WAITS", (0.01, 0.02, 0.04))
