"""A storage that fails for a while: behind a proxy that answers some requests with a fault, over a real connection."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from brainlens import store
from brainlens.store import remote
from brainlens.types import DataError
from brainlens.warned import BrainlensWarning

pytestmark = pytest.mark.filterwarnings("default")  # of the server and its client
CODES = {
    500: "InternalError",
    503: "SlowDown",
    403: "AccessDenied",
    404: "NoSuchKey",
    429: "TooManyRequests",
    501: "NotImplemented",
}


class Proxy:
    """Gives requests on to a server; `faults` holds what is done to the next ones whose path ends as `where`."""

    def __init__(self, server: str) -> None:
        self.faults: list[int | str] = []
        self.where, self.seen, self.pause = "", Counter[str](), 0.0
        proxy, (host, port) = self, server.removeprefix("http://").split(":")

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None: ...

            def do_GET(self) -> None:
                path = self.path.split("?")[0]
                proxy.seen[Path(path).name] += 1
                chosen = bool(proxy.where) and path.endswith(proxy.where)
                fault = proxy.faults.pop(0) if chosen and proxy.faults else ""
                time.sleep(proxy.pause if chosen else 0)
                if isinstance(fault, int):
                    body = b"" if self.command == "HEAD" else f"<Error><Code>{CODES[fault]}</Code></Error>".encode()
                    self.give(fault, {"Content-Type": "application/xml"}, body, len(body))
                    return
                if fault == "reset":
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                    return
                there = http.client.HTTPConnection(host, int(port), timeout=30)
                there.request(self.command, self.path, headers=dict(self.headers))
                answer = there.getresponse()
                body = answer.read()
                size = int(answer.headers.get("Content-Length", len(body)))
                self.give(answer.status, dict(answer.headers), body[: len(body) // 2] if fault == "half" else body, size)
                if fault == "half":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                there.close()

            do_HEAD = do_GET

            def give(self, status: int, headers: dict[str, str], body: bytes, size: int) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    if name.lower() not in ("content-length", "connection", "transfer-encoding"):
                        self.send_header(name, value)
                self.send_header("Content-Length", str(size))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def proxy(server: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Proxy]:
    """The way to the bucket; the client asks once, so that the tries of the library are seen."""
    made = Proxy(server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", made.url)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    yield made
    made.server.shutdown()
    made.server.server_close()


def said(call: Callable[[], Any]) -> tuple[Any, list[str]]:
    """What a call gives or the DataError that it raises, and the library's warnings."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("default")
        try:
            found = call()
        except DataError as error:
            found = error
    return found, [str(one.message) for one in heard if issubclass(one.category, BrainlensWarning)]


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (500, "HTTP 500"),
        (503, "HTTP 503"),
        (429, "HTTP 429"),
        ("reset", "the connection failed"),
        ("half", "the connection failed"),
    ],
)
@pytest.mark.parametrize("where", ["responses.npy", "{bucket}"])  # a file, and the list of files
def test_a_fault_that_passes_costs_one_line(
    bucket: Any, recording: Path, proxy: Proxy, fault: int | str, words: str, where: str
) -> None:
    proxy.where, proxy.faults = where.format(bucket=bucket.name), [fault] * 2
    folder, lines = said(lambda: remote.here(bucket.url))
    assert lines == [f"s3://{bucket.name}: {words}; requests are made again, 3 times in 0.07 s each"]
    assert not proxy.faults
    assert (folder / "responses.npy").read_bytes() == (recording / "responses.npy").read_bytes()


def test_a_fault_that_lasts_is_one_line_after_four_tries(bucket: Any, proxy: Proxy) -> None:
    proxy.where, proxy.faults = "responses.npy", [503] * 10
    error, lines = said(lambda: remote.here(bucket.url))
    assert isinstance(error, DataError)
    assert "\n" not in str(error)
    assert "responses.npy: " in str(error)
    assert (proxy.seen["responses.npy"], len(lines)) == (4, 1)


@pytest.mark.parametrize(("fault", "words"), [(403, "no permission"), (404, "is not found"), (501, "responses.npy: ")])
def test_what_will_not_pass_is_not_asked_again(bucket: Any, proxy: Proxy, fault: int, words: str) -> None:
    proxy.where, proxy.faults = "responses.npy", [fault]
    error, lines = said(lambda: remote.here(bucket.url))
    assert words in str(error)
    assert (proxy.seen["responses.npy"], lines) == (1, [])


def test_rows_come_after_a_fault_too(bucket: Any, proxy: Proxy, tmp_path: Path) -> None:
    made = np.arange(40.0).reshape(8, 5)
    store.save_array(tmp_path / "prepared", "epochs", made)
    for path in (tmp_path / "prepared").iterdir():
        bucket.client.put_object(Bucket=bucket.name, Key=f"prepared/{path.name}", Body=path.read_bytes())
    proxy.where, proxy.faults = "epochs.npy", [503, "", "half"]  # the state, the state, the first rows
    rows, lines = said(lambda: store.open_rows(f"s3://{bucket.name}/prepared", "epochs")[2:5])
    np.testing.assert_array_equal(rows, made[2:5])
    assert (len(lines), proxy.faults) == (2, [])


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TimeoutError(), "no answer in time"),
        (ConnectionResetError(104, "reset"), "the connection failed"),
        (PermissionError(13, "no"), ""),
        (FileNotFoundError(2, "no"), ""),
        (OSError(28, "No space left on device"), ""),
        (ValueError("ours"), ""),
        (None, ""),
    ],
)
def test_faults_of_python(error: BaseException | None, words: str) -> None:
    assert remote.passing(error) == words


