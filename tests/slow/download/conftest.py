"""A server on loopback, no proxy between, and little patience."""

import pytest
from served import NEW, OLD, Server, md5, running

from fer_jax.conversion import download


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server(monkeypatch):
    """In Keras' place, with OLD for B2's file with a head and NEW for that without."""
    with running(Server()) as running_server:
        monkeypatch.setattr(download, "KERAS_ADDRESS", running_server.url)
        monkeypatch.setattr(download, "KERAS_MD5", {"b2": (md5(OLD), md5(NEW))})
        monkeypatch.setattr(download, "RETRY", download.RETRY.new(total=2, backoff_factor=0))
        yield running_server
