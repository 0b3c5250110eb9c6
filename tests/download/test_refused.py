"""What is no file, too much, damaged or cannot be stored: one line that says why."""

import pytest
from served import HALF, OLD, SIZE, file, left, md5, quick, refusal, status

from fer_jax.conversion.download import CHUNK
from fer_jax.errors import UserError


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
