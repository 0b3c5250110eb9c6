"""A real server on loopback that answers as its script says."""

import contextlib
import functools
import hashlib
import http.server
import random
import threading

SIZE = 3 * 2**20 + 5
OLD, NEW = (random.Random(seed).randbytes(SIZE) for seed in (0, 1))


def md5(data):
    return hashlib.md5(data).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each request with the next behaviour of `server.script`, at its end with a file."""

    def do_GET(self):
        self.server.seen.append(self.path)
        behaviour = self.server.script.pop(0) if self.server.script else file()
        with contextlib.suppress(ConnectionError):
            behaviour(self)

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
        self.url = f"http://127.0.0.1:{self.server_port}/"


def file(data=OLD, stop=SIZE, then="cut", length=SIZE):
    """A file server's answer; after `stop` bytes of the file it cuts or waits for the gate."""

    def behaviour(handler):
        handler.answer(200, Content_Length=length)
        handler.wfile.write(data[:stop])
        if stop < len(data) and then == "wait":
            handler.server.gate.wait(60)

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
