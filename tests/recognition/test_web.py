"""The page's folder: what is in it, where its runtime comes from, and how it is served."""

import hashlib
import json
import shutil
import tarfile
import threading
from http.client import HTTPConnection
from pathlib import Path

import onnx
import pytest
from support import call

from fer_jax import web
from fer_jax.errors import UserError
from fer_jax.labels import LABELS


@pytest.fixture
def runtime(tmp_path, monkeypatch):
    """A tarball as npm packs it, its files stand-ins, and an empty cache."""
    monkeypatch.setenv("FER_JAX_CACHE", str(tmp_path / "cache"))
    dist = tmp_path / "package" / "dist"
    dist.mkdir(parents=True)
    for name in web.PARTS:
        (dist / name).write_text(name)
    tarball = tmp_path / "runtime.tgz"
    with tarfile.open(tarball, "w:gz") as archive:
        archive.add(tmp_path / "package", "package")
    monkeypatch.setattr(web, "SHA256", hashlib.sha256(tarball.read_bytes()).hexdigest())
    return tarball


@pytest.fixture
def npm(runtime, monkeypatch):
    """An npm that has the tarball; the commands it was given."""
    calls = []

    def run(command, **settings):
        calls.append(command)
        shutil.copy(runtime, command[-1])
        return web.subprocess.CompletedProcess(command, 0, "runtime.tgz\n", "")

    monkeypatch.setattr(web.subprocess, "run", run)
    return calls


def test_the_folder_is_whole_and_says_what_the_model_says(model_path, runtime, tmp_path):
    out = tmp_path / "page"
    for _ in range(2):  # what is there is written anew
        web.write(out, str(model_path), str(runtime))
    named = {
        *web.PARTS,
        "pnet.onnx",
        "rnet.onnx",
        "onet.onnx",
        "model.onnx",
        "model.json",
        "card.md",
    }
    page = {path.name for path in (Path(web.__file__).parent / "recognition/page").iterdir()}
    assert {path.name for path in out.iterdir()} == named | page
    assert json.loads((out / "model.json").read_text())["labels"] == list(LABELS)
    assert {node.op_type for node in onnx.load(out / "model.onnx").graph.node} >= {"Softmax"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [("# A project", False), ("# model.safetensors", True), ("---\nlicense: mit\n---", True)],
)
def test_the_card_is_the_model_s_own(model_path, runtime, tmp_path, text, shown):
    own = tmp_path / "own"
    own.mkdir()
    shutil.copy(model_path, own / "model.safetensors")
    (own / "README.md").write_text(text)
    web.write(tmp_path / "page", str(own / "model.safetensors"), str(runtime))
    assert (tmp_path / "page" / "card.md").read_text() == text * shown


def test_somebody_elses_folder_is_left_alone(model_path, runtime, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    refusal = call("web", [f"--out={tmp_path}", f"--model={model_path}"]).refusal()
    assert "holds other files" in refusal
    assert not (tmp_path / "index.html").exists()


def test_a_page_whose_writing_was_killed_is_written_again(
    model_path, runtime, tmp_path, monkeypatch
):
    def killed(path, *_):
        path.with_name(f".{path.name}-unfinished-dead").mkdir(parents=True)
        raise KeyboardInterrupt

    out = tmp_path / "page"
    with monkeypatch.context() as patch:
        patch.setattr("fer_jax.conversion.onnx.export_onnx", killed)
        with pytest.raises(KeyboardInterrupt):
            web.write(out, str(model_path), str(runtime))
    web.write(out, str(model_path), str(runtime))
    assert (out / "index.html").exists()
    assert not list(out.glob(".*"))


def test_the_runtime_comes_from_npm_once(npm):
    for _ in range(2):
        kept = web.keep_runtime("")
    assert len(npm) == 1
    assert npm[0][1:3] == ["pack", web.PACKAGE]
    assert [path.read_text() for path in kept] == [path.name for path in kept] == list(web.PARTS)


def test_without_npm_it_comes_from_what_is_given(runtime):
    kept = web.keep_runtime(str(runtime))
    assert [path.read_text() for path in kept] == list(web.PARTS)


def test_another_version_of_the_runtime_is_refused(runtime, monkeypatch):
    monkeypatch.setattr(web, "SHA256", "0" * 64)
    with pytest.raises(UserError, match=r"runtime\.tgz is not the tarball of onnxruntime-web@"):
        web.keep_runtime(str(runtime))


@pytest.mark.parametrize(
    ("script", "said"), [("echo no route >&2; exit 1", "no route"), ("exit 0", "install npm")]
)
def test_an_npm_that_brings_nothing_is_one_line(runtime, tmp_path, monkeypatch, script, said):
    (tmp_path / "npm").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    with pytest.raises(UserError, match=f"npm cannot bring .*{said}"):
        web.keep_runtime("")


@pytest.mark.parametrize("given", ["", "missing.tgz"])
def test_what_is_missing_is_one_line(runtime, monkeypatch, given):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(UserError, match=given or "npm pack onnxruntime-web@.* writes elsewhere"):
        web.keep_runtime(given)


def test_it_is_served_to_this_machine_alone_with_its_headers(tmp_path):
    (tmp_path / "part.mjs").write_text("1")
    with web._server(str(tmp_path), 0) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        connection = HTTPConnection(*server.server_address)
        connection.request("GET", "/part.mjs")
        reply = connection.getresponse()
        server.shutdown()
        with pytest.raises(UserError, match="cannot serve at --port"):
            web._server(str(tmp_path), server.server_port)
    assert server.server_address[0] == "127.0.0.1"
    assert "javascript" in reply.headers["Content-Type"]  # else browsers refuse a module
    assert {name: reply.headers[name] for name in web.HEADERS} == web.HEADERS
    assert "wasm-unsafe-eval" in reply.headers["Content-Security-Policy"]
    connection.close()
