"""Recordings and stored arrays on S3-compatible storage, against a local server."""

from __future__ import annotations

import json
import resource
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from brainlens import datasets, store
from brainlens.cli import main
from brainlens.store import remote, remote_rows
from brainlens.types import DataError

boto3 = pytest.importorskip("boto3")
pytestmark = pytest.mark.filterwarnings("default")  # of the server and its client


def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["brainlens", *words])
    with pytest.raises(SystemExit) as end:
        main()
    said = capsys.readouterr()
    return int(end.value.code or 0), said.out, said.err


def test_a_recording_is_the_one_that_was_stored(bucket: Any, recording: Path) -> None:
    near, far = datasets.load("folder", recording), datasets.load("folder", bucket.url)
    np.testing.assert_array_equal(near.responses.data, far.responses.data)
    pd.testing.assert_frame_equal(near.responses.trials, far.responses.trials)
    assert all(np.array_equal(a, b) for a, b in zip(near.stimuli.images, far.stimuli.images, strict=True))


def test_files_are_read_by_range_and_kept(
    bucket: Any, recording: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "PIECE", 1000)
    folder, size = remote.here(bucket.url), (recording / "responses.npy").stat().st_size
    of_responses = [entry[1:] for entry in asked if entry[0] == "responses.npy"]
    assert of_responses == [(at, min(at + 1000, size)) for at in range(0, size, 1000)]
    assert len(of_responses) > 2
    assert (folder / "responses.npy").read_bytes() == (recording / "responses.npy").read_bytes()
    asked.clear()
    assert remote.here(bucket.url) == folder
    assert asked == []  # all was there


def test_what_changed_there_or_here_is_fetched_again_and_nothing_else(bucket: Any, recording: Path, asked: list[Any]) -> None:
    folder = remote.here(bucket.url)
    content = (folder / "responses.npy").read_bytes()
    (folder / "responses.npy").write_bytes(content[:-1] + b"\1")  # the same size, other bytes
    bucket.put("units.csv", (recording / "units.csv").read_bytes().replace(b"V1", b"V2"))
    bucket.client.delete_object(Bucket=bucket.name, Key="lab/study/images/p00.png")
    bucket.put("captions.json", b"{}")
    asked.clear()
    remote.here(bucket.url)
    assert {entry[0] for entry in asked} == {"responses.npy", "units.csv", "captions.json"}
    assert (folder / "responses.npy").read_bytes() == content
    assert b"V2" in (folder / "units.csv").read_bytes()
    assert not (folder / "images" / "p00.png").exists()


