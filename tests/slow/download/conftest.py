"""A server on loopback, and no proxy between."""

import pytest
from served import Server, running


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def server():
    with running(Server()) as running_server:
        yield running_server


@pytest.fixture
def destination(tmp_path):
    return tmp_path / "cache" / "model.h5"
