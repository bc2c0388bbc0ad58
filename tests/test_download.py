from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import transferjax
from transferjax import InputError, _download
from transferjax._download import fetch

CONTENT = np.random.default_rng(0).bytes(100_000)
OTHER = np.random.default_rng(1).bytes(90_000)
SHA256 = hashlib.sha256(CONTENT).hexdigest()

# a process that loads the file alone: without JAX it starts in a moment
CHILD = """
import sys, types
for name, folder in (("transferjax", sys.argv[1]), ("transferjax.models", sys.argv[1] + "/models")):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__path__ = [folder]
from transferjax._download import fetch
fetch(sys.argv[2], folder=sys.argv[3])
"""


class Site(ThreadingHTTPServer):
    """A server of one file, and how it misbehaves."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.headers = {"ETag": '"one"'}
        self.ranges = "if"  # the If-Range is fulfilled; "always"; or "never"
        self.length = True  # whether it says how long its file is
        self.answers = []  # what it answers first: (status, location), None for the file
        self.cuts = []  # after how many bytes the first answers break off
        self.reset = False  # whether they do so rudely
        self.at_cut = lambda: False  # whether it goes on all the same
        self.requests = []  # the asked-for ranges
        self.sent = []  # bytes, for each request

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/files/a.bin"

    def handle_error(self, request, client_address):
        pass  # clients that hang up


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        site, asked = self.server, self.headers["Range"]
        site.requests.append(asked)
        if site.answers and (answer := site.answers.pop(0)):
            status, location = answer
            return self.reply(status, {"Location": location} if location else {}, b"")
        start, length = 0, len(site.content)
        fulfilled = self.headers["If-Range"] in site.headers.values() or site.ranges == "always"
        if asked and fulfilled and site.ranges != "never":
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= length:
                return self.reply(416, {"Content-Range": f"bytes */{length}"}, b"")
        extra = {"Content-Range": f"bytes {start}-{length - 1}/{length}"} if start else {}
        return self.reply(206 if start else 200, site.headers | extra, site.content[start:])

    def reply(self, status, headers, body):
        site = self.server
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        if site.length:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        cut = site.cuts.pop(0) if site.cuts and body else None
        site.sent.append(len(body[:cut]))
        self.wfile.write(body[:cut])
        if cut is not None:
            if site.at_cut():
                self.wfile.write(body[cut:])
            elif site.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()


@pytest.fixture
def site():
    with Site() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def _settings(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(_download, "_PAUSES", (0.01, 0.01, 0.01))


@pytest.fixture
def once(monkeypatch):
    """No further tries."""
    monkeypatch.setattr(_download, "_PAUSES", ())


def names(folder):
    return sorted(os.listdir(folder))


def wait_for(path, size):
    end = time.monotonic() + 60
    while time.monotonic() < end and not (path.exists() and path.stat().st_size >= size):
        time.sleep(0.01)


def test_downloaded_once(site, tmp_path):
    url = site.url.replace("a.bin", "a%20b.bin?download=1#top")
    folder = tmp_path / "cache" / "weights"
    path = fetch(url, folder=folder)
    assert path == folder / "a b.bin"
    assert path.read_bytes() == CONTENT
    assert names(folder) == ["a b.bin"]
    (folder / "other").write_text("")
    assert path.stat().st_mode == (folder / "other").stat().st_mode
    assert fetch(url, folder=str(folder), sha256=SHA256) == path
    assert site.requests == [None]
    assert fetch(url, folder=folder, name="c.bin").read_bytes() == CONTENT
    assert len(site.requests) == 2


def test_a_present_file_needs_neither_network_nor_a_writable_folder(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(CONTENT)
    tmp_path.chmod(0o500)
    try:
        assert fetch("https://no.example/a.bin", folder=tmp_path, sha256=SHA256) == path
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("headers", [{"ETag": '"1"'}, {"Last-Modified": "x"}, {"ETag": 'W/"1"', "Last-Modified": "x"}])
def test_interrupted_and_resumed(site, once, tmp_path, headers):
    site.headers, site.cuts = headers, [60_000]
    expected = r"interrupted after 60,000 of 100,000 bytes\. Run again to resume\. .* put it at .*/a\.bin\."
    with pytest.raises(InputError, match=re.escape(site.url) + ": " + expected):
        fetch(site.url, folder=tmp_path)
    assert names(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    assert fetch(site.url, folder=tmp_path, sha256=SHA256[:8]).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=60000-"]
    assert site.sent == [60_000, 40_000]
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("reset", [False, True])
def test_what_breaks_off_is_tried_again(site, tmp_path, reset):
    site.cuts, site.reset = [30_000, 30_000, 0], reset
    site.at_cut = lambda: time.sleep(0.1)  # a reset takes with it what has not been read
    assert fetch(site.url, folder=tmp_path).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=30000-", "bytes=60000-", "bytes=60000-"]


@pytest.mark.parametrize("ranges", ["if", "always", "never"])
@pytest.mark.parametrize("content", [CONTENT[::-1], OTHER, OTHER[:50_000]])
def test_another_file_is_not_glued_to_the_part(site, tmp_path, ranges, content):
    site.cuts, site.answers = [60_000], [None, (404, None)]
    with pytest.raises(InputError, match="404"):
        fetch(site.url, folder=tmp_path)
    site.content, site.headers, site.ranges = content, {"ETag": '"two"'}, ranges
    assert fetch(site.url, folder=tmp_path).read_bytes() == content
    assert site.requests[:3] == [None, "bytes=60000-", "bytes=60000-"]
    assert names(tmp_path) == ["a.bin"]


def test_a_range_that_was_not_asked_for_is_not_glued_to_the_part(site, tmp_path):
    site.cuts, site.ranges = [60_000], "always"

    def change():
        site.content, site.headers = OTHER, {}

    site.at_cut = change
    assert fetch(site.url, folder=tmp_path).read_bytes() == OTHER
    assert site.requests == [None, "bytes=60000-", None]


@pytest.mark.parametrize("case", ["no validator", "other URL", "no note", "damaged note"])
def test_a_part_of_who_knows_what_is_not_resumed(site, once, tmp_path, case):
    site.cuts = [60_000]
    site.headers = {} if case == "no validator" else site.headers
    with pytest.raises(InputError, match="interrupted"):
        fetch(site.url, folder=tmp_path)
    note = tmp_path / "a.bin.part.json"
    if case == "no note":
        note.unlink()
    elif case == "damaged note":
        note.write_text("[]")
    site.content = OTHER
    url = site.url.replace("files", "others") if case == "other URL" else site.url
    assert fetch(url, folder=tmp_path).read_bytes() == OTHER
    assert site.requests == [None, None]


def test_a_whole_part_needs_no_network(tmp_path):
    url = "https://no.example/a.bin"
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    (tmp_path / "a.bin.part.json").write_text(json.dumps({"url": url, "validator": None, "size": len(CONTENT)}))
    assert fetch(url, folder=tmp_path, sha256=SHA256).read_bytes() == CONTENT
    assert names(tmp_path) == ["a.bin"]


def test_lengths_that_are_not_told_and_empty_files(site, tmp_path):
    site.length = False
    assert fetch(site.url, folder=tmp_path).read_bytes() == CONTENT
    site.length, site.content = True, b""
    assert fetch(site.url, folder=tmp_path, name="empty").read_bytes() == b""


def test_a_connection_that_stays_open_does_not_delay(site, tmp_path):
    gate = threading.Event()
    site.cuts, site.at_cut = [len(CONTENT)], lambda: gate.wait(10)
    assert fetch(site.url, folder=tmp_path, timeout=1).read_bytes() == CONTENT
    gate.set()


def test_a_wrong_hash_removes_the_download(site, tmp_path):
    site.content = OTHER
    expected = f"SHA-256 is {hashlib.sha256(OTHER).hexdigest()}, expected was {SHA256[:8]}. .*removed"
    with pytest.raises(InputError, match=expected):
        fetch(site.url, folder=tmp_path, sha256=SHA256[:8])
    assert names(tmp_path) == []
    site.content = CONTENT
    path = fetch(site.url, folder=tmp_path, sha256=SHA256[:8].upper())
    assert site.requests == [None, None]
    path.write_bytes(OTHER)
    with pytest.raises(InputError, match=rf"{path}: its SHA-256 is .*, expected was {SHA256}\. Delete the file"):
        fetch(site.url, folder=tmp_path, sha256=SHA256)
    assert names(tmp_path) == ["a.bin"]


@pytest.mark.parametrize("sha256", ["", "1234567", "x" * 64, SHA256 + "0", SHA256[:8] + "\n"])
def test_malformed_hashes(site, tmp_path, sha256):
    with pytest.raises(InputError, match=r"sha256: .* is no hash"):
        fetch(site.url, folder=tmp_path / "new", sha256=sha256)
    assert site.requests == []
    assert names(tmp_path) == []


@pytest.mark.parametrize("status", [403, 404])
def test_a_file_that_is_not_there_is_asked_for_once(site, tmp_path, status):
    site.answers = [(status, None)] * 9
    with pytest.raises(
        InputError, match=rf"{site.url}: the server answers {status} .*\. Download it .* at {tmp_path}/a\.bin"
    ):
        fetch(site.url, folder=tmp_path)
    assert len(site.requests) == 1
    assert names(tmp_path) == []


def test_a_server_that_is_busy_is_asked_again(site, tmp_path):
    site.answers = [(503, None), (429, None)]
    assert fetch(site.url, folder=tmp_path).read_bytes() == CONTENT
    site.answers = [(503, None)] * 9
    with pytest.raises(InputError, match="answers 503"):
        fetch(site.url, folder=tmp_path, name="b.bin")
    assert len(site.requests) == 3 + 4


def test_no_network(site, tmp_path, monkeypatch):
    def nowhere(*_, **__):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/a.bin"
        with pytest.raises(InputError, match=rf"{url}: .*refused.*\. Download it elsewhere and put it at {tmp_path}/a"):
            fetch(url, folder=tmp_path)
    gate = threading.Event()
    site.cuts, site.at_cut = [60_000], gate.wait
    with pytest.raises(InputError, match=rf"{site.url}: .*timed out.*\. Run again to resume\. .* put it at"):
        fetch(site.url, folder=tmp_path, timeout=0.2)
    gate.set()
    assert fetch(site.url, folder=tmp_path).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=60000-"]
    with pytest.raises(InputError, match=r"cannot be read \(.*too long"):
        fetch(f"http://{'a' * 70}.example/b.bin", folder=tmp_path)
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    with pytest.raises(InputError, match=r"https://no\.example/b\.bin: .*not known.* put it at"):
        fetch("https://no.example/b.bin", folder=tmp_path)
    assert names(tmp_path) == ["a.bin"]


def test_file_urls(tmp_path):
    (tmp_path / "a b.bin").write_bytes(CONTENT)
    url = (tmp_path / "a b.bin").as_uri()
    assert fetch(url, folder=tmp_path / "cache", sha256=SHA256).read_bytes() == CONTENT
    assert names(tmp_path / "cache") == ["a b.bin"]
    with pytest.raises(InputError, match=r"nothing\.bin: cannot be read .*No such file"):
        fetch((tmp_path / "nothing.bin").as_uri(), folder=tmp_path / "cache")


@pytest.mark.skipif(os.name != "posix", reason="sends a signal")
def test_ctrl_c_keeps_the_part(site, tmp_path):
    gate = threading.Event()

    def press():
        wait_for(tmp_path / "a.bin.part", 60_000)
        os.kill(os.getpid(), signal.SIGINT)
        gate.wait(10)

    site.cuts, site.at_cut = [60_000], press
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            fetch(site.url, folder=tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
        gate.set()
    assert names(tmp_path) == ["a.bin.part", "a.bin.part.json"]
    assert fetch(site.url, folder=tmp_path).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=60000-"]


def child(site, folder):
    command = [sys.executable, "-c", CHILD, str(Path(transferjax.__file__).parent), site.url, str(folder)]
    return subprocess.Popen(command, stderr=subprocess.PIPE)


def test_threads_and_processes_at_once_download_it_once(site, tmp_path):
    site.cuts, site.at_cut = [60_000], lambda: time.sleep(1)  # then it breaks off and is resumed
    found = []
    threads = [threading.Thread(target=lambda: found.append(fetch(site.url, folder=tmp_path))) for _ in range(2)]
    processes = [child(site, tmp_path) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [process.communicate(timeout=100)[1] for process in processes] == [b"", b""]
    assert [process.returncode for process in processes] == [0, 0]
    assert [path.read_bytes() == CONTENT for path in found] == [True, True]
    assert site.requests == [None, "bytes=60000-"]
    assert names(tmp_path) == ["a.bin"]


def test_a_killed_process_is_taken_over(site, tmp_path):
    gate = threading.Event()
    site.cuts, site.at_cut = [60_000], lambda: gate.wait(20)
    with child(site, tmp_path) as process:
        wait_for(tmp_path / "a.bin.part", 60_000)
        process.kill()
    gate.set()
    assert names(tmp_path) == ["a.bin.part", "a.bin.part.json", "a.bin.part.lock"]
    assert fetch(site.url, folder=tmp_path, timeout=0.5).read_bytes() == CONTENT
    assert site.requests == [None, "bytes=60000-"]
    assert names(tmp_path) == ["a.bin"]


def test_a_part_that_another_process_writes_is_left_to_it(site, tmp_path):
    part = tmp_path / "a.bin.part"

    def write():
        wait_for(part, 60_000)
        with part.open("ab") as file:
            file.write(b"more")
        return True

    site.cuts, site.at_cut = [60_000], write
    with pytest.raises(InputError, match="another process downloads it too"):
        fetch(site.url, folder=tmp_path)
    assert part.stat().st_size == 60_004


def test_redirects_lead_to_the_web_only(site, tmp_path):
    site.answers = [(302, "/elsewhere/x.bin")]
    assert fetch(site.url, folder=tmp_path) == tmp_path / "a.bin"
    secret = tmp_path / "secret"
    secret.write_text("s")
    for location in (secret.as_uri(), "ftp://127.0.0.1/secret"):
        site.answers = [(302, location)]
        with pytest.raises(InputError, match=rf"answers 302 .*{location}.* is not allowed"):
            fetch(site.url, folder=tmp_path, name="b.bin")
    site.answers = [(302, site.url)] * 30
    with pytest.raises(InputError, match="answers 302"):
        fetch(site.url, folder=tmp_path, name="b.bin")
    assert names(tmp_path) == ["a.bin", "secret"]


@pytest.mark.parametrize("end", ["", "..", ".hidden", "..%2f", "..%2fx", "a%2fb", "%2e%2e", "a%5cb", "c%3ax", "a%00b"])
def test_names_with_tricks(tmp_path, end):
    with pytest.raises(InputError, match=r"name: .* cannot be the name of a file"):
        fetch(f"https://no.example/files/{end}", folder=tmp_path)
    with pytest.raises(InputError, match="name: "):
        fetch("https://no.example/a.bin", folder=tmp_path, name="../x")
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    "url", ["", "a.bin", "ftp://x.org/a", "https:///a", "http://x:port/a", "http://[x/a", "http://x/a b", "http://x/é"]
)
def test_what_is_no_address(tmp_path, url):
    with pytest.raises(InputError, match=r"url: .* is no address"):
        fetch(url, folder=tmp_path)


def test_folders_that_cannot_be_written(site, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"folder: .* cannot be written"):
        fetch(site.url, folder=tmp_path / "file")
    (tmp_path / "a.bin").mkdir()
    with pytest.raises(InputError, match="is a folder"):
        fetch(site.url, folder=tmp_path)
    (tmp_path / "b.bin.part").mkdir()
    with pytest.raises(InputError, match=r"b\.bin: cannot be written"):
        fetch(site.url, folder=tmp_path, name="b.bin")
    assert names(tmp_path) == ["a.bin", "b.bin.part", "file"]