@pytest.mark.parametrize("fault", ["short", "broken"])
def test_a_download_cut_off_leaves_no_half_file_and_goes_on(
    bucket: Any, recording: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr(remote, "PIECE", 1000)
    working, calls = remote.system_of, []

    def failing() -> Any:
        system = working()
        cat = system.cat_file

        def cat_file(key: str, start: int, end: int) -> bytes:
            calls.append(key)
            piece = cat(key, start=start, end=end)
            if key.endswith("responses.npy") and start == 1000:
                if fault == "broken":
                    raise ConnectionResetError(104, "Connection reset by peer")
                return piece[:-1]
            return piece

        system.cat_file = cat_file
        return system

    monkeypatch.setattr(remote, "system_of", failing)
    words = "999 bytes came where 1000" if fault == "short" else "Connection reset by peer; does the server answer"
    refused(lambda: remote.here(bucket.url), words)
    assert [path.name for path in remote.cache_folder().rglob("*responses.npy*")] == []
    before = {Path(key).name for key in calls} - {"responses.npy"}
    monkeypatch.setattr(remote, "system_of", working)
    asked.clear()
    folder = remote.here(bucket.url)
    assert (folder / "responses.npy").read_bytes() == (recording / "responses.npy").read_bytes()
    assert before
    assert not before & {entry[0] for entry in asked}  # what was whole is kept
    assert min(start for name, start, _ in asked if name == "responses.npy") == 1000  # and of what was not, what had come


def test_of_a_prepared_store_the_array_asked_for_is_fetched(bucket: Any, asked: list[Any], tmp_path: Path) -> None:
    made = {name: np.arange(40.0).reshape(8, 5) + k for k, name in enumerate(("epochs", "other"))}
    for name, array in made.items():
        store.save_array(tmp_path / "prepared", name, array)
    for path in (tmp_path / "prepared").iterdir():
        bucket.client.put_object(Bucket=bucket.name, Key=f"prepared/{path.name}", Body=path.read_bytes())
    np.testing.assert_array_equal(store.open_array(f"s3://{bucket.name}/prepared", "epochs"), made["epochs"])
    assert {entry[0] for entry in asked} == {"manifest.json", "epochs.npy"}
    bucket.client.put_object(Bucket=bucket.name, Key="prepared/epochs.npy", Body=b"\x93NUMPY" + bytes(400))
    with pytest.raises(DataError, match="damaged or half replaced"):  # the manifest there is of other bytes
        store.open_array(f"s3://{bucket.name}/prepared", "epochs")


ROWS = [slice(40, 60), slice(None, None, 700), np.array([3, 1999, 3, 4, 5]), np.arange(2000) % 500 == 7, 1234, np.array([], int)]


@pytest.fixture
def prepared(bucket: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, np.ndarray]:
    """An array of 2,000 rows in a prepared store, which is read in pieces of 4 kB, and its address."""
    made = np.random.default_rng(1).normal(size=(2000, 10, 3)).astype(np.float16)
    store.save_array(tmp_path / "prepared", "epochs", made, ids=[f"t{i}" for i in range(2000)])
    for path in (tmp_path / "prepared").iterdir():
        bucket.client.put_object(Bucket=bucket.name, Key=f"prepared/{path.name}", Body=path.read_bytes())
    monkeypatch.setattr(remote_rows, "SPAN", 4096)
    return f"s3://{bucket.name}/prepared", made


@pytest.mark.parametrize("rows", ROWS, ids=str)
def test_rows_alone_are_fetched_and_kept(prepared: tuple[str, np.ndarray], asked: list[Any], rows: Any) -> None:
    url, made = prepared
    found = store.open_rows(url, "epochs", ids=[f"t{i}" for i in range(2000)])
    assert (found.shape, found.dtype) == (made.shape, made.dtype)
    np.testing.assert_array_equal(found[rows], made[rows])
    came = [(start, stop) for name, start, stop in asked if name == "epochs.npy"]
    assert len(came) <= 6
    assert sum(stop - start for start, stop in came) < 0.3 * made.nbytes  # pieces of 4 kB hold 68 rows of 2,000
    asked.clear()
    np.testing.assert_array_equal(store.open_rows(url, "epochs")[rows], made[rows])
    assert {name for name, _, _ in asked} <= {"manifest.json"}  # no row comes twice


def test_rows_of_a_whole_array_come_in_pieces(prepared: tuple[str, np.ndarray], asked: list[Any], tmp_path: Path) -> None:
    url, made = prepared
    np.testing.assert_array_equal(np.asarray(store.open_rows(url, "epochs")), made)
    assert max(stop - start for _, start, stop in asked) <= remote.PIECE
    np.testing.assert_array_equal(store.open_rows(tmp_path / "prepared", "epochs")[7:9], made[7:9])  # of a disk, too


def test_rows_that_were_altered_here_or_there_are_not_believed(
    bucket: Any, prepared: tuple[str, np.ndarray], asked: list[Any], tmp_path: Path
) -> None:
    url, made = prepared
    found = store.open_rows(url, "epochs")
    found[100:110]
    for piece in (tmp_path / "cache").glob("prepared-*/pieces/*/*"):
        piece.write_bytes(piece.read_bytes()[:-1] + b"\xff")
    asked.clear()
    np.testing.assert_array_equal(found[100:110], made[100:110])
    assert [name for name, _, _ in asked] == ["epochs.npy"]
    whole = (tmp_path / "prepared" / "epochs.npy").read_bytes()
    bucket.client.put_object(Bucket=bucket.name, Key="prepared/epochs.npy", Body=whole[:-2] + b"\0\0")
    np.testing.assert_array_equal(found[100:110], made[100:110])  # what is here is of the version that was opened
    refused(lambda: found[500:510], "epochs.npy was replaced while it was read")
    again = store.open_rows(url, "epochs")
    assert (again[-1][-1, -1], len(list((tmp_path / "cache").glob("prepared-*/pieces/*")))) == (0, 1)
    for content, words in ((whole[:-2], "is not <f2"), (b"\x93NUMPZ" + whole[6:], "is not <f2")):
        bucket.client.put_object(Bucket=bucket.name, Key="prepared/epochs.npy", Body=content)
        refused(lambda: store.open_rows(url, "epochs"), words)
    bucket.client.delete_object(Bucket=bucket.name, Key="prepared/epochs.npy")
    refused(lambda: store.open_rows(url, "epochs"), "epochs.npy: the bucket or folder is not found")
    refused(lambda: store.open_rows(url, "nope"), "holds no 'nope'")
    refused(lambda: store.open_rows(url, "epochs", ids=["a"]), "belongs to other rows")


def test_the_command_line_runs_on_an_address(
    bucket: Any, recording: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    values = []
    for place in (bucket.url, str(recording)):
        words = ("encode", "--dataset", "folder", "--data", place, "--method", "ridge", "--runs", str(tmp_path / "runs"))
        code, out, err = command(monkeypatch, capsys, *words)
        assert code == 0, err
        content = json.loads((Path(out.rsplit("run: ", 1)[1].strip()) / "result.json").read_text())
        assert content["config"]["folder"] == place
        values.append(content["metrics"])
    assert values[0] == values[1]


def refused(call: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_a_bucket_without_permission_is_one_line(
    bucket: Any, server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A user of the server's own accounts who may read nothing."""
    import requests

    access = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "region_name": "us-east-1"}
    people = boto3.client("iam", endpoint_url=server, **access)
    people.create_user(UserName=bucket.name)
    key = people.create_access_key(UserName=bucket.name)["AccessKey"]
    requests.post(f"{server}/moto-api/reset-auth", data=b"0", timeout=10)
    try:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", key["AccessKeyId"])
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", key["SecretAccessKey"])
        refused(lambda: remote.here(bucket.url), "no permission")
        code, _, err = command(monkeypatch, capsys, "encode", "--dataset", "folder", "--data", bucket.url, "--method", "ridge")
        assert code == 2
        lines = [line for line in err.splitlines() if not line.startswith("warning")]
        assert len(lines) == 1, err
        assert f"{bucket.url}: no permission" in lines[0]
    finally:
        requests.post(f"{server}/moto-api/reset-auth", data=b"inf", timeout=10)


def test_a_cache_disk_that_fills_is_one_line_and_leaves_no_half_file(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("zz_large.bin", bytes(300_000))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # files may not grow beyond
    try:
        refused(lambda: remote.here(bucket.url), "zz_large.bin: could not be written")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    left = [path.name for path in remote.cache_folder().rglob("*zz_large*")]
    assert left == list(remote.cache_folder().glob("*/parts/*")) == []  # a part would keep the disk full
    assert (remote.here(bucket.url) / "zz_large.bin").stat().st_size == 300_000  # the others were kept, this one follows
    bucket.put("zz_larger.bin", bytes(300_001))
    usage = shutil.disk_usage("/")
    monkeypatch.setattr(remote.shutil, "disk_usage", lambda _: usage._replace(free=300_000))
    refused(lambda: remote.here(bucket.url), "0.0003 GB free; set BRAINLENS_CACHE")


BAD = {
    "no bucket": ("s3://", "names no bucket"),
    "another bucket": ("s3://no-such-bucket-here/study", "the bucket or folder is not found"),
    "an empty folder": ("s3://{bucket}/lab/nothing", "the folder is not found, or it holds no file"),
}


@pytest.mark.parametrize("case", BAD)
def test_addresses_that_hold_nothing_are_one_line(case: str, bucket: Any) -> None:
    url, words = BAD[case]
    refused(lambda: remote.here(url.format(bucket=bucket.name)), words)


def test_a_server_that_is_not_there_is_one_line(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    refused(lambda: remote.here(bucket.url), "AWS_ENDPOINT_URL")


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket: Any) -> None:
    class Named:
        def find(self, root: str, detail: bool) -> dict[str, Any]:
            return {f"{root}/../outside.npy": {"size": 3, "ETag": "x"}}

    refused(lambda: remote._listed(Named(), bucket.url), "leads out of the folder")
