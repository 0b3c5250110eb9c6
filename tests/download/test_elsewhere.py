"""Redirects, https and proxies: whose answer it is."""

from urllib.parse import urlsplit

import pytest
from served import HALF, OLD, Server, file, quick, refusal, status

from fer_jax.conversion import download
from fer_jax.conversion.download import CHUNK


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
