"""A download ends with the right bytes, or with one line that helps and nothing in its place."""

import functools

import pytest
from served import NEW, OLD, SIZE, Server, file, md5, status

from fer_jax.conversion import download
from fer_jax.conversion.download import fetch_keras
from fer_jax.errors import UserError

fetch = functools.partial(fetch_keras, "b2", True)


def refusal(folder):
    """The one line with which it gives up."""
    with pytest.raises(UserError) as caught:
        fetch(folder)
    line = str(caught.value)
    assert "\n" not in line
    assert "efficientnetb2.h5" in line
    assert not folder.is_dir() or not list(folder.iterdir())
    return line


def test_a_file_arrives_and_then_needs_no_network(server, tmp_path):
    folder = tmp_path / "cache"
    for _ in range(2):
        assert fetch(folder) == folder / "efficientnetb2.h5"
    assert (folder / "efficientnetb2.h5").read_bytes() == OLD
    assert len(list(folder.iterdir())) == len(server.seen) == 1


@pytest.mark.parametrize("then", ["cut", "wait"])
def test_after_a_cut_or_a_stall_nothing_is_left_and_the_next_call_has_it(
    server, tmp_path, monkeypatch, then
):
    monkeypatch.setattr(download, "TIMEOUT", 0.5 if then == "wait" else 20)
    server.script = [file(stop=SIZE // 2, then=then)]
    assert "fetch it by hand and give it as --input" in refusal(tmp_path)
    monkeypatch.setattr(download, "TIMEOUT", 20)
    assert fetch(tmp_path).read_bytes() == OLD


@pytest.mark.parametrize("number", [429, 503])
def test_a_server_that_is_busy_is_asked_again(server, tmp_path, number):
    server.script = [status(number)] * 2
    assert fetch(tmp_path).read_bytes() == OLD
    server.script, before = [status(number)] * 9, len(server.seen)
    refusal(tmp_path / "other")
    assert len(server.seen) == before + 3


@pytest.mark.parametrize("number", [404, 403])
def test_answers_that_are_no_file(server, tmp_path, number):
    server.script = [status(number)]
    assert f"{number} " in refusal(tmp_path)
    assert len(server.seen) == 1


def test_redirects_are_followed(server, tmp_path):
    server.script = [status(302, Location="/elsewhere.h5")]
    assert fetch(tmp_path).read_bytes() == OLD
    assert server.seen == ["/efficientnetb2.h5", "/elsewhere.h5"]


@pytest.mark.parametrize("length", ["", "many", "-1"])
def test_a_length_that_is_no_number_is_not_needed(server, tmp_path, length):
    server.script = [file(length=length)]
    assert fetch(tmp_path).read_bytes() == OLD


def test_a_length_beyond_all_files(server, tmp_path):
    server.script = [file(length="9" * 400)]
    refusal(tmp_path)


def test_another_file_says_its_checksum_and_is_not_kept(server, tmp_path):
    server.script = [file(NEW)]
    assert md5(OLD) in refusal(tmp_path)


def test_a_full_disk_is_one_line(server, tmp_path):
    resource = pytest.importorskip("resource", reason="no limit on file sizes here")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE // 2, before[1]))
    try:
        assert "cannot write" in refusal(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "cache").write_bytes(b"")
    assert "cannot write" in refusal(tmp_path / "cache")


def test_nobody_listens(server, tmp_path, monkeypatch):
    unused = Server()
    unused.server_close()
    monkeypatch.setattr(download, "KERAS_ADDRESS", unused.url)
    assert "Connection refused" in refusal(tmp_path)
