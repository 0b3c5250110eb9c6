"""A real server on loopback that answers as its script says, and `fetch` with little patience."""

import contextlib
import functools
import hashlib
import http.server
import random
import re
import threading

import pytest

from fer_jax.conversion.download import CHUNK, fetch
from fer_jax.errors import UserError

SIZE, HALF = 16 * CHUNK, 8 * CHUNK
OLD, NEW = (random.Random(seed).randbytes(SIZE) for seed in (0, 1))


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


def file(data=OLD, stop=SIZE, then="cut", ranges=True, **more):
    """A file server's answer; after `stop` bytes of the file it cuts or waits for the gate."""

    def behaviour(handler):
        asked = handler.headers.get("Range")
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        headers = dict(more)
        if ranges and asked:
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


def part(destination, data=OLD):
    """Where what has come of `data` waits."""
    return destination.with_name(f"model.h5.{md5(data)[:8]}.part")
