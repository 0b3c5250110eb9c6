"""Servers on loopback, one of them with a certificate, and no proxy between."""

import shutil
import ssl
import subprocess

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