def test_faults_of_the_client() -> None:
    of = pytest.importorskip("botocore.exceptions")
    known = {"endpoint_url": "http://x", "error": "e"}
    assert remote.passing(of.ReadTimeoutError(**known)) == remote.passing(of.ConnectTimeoutError(**known)) == "no answer in time"
    assert remote.passing(of.EndpointConnectionError(**known)) == "the connection failed"
    assert remote.passing(of.ConnectionClosedError(**known)) == "the connection failed"
    assert remote.passing(of.SSLError(**known)) == remote.passing(of.NoCredentialsError()) == ""
    wrapped = OSError(16, "busy")
    wrapped.__cause__ = of.ClientError({"Error": {"Code": "x"}, "ResponseMetadata": {"HTTPStatusCode": 502}}, "GetObject")
    assert remote.passing(wrapped) == "HTTP 502"


CONTENT = np.random.default_rng(3).bytes(50_500)
FETCH = """
import sys
from brainlens.store import parts, remote
remote.PIECE, parts.NOTED = 1000, 10_000
remote.here(sys.argv[1])
"""


def killed(bucket: Any, proxy: Proxy) -> list[int]:
    """Fetches the large file in a process that is killed in the middle; the sizes of the parts that it leaves."""
    proxy.where, proxy.pause = "zz_large.bin", 0.02
    began = proxy.seen["zz_large.bin"]
    process = subprocess.Popen([sys.executable, "-c", FETCH, bucket.url], env=os.environ)
    while proxy.seen["zz_large.bin"] < began + 25:
        assert process.poll() is None, "it was done before it was killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait(30)
    proxy.pause = 0.0
    return [path.stat().st_size for path in remote.cache_folder().glob("*/parts/*.part")]


@pytest.fixture
def begun(bucket: Any, proxy: Proxy, asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """The part that a killed process has left of a large file."""
    bucket.put("zz_large.bin", CONTENT)
    (left,) = killed(bucket, proxy)
    assert 20_000 <= left < len(CONTENT)
    monkeypatch.setattr(remote, "PIECE", 1000)
    asked.clear()
    (part,) = remote.cache_folder().glob("*/parts/*.part")
    return part


def fetched(bucket: Any, asked: list[Any]) -> tuple[bytes, int, list[Path]]:
    """The large file as a further call fetches it, from which byte on, and the parts that are left."""
    content = (remote.here(bucket.url) / "zz_large.bin").read_bytes()
    starts = [start for name, start, _ in asked if name == "zz_large.bin"]
    return content, min(starts, default=-1), list(remote.cache_folder().glob("*/parts/*"))


def test_a_killed_download_is_gone_on_from(bucket: Any, begun: Path, asked: list[Any]) -> None:
    assert fetched(bucket, asked) == (CONTENT, 20_000, [])  # where the last note was written
    assert {name for name, _, _ in asked} == {"zz_large.bin"}
    asked.clear()
    assert fetched(bucket, asked) == (CONTENT, -1, [])  # its hash is noted


@pytest.mark.parametrize("harm", ["altered", "cut", "no note", "a broken note"])
def test_a_part_that_is_not_what_came_is_not_believed(bucket: Any, begun: Path, asked: list[Any], harm: str) -> None:
    content, note = begun.read_bytes(), begun.with_suffix(".json")
    if harm == "altered":
        begun.write_bytes(content[:500] + bytes([content[500] ^ 1]) + content[501:])
    elif harm == "cut":
        begun.write_bytes(content[:15_000])
    elif harm == "no note":
        note.unlink()
    else:
        note.write_text('{"bytes": -4, "sha256": 3}', encoding="utf-8")
    assert fetched(bucket, asked) == (CONTENT, 0, [])


def test_of_another_version_nothing_is_used(bucket: Any, begun: Path, asked: list[Any]) -> None:
    other = CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])  # of the same size
    bucket.put("zz_large.bin", other)
    assert fetched(bucket, asked) == (other, 0, [])


def test_a_file_replaced_while_it_is_gone_on_with_leaves_nothing(
    bucket: Any, begun: Path, asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = remote.fetched

    def replaced(system: Any, url: str, start: int, stop: int, state: tuple[int, str]) -> bytes:
        if start == 30_000:
            bucket.put("zz_large.bin", bytes(len(CONTENT)))
        return plain(system, url, start, stop, state)

    monkeypatch.setattr(remote, "fetched", replaced)
    with pytest.raises(DataError, match="was replaced while it was read"):
        remote.here(bucket.url)
    assert not begun.exists()
    bucket.put("zz_large.bin", CONTENT)  # the first version again
    monkeypatch.setattr(remote, "fetched", plain)
    asked.clear()
    assert fetched(bucket, asked) == (CONTENT, 0, [])


def test_an_interrupted_download_keeps_what_came(bucket: Any, asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.put("zz_large.bin", CONTENT)
    monkeypatch.setattr(remote, "PIECE", 1000)
    plain = remote.fetched

    def stopped(system: Any, url: str, start: int, stop: int, state: tuple[int, str]) -> bytes:
        if start == 7000:
            raise KeyboardInterrupt
        return plain(system, url, start, stop, state)

    monkeypatch.setattr(remote, "fetched", stopped)
    with pytest.raises(KeyboardInterrupt):
        remote.here(bucket.url)
    monkeypatch.setattr(remote, "fetched", plain)
    asked.clear()
    assert fetched(bucket, asked) == (CONTENT, 7000, [])
