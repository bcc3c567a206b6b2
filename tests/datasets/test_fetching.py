"""Downloads against real servers: some cut the line, ignore Range, or serve other bytes."""

import hashlib
import http.server
import re
import threading
from importlib import resources

import numpy as np
import pytest

from softrsa import datasets
from softrsa.datasets import fetching
from softrsa.errors import DataError, FileMissingError

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()
CARD = """
name = "toy"
title = "A title"
description = "d"
licence = "l"
citation = "c"
bibtex = "b"
source = "s"
preprocessing = "p"
simulated = false
[[files]]
path = "toy/a.bin"
sha256 = "{sha256}"
url = "{url}"
"""


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve CONTENT: /range as it should, /cut in pieces of 70 kB, /whole without Range."""

    def do_GET(self):
        asked = self.headers.get("Range")
        with self.server.lock:
            self.server.requests.append((self.path, asked))
        way = self.path.split("/")[1]
        content = {"wrong": CONTENT[::-1], "empty": b""}.get(way, CONTENT)
        start = int(re.match(r"bytes=(\d+)-", asked)[1]) if asked and way != "whole" else 0
        if way == "gone":
            self.send_error(503)
            return
        if start >= len(content) > 0:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        most = {"cut": 70_000, "dead": 0 if start else 70_000}.get(way, len(content))
        self.wfile.write(content[start : start + most])  # and the line is closed

    def log_message(self, *_args):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(fetching, "PAUSE", 0.001)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.requests, server.lock = [], threading.Lock()
        thread = threading.Thread(target=server.serve_forever, args=[0.01])
        thread.start()
        server.url = f"http://127.0.0.1:{server.server_port}"
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def card(tmp_path, monkeypatch):
    """Pretend a checkout with one card, an empty cache and no data."""
    (tmp_path / "checkout" / "softrsa").mkdir(parents=True)
    folder = tmp_path / "checkout" / "datasets" / "toy"
    folder.mkdir(parents=True)
    monkeypatch.setattr(resources, "files", lambda _name: tmp_path / "checkout" / "softrsa")
    monkeypatch.setenv("SOFTRSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("SOFTRSA_DATA", raising=False)
    monkeypatch.delenv("SOFTRSA_MIRROR", raising=False)

    def write(url, sha256=SHA256):
        (folder / "dataset.toml").write_text(CARD.format(url=url, sha256=sha256))

    return write


@pytest.fixture
def place(tmp_path):
    return tmp_path / "cache" / "datasets" / "toy"


def part(place, content, sha256=SHA256):
    """Leave what a stopped download leaves."""
    place.mkdir(parents=True)
    path = place / f".a.bin.{sha256[:8]}.part"
    path.write_bytes(content)
    return path


def visible(place):
    """List files but the lock."""
    return sorted(p.name for p in place.iterdir() if not p.name.endswith(".lock"))


@pytest.mark.parametrize(
    ("way", "asked"),
    [("range", "bytes=100000-"), ("whole", "bytes=100000-"), ("cut", "bytes=100000-")],
)
def test_half_a_download_is_gone_on_with(card, place, server, way, asked):
    card(f"{server.url}/{way}/a")
    part(place, CONTENT[:100_000])
    files = datasets.fetch("toy", progress=False)
    assert files["a.bin"].read_bytes() == CONTENT
    assert server.requests[0] == (f"/{way}/a", asked)
    assert visible(place) == ["a.bin"]


def test_cut_lines_are_taken_up_again(card, place, server):
    card(f"{server.url}/cut/a")
    assert datasets.fetch("toy", progress=False)["a.bin"].read_bytes() == CONTENT
    starts = [int(asked[6:-1]) for _, asked in server.requests[1:]]
    assert starts == [65536 * i for i in range(1, 5)]  # whole chunks of the 70 000 bytes each time


def test_a_line_that_stays_dead_keeps_what_came(card, place, server):
    card(f"{server.url}/dead/a")
    with pytest.raises(FileMissingError, match=r"dead/a .*65536 bytes are kept"):
        datasets.fetch("toy", progress=False)
    assert visible(place) == [f".a.bin.{SHA256[:8]}.part"]
    card(f"{server.url}/range/a")
    server.requests.clear()
    assert datasets.fetch("toy", progress=False)["a.bin"].read_bytes() == CONTENT
    assert server.requests == [("/range/a", "bytes=65536-")]


def test_complete_part_needs_no_byte(card, place, server):
    card(f"{server.url}/range/a")
    part(place, CONTENT)
    assert datasets.fetch("toy", progress=False)["a.bin"].read_bytes() == CONTENT


@pytest.mark.parametrize(
    "old", [CONTENT[::-1][:5000], CONTENT + b"more"], ids=["other bytes", "too long"]
)
def test_part_of_another_file_is_thrown_away(card, place, server, old):
    card(f"{server.url}/range/a")
    part(place, old)
    assert datasets.fetch("toy", progress=False)["a.bin"].read_bytes() == CONTENT
    assert server.requests[-1] == ("/range/a", None)
    assert visible(place) == ["a.bin"]


@pytest.mark.parametrize("way", ["wrong", "empty"])
def test_wrong_bytes_leave_nothing(card, place, server, way):
    card(f"{server.url}/{way}/a")
    with pytest.raises(DataError, match=rf"{server.url}/{way}/a holds is not .*{SHA256}"):
        datasets.fetch("toy", progress=False)
    assert visible(place) == []


def test_corrupt_file_in_the_cache_is_replaced(card, place, server):
    card(f"{server.url}/range/a")
    place.mkdir(parents=True)
    (place / "a.bin").write_bytes(CONTENT[:-1])
    assert datasets.fetch("toy", progress=False)["a.bin"].read_bytes() == CONTENT


def test_corrupt_file_that_cannot_be_replaced_is_not_used(card, place, server):
    card(f"{server.url}/gone/a")
    place.mkdir(parents=True)
    (place / "a.bin").write_bytes(CONTENT[:-1])
    with pytest.raises(FileMissingError, match=r"503 Server Error"):
        datasets.fetch("toy", progress=False)


def test_progress_starts_where_the_download_does(card, place, server, capfd):
    card(f"{server.url}/range/a")
    part(place, CONTENT[:150_000])
    datasets.fetch("toy")
    shown = capfd.readouterr().err
    assert "100%" in shown
    assert "300k/300k" in shown


def test_several_at_once_download_once(card, place, server):
    card(f"{server.url}/range/a")
    found = []

    def fetch():
        found.append(datasets.fetch("toy", progress=False)["a.bin"].read_bytes())

    threads = [threading.Thread(target=fetch) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [CONTENT] * 6
    assert server.requests == [("/range/a", None)]


def test_mirror_in_a_folder_needs_no_network(card, place, tmp_path, monkeypatch):
    card("http://127.0.0.1:9/a")
    (tmp_path / "mirror" / "toy").mkdir(parents=True)
    (tmp_path / "mirror" / "toy" / "a.bin").write_bytes(CONTENT)
    monkeypatch.setenv("SOFTRSA_MIRROR", str(tmp_path / "mirror"))
    assert datasets.fetch("toy")["a.bin"] == place / "a.bin"
    assert (place / "a.bin").read_bytes() == CONTENT


def test_mirror_with_other_bytes_or_without_the_file(card, place, tmp_path, monkeypatch, server):
    card("http://127.0.0.1:9/a")
    mirror = tmp_path / "mirror"
    (mirror / "toy").mkdir(parents=True)
    monkeypatch.setenv("SOFTRSA_MIRROR", str(mirror))
    with pytest.raises(FileMissingError, match=rf"no file {mirror}/toy/a.bin\. .*127.0.0.1:9/a"):
        datasets.fetch("toy", progress=False)
    (mirror / "toy" / "a.bin").write_bytes(b"other")
    other = hashlib.sha256(b"other").hexdigest()
    with pytest.raises(FileMissingError, match=rf"expected sha256 {SHA256}, found {other}"):
        datasets.fetch("toy", progress=False)
    assert visible(place) == []
    card(f"{server.url}/range/a")  # then the source itself
    assert datasets.fetch("toy", progress=False)["a.bin"].read_bytes() == CONTENT


def test_mirror_at_an_address(card, place, monkeypatch, server):
    card("http://127.0.0.1:9/a")
    monkeypatch.setenv("SOFTRSA_MIRROR", f"{server.url}/range/")
    assert datasets.fetch("toy", progress=False)["a.bin"].read_bytes() == CONTENT
    assert server.requests == [("/range/toy/a.bin", None)]


def test_mirror_that_is_none(card, monkeypatch):
    card("http://127.0.0.1:9/a")
    monkeypatch.setenv("SOFTRSA_MIRROR", "ftp://nowhere")
    with pytest.raises(FileMissingError, match=r"SOFTRSA_MIRROR is 'ftp://nowhere'"):
        datasets.fetch("toy", progress=False)
