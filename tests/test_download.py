"""Downloads against a real server on loopback: every way in which one may go wrong, and two."""

import ast
import contextlib
import functools
import hashlib
import http.server
import importlib.util
import os
import random
import re
import shutil
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fer_jax.conversion import download
from fer_jax.conversion.download import CHUNK, fetch, fetch_keras, keras_file
from fer_jax.errors import UserError

SIZE, HALF = 16 * CHUNK, 8 * CHUNK
OLD, NEW = (random.Random(seed).randbytes(SIZE) for seed in (0, 1))
VARIANTS = [f"b{i}" for i in range(8)]
SCRIPT = """
import sys, pathlib
from fer_jax.conversion.download import fetch
fetch(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), timeout=20)
"""


def md5(data):
    return hashlib.md5(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next behaviour of `server.script`, at its end with a file."""

    def do_GET(self):
        self.seen = {"path": self.path, "range": self.headers.get("Range"), "sent": 0}
        self.server.seen.append(self.seen)
        behaviour = self.server.script.pop(0) if self.server.script else file()
        with contextlib.suppress(ConnectionError):
            behaviour(self)

    def send(self, data):
        for start in range(0, len(data), CHUNK):
            self.seen["sent"] += self.wfile.write(data[start : start + CHUNK])

    def answer(self, status, **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()

    def log_message(self, *_):
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.seen, self.gate = [], [], threading.Event()
        self.url = f"http://127.0.0.1:{self.server_port}/model.h5"

    def ranges(self):
        return [request["range"] for request in self.seen]


def file(data=OLD, etag='"old"', stop=SIZE, then="cut", ranges=True, **more):
    """A file server's answer; after `stop` bytes of the file it cuts or waits for the gate."""

    def behaviour(handler):
        asked, known = handler.headers.get("Range"), handler.headers.get("If-Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        headers = {"ETag": etag} | more
        if ranges and asked and known in (None, headers["ETag"], more.get("Last_Modified")):
            if start >= len(data):
                return handler.answer(416, Content_Range=f"bytes */{len(data)}")
            headers["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        else:
            start = 0
        length = len(data) - start
        status = 206 if "Content_Range" in headers else 200
        handler.answer(status, **({"Content_Length": length} | headers))
        handler.send(data[start:stop])
        if stop < len(data) and then == "wait":
            handler.server.gate.wait(60)
            handler.send(data[stop:])

    return behaviour


def status(number, **headers):
    return lambda handler: handler.answer(number, Content_Length=0, **headers)


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@contextlib.contextmanager
def running(server):
    thread = threading.Thread(target=functools.partial(server.serve_forever, 0.01))
    thread.start()
    try:
        yield server
    finally:
        server.gate.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def server():
    with running(Server()) as running_server:
        yield running_server


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "cache" / "model.h5"


def quick(url, data, destination, **changed):
    """`fetch` with the patience of a test."""
    patience = {"attempts": 3, "timeout": 20, "backoff": 0.01} | changed
    return fetch(url, md5(data), destination, **patience)


def refusal(url, data, destination, **changed):
    """The one line with which `fetch` gives up, which always helps on."""
    with pytest.raises(UserError) as caught:
        quick(url, data, destination, **changed)
    line = str(caught.value)
    assert "\n" not in line
    assert {url, md5(data), str(destination)} <= set(re.split(r"[ )]", line)), line
    assert not destination.exists()
    return line


def left(destination):
    """Names that lie in the cache, but for the lock."""
    return {path.name for path in destination.parent.iterdir()} - {"model.h5.lock"}


def test_a_file_arrives_and_then_needs_no_network(server, destination):
    assert quick(server.url, OLD, destination) == destination
    assert destination.read_bytes() == OLD
    assert left(destination) == {"model.h5"}
    quick(server.url, OLD, destination)
    assert server.ranges() == [None]


def test_a_damaged_cached_file_is_fetched_again_and_said(server, destination, capsys):
    destination.parent.mkdir()
    destination.write_bytes(OLD[:-1] + b"?")
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{destination} is damaged" in said


@pytest.mark.parametrize("then", ["cut", "wait"])
def test_a_cut_or_a_stall_goes_on_where_it_stopped(server, destination, capsys, then):
    server.script = [file(stop=HALF, then=then), status(503), file(stop=HALF + 2 * CHUNK)]
    quick(server.url, OLD, destination, attempts=4, timeout=1 if then == "wait" else 20)
    assert destination.read_bytes() == OLD
    assert server.ranges()[0] is None
    assert server.ranges()[1:] == [f"bytes={HALF}-"] * 2 + [f"bytes={HALF + 2 * CHUNK}-"]
    assert sum(request["sent"] for request in server.seen) == SIZE
    assert re.findall(r"attempt (\d) of 4 in (\S+) s", capsys.readouterr().err) == [
        ("2", "0.01"),
        ("3", "0.02"),
        ("4", "0.04"),
    ]


def test_a_stall_before_any_answer_ends(server, destination):
    server.script = [lambda handler: handler.server.gate.wait(60)] * 2
    assert "timed out" in refusal(server.url, OLD, destination, attempts=2, timeout=0.2)


def test_attempts_are_bounded_and_the_next_call_goes_on(server, destination):
    server.script = [file(stop=CHUNK), file(stop=2 * CHUNK), file(stop=3 * CHUNK)]
    assert "the last of 3 attempts" in refusal(server.url, OLD, destination)
    assert len(server.seen) == 3
    quick(server.url, OLD, destination)
    assert server.ranges()[3] == f"bytes={3 * CHUNK}-"
    assert destination.read_bytes() == OLD


def test_a_part_of_another_address_or_checksum_is_not_continued(server, destination):
    server.script = [file(stop=HALF), file(stop=HALF)]
    refusal(server.url, OLD, destination, attempts=1)
    refusal(server.url + "?other", OLD, destination, attempts=1)
    server.script = [file(NEW)]
    quick(server.url + "?other", NEW, destination)
    assert server.ranges() == [None, None, None]


@pytest.mark.parametrize("debris", ["{", "[]", "{}", '{"url": 1}', None])
def test_a_part_of_unknown_origin_is_replaced(server, destination, debris):
    destination.parent.mkdir()
    (destination.parent / "model.h5.part").write_bytes(NEW[:HALF])
    if debris:
        (destination.parent / "model.h5.part.json").write_text(debris)
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD
    assert left(destination) == {"model.h5"}


def test_a_whole_part_needs_only_its_name(server, destination):
    destination.parent.mkdir()
    (destination.parent / "model.h5.part").write_bytes(OLD)
    quick(server.url, OLD, destination)
    assert not server.seen
    assert left(destination) == {"model.h5"}


def test_a_part_that_is_too_long_is_started_anew(server, destination):
    server.script = [file(stop=HALF)]
    refusal(server.url, OLD, destination, attempts=1)
    with open(destination.parent / "model.h5.part", "ab") as part:
        part.write(bytes(SIZE))
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD
    assert server.ranges()[2] is None


def test_a_server_without_ranges_starts_from_0(server, destination):
    server.script = [file(stop=HALF, ranges=False), file(ranges=False)]
    quick(server.url, OLD, destination)
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert destination.read_bytes() == OLD


@pytest.mark.parametrize(
    ("headers", "continued"),
    [
        ({"ETag": 'W/"weak"'}, False),
        ({"ETag": 'W/"weak"', "Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, True),
        ({"Content_Encoding": "x-unknown"}, False),
    ],
)
def test_only_what_names_its_version_is_continued(server, destination, headers, continued):
    server.script = [file(stop=HALF, **headers), file(**headers)]
    quick(server.url, OLD, destination)
    assert server.ranges() == [None, f"bytes={HALF}-" if continued else None]
    assert destination.read_bytes() == OLD


def test_a_file_that_changes_on_the_server_is_not_glued(server, destination):
    server.script = [file(OLD, '"old"', HALF), file(NEW, '"new"')]
    quick(server.url, NEW, destination)
    assert len(server.seen) == 2
    assert destination.read_bytes() == NEW


def unconditional(data, etag, shift=0):
    """A range of whatever lies there, without a look at If-Range."""

    def behaviour(handler):
        start = int(handler.headers["Range"][6:-1]) + shift
        about = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.answer(206, ETag=etag, Content_Length=len(data) - start, Content_Range=about)
        handler.send(data[start:])

    return behaviour


@pytest.mark.parametrize("wrong", [unconditional(NEW, '"new"'), unconditional(NEW, '"old"', CHUNK)])
def test_a_wrong_range_is_noticed_before_its_body(server, destination, wrong, capsys):
    server.script = [file(OLD, '"old"', HALF), wrong, file(NEW, '"new"')]
    quick(server.url, NEW, destination)
    assert destination.read_bytes() == NEW
    assert "does not continue" in capsys.readouterr().err


def test_a_lie_about_the_version_is_told_by_the_checksum(server, destination, capsys):
    server.script = [file(OLD, stop=HALF), file(NEW), file(NEW)]
    quick(server.url, NEW, destination)
    assert destination.read_bytes() == NEW
    assert md5(OLD[:HALF] + NEW[HALF:]) in capsys.readouterr().err
    assert server.ranges()[2] is None


def test_corruption_says_both_checksums_and_leaves_nothing(server, destination):
    corrupt = OLD[:100] + b"?" + OLD[101:]
    server.script = [file(corrupt)]
    assert md5(corrupt) in refusal(server.url, OLD, destination)
    assert len(server.seen) == 1
    assert left(destination) == set()


@pytest.mark.parametrize(("number", "requests"), [(404, 1), (403, 1), (206, 1), (429, 3), (503, 3)])
def test_answers_that_are_no_file(server, destination, number, requests):
    server.script = [status(number)] * 3
    assert f"HTTP {number} " in refusal(server.url, OLD, destination)
    assert len(server.seen) == requests


def test_redirects_are_followed_with_the_range(server, destination):
    to = status(302, Location="/elsewhere.h5")
    server.script = [to, file(stop=HALF), to]
    quick(server.url, OLD, destination)
    assert [request["path"] for request in server.seen] == ["/model.h5", "/elsewhere.h5"] * 2
    assert server.ranges() == [None, None] + [f"bytes={HALF}-"] * 2
    assert destination.read_bytes() == OLD


def test_redirects_are_bounded(server, destination):
    server.script = [status(301, Location="/model.h5")] * 100
    assert "redirects" in refusal(server.url, OLD, destination)
    assert len(server.seen) == download.REDIRECTS + 1


def test_a_redirects_body_is_not_read(server, destination):
    def redirect_without_end(handler):
        handler.answer(302, Location="/elsewhere.h5")
        while not handler.server.gate.is_set():
            handler.send(bytes(CHUNK))

    server.script = [redirect_without_end]
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD


@pytest.mark.parametrize("target", ["file:///etc/hostname", "ftp://127.0.0.1/x", "http://["])
def test_redirects_to_nowhere(server, destination, target):
    server.script = [status(302, Location=target)]
    refusal(server.url, OLD, destination)
    assert len(server.seen) == 1


@pytest.fixture
def secure_server(tmp_path, monkeypatch):
    """A server of https whose certificate `requests` trusts."""
    if not shutil.which("openssl"):
        pytest.skip("no openssl to make a certificate with")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test"
    extensions = ["subjectAltName=IP:127.0.0.1", "keyUsage=digitalSignature,keyCertSign"]
    subprocess.run(
        [*command.split(), "-keyout", key, "-out", certificate]
        + [word for extension in extensions for word in ("-addext", extension)],
        check=True,
        capture_output=True,
    )
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    made = Server()
    made.socket = context.wrap_socket(made.socket, server_side=True)
    made.url = made.url.replace("http:", "https:")
    with running(made):
        yield made


def test_https_is_never_left(server, secure_server, destination):
    secure_server.script = [status(302, Location=server.url)]
    assert "redirected from https" in refusal(secure_server.url, OLD, destination)
    assert not server.seen
    server.script = [status(302, Location=secure_server.url)]
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD


def test_a_certificate_that_nobody_vouches_for(secure_server, destination, monkeypatch):
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    assert "certificate" in refusal(secure_server.url, OLD, destination, attempts=1)


@pytest.mark.parametrize("length", [{}, {"Content_Length": "x"}, {"Content_Length": "9" * 5000}])
def test_too_much_is_refused_as_it_comes(server, destination, length):
    def endless(handler):
        handler.answer(200, **length)
        while not handler.server.gate.is_set():
            handler.send(bytes(CHUNK))

    server.script = [endless]
    assert str(3 * CHUNK) in refusal(server.url, OLD, destination, max_bytes=3 * CHUNK)
    assert left(destination) == set()


def test_a_length_over_the_limit_is_refused_unread(server, destination):
    server.script = [file(Content_Length=2**30 + 1, stop=0)]
    assert str(2**30) in refusal(server.url, OLD, destination)
    assert len(server.seen) == 1


def test_the_limit_counts_what_is_there_already(server, destination):
    server.script = [file(stop=HALF)]
    refusal(server.url, OLD, destination, attempts=1)
    assert "allowed" in refusal(server.url, OLD, destination, max_bytes=SIZE - 1)


def test_nobody_listens(destination):
    unused = Server()
    unused.server_close()
    assert "Connection refused" in refusal(unused.url, OLD, destination)


def test_the_environments_proxy_is_asked(server, destination, monkeypatch):
    monkeypatch.setenv("http_proxy", f"http://{urlsplit(server.url).netloc}")
    quick("http://far.invalid/model.h5", OLD, destination)
    assert [request["path"] for request in server.seen] == ["http://far.invalid/model.h5"]
    assert destination.read_bytes() == OLD


def test_a_proxy_that_refuses(server, destination, monkeypatch):
    monkeypatch.setenv("https_proxy", f"http://{urlsplit(server.url).netloc}")  # knows no CONNECT
    assert "proxy" in refusal("https://far.invalid/model.h5", OLD, destination)


def test_an_address_that_is_none(destination):
    refusal("http://[", OLD, destination)


def test_a_full_disk_is_one_line_and_what_came_is_kept(server, destination):
    resource = pytest.importorskip("resource", reason="no limit on file sizes here")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (HALF, before[1]))
    try:
        with pytest.raises(UserError, match=r"cannot store .*FER_JAX_CACHE") as caught:
            quick(server.url, OLD, destination)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "\n" not in str(caught.value)
    quick(server.url, OLD, destination)
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert destination.read_bytes() == OLD


@pytest.mark.parametrize("obstacle", ["a file for a folder", "a folder for a file"])
def test_a_cache_that_cannot_be_written(server, destination, obstacle):
    if obstacle == "a file for a folder":
        destination.parent.write_bytes(b"")
    else:
        destination.mkdir(parents=True)
    with pytest.raises(UserError, match=r"cannot store .*FER_JAX_CACHE"):
        quick(server.url, OLD, destination)
    assert not server.seen


def process(server, destination):
    """A process of its own that fetches OLD."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, server.url, md5(OLD), destination],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_size(path, size):
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline, f"{path} did not grow to {size} bytes"
        time.sleep(0.01)


def test_a_killed_process_is_continued_by_the_one_that_waits(server, destination):
    server.script = [file(stop=HALF, then="wait")]
    with process(server, destination) as first:
        wait_for_size(destination.parent / "model.h5.part", HALF)
        with process(server, destination) as second:
            assert "waiting for another process" in second.stderr.readline()
            assert len(server.seen) == 1
            first.kill()
            assert second.wait(60) == 0
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert [request["sent"] for request in server.seen] == [HALF, SIZE - HALF]
    assert destination.read_bytes() == OLD
    assert left(destination) == {"model.h5"}


def test_two_processes_at_once_fetch_once(server, destination):
    server.script = [file(stop=HALF, then="wait")]
    with process(server, destination) as first, process(server, destination) as second:
        wait_for_size(destination.parent / "model.h5.part", HALF)
        server.gate.set()
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert len(server.seen) == 1
    assert destination.read_bytes() == OLD


@pytest.mark.parametrize("top", [True, False])
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_table(variant, top):
    url, checksum = keras_file(variant, top)
    assert re.fullmatch(r"[0-9a-f]{32}", checksum)
    parts = urlsplit(url)
    assert (parts.scheme, parts.netloc) == ("https", "storage.googleapis.com")
    suffix = "" if top else "_notop"
    assert parts.path == f"/keras-applications/efficientnet{variant}{suffix}.h5"


def test_the_table_names_no_file_twice():
    files = [keras_file(variant, top) for variant in VARIANTS for top in (True, False)]
    assert list(download.KERAS_MD5) == VARIANTS
    assert len(set(dict(files).values())) == len(files) == 16


def test_the_table_is_that_of_keras():
    spec = importlib.util.find_spec("keras")
    if spec is None:
        pytest.skip("keras is not installed")
    path = Path(spec.submodule_search_locations[0]) / "src" / "applications" / "efficientnet.py"
    values = {
        node.targets[0].id: node.value
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(values["WEIGHTS_HASHES"]) == download.KERAS_MD5
    assert ast.literal_eval(values["BASE_WEIGHTS_PATH"]) == download.KERAS_ADDRESS


def test_a_keras_file_comes_to_lie_in_the_cache(server, tmp_path, monkeypatch):
    monkeypatch.setattr(download, "KERAS_ADDRESS", server.url.removesuffix("model.h5"))
    monkeypatch.setattr(download, "KERAS_MD5", {"b2": (md5(OLD), md5(NEW))})
    server.script = [file(OLD), file(NEW)]
    names = "efficientnetb2.h5", "efficientnetb2_notop.h5"
    assert [fetch_keras("b2", top, tmp_path).name for top in (True, False)] == list(names)
    assert [(tmp_path / name).read_bytes() for name in names] == [OLD, NEW]
    assert [request["path"] for request in server.seen] == [f"/{name}" for name in names]


@pytest.mark.parametrize("variant", ["b8", "tiny", ""])
def test_a_variant_that_keras_does_not_publish(variant, tmp_path):
    with pytest.raises(UserError, match="choose of b0, b1"):
        fetch_keras(variant, True, tmp_path)
