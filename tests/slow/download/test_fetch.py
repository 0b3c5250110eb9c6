"""Downloads go on after cuts and kills, end with the right bytes or with one line that helps."""

import os
import subprocess
import sys
import time

import pytest
from served import HALF, NEW, OLD, SIZE, Server, file, md5, part, quick, refusal, status

from fer_jax.conversion.download import CHUNK
from fer_jax.errors import UserError

SCRIPT = """
import sys, pathlib
from fer_jax.conversion.download import fetch
fetch(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), timeout=20)
"""


def test_a_file_arrives_and_then_needs_no_network(server, destination):
    assert quick(server.url, OLD, destination) == destination
    assert destination.read_bytes() == OLD
    assert list(destination.parent.iterdir()) == [destination]
    quick(server.url, OLD, destination)
    assert server.ranges() == [None]


def test_a_damaged_cached_file_is_fetched_again(server, destination):
    destination.parent.mkdir()
    destination.write_bytes(OLD[:-1] + b"?")
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD


@pytest.mark.parametrize("then", ["cut", "wait"])
def test_a_cut_or_a_stall_goes_on_where_it_stopped(server, destination, capsys, then):
    server.script = [file(stop=HALF, then=then), status(503), file(stop=HALF + 2 * CHUNK)]
    quick(server.url, OLD, destination, attempts=4, timeout=1 if then == "wait" else 20)
    assert destination.read_bytes() == OLD
    assert server.ranges() == [None, *[f"bytes={HALF}-"] * 2, f"bytes={HALF + 2 * CHUNK}-"]
    assert sum(request["sent"] for request in server.seen) == SIZE
    assert "attempt 4 of 4 in 0.04 s" in capsys.readouterr().err


def test_attempts_are_bounded_and_the_next_call_goes_on(server, destination):
    server.script = [file(stop=CHUNK), file(stop=2 * CHUNK), file(stop=3 * CHUNK)]
    refusal(server.url, OLD, destination)
    assert len(server.seen) == 3
    quick(server.url, OLD, destination)
    assert server.ranges()[3] == f"bytes={3 * CHUNK}-"
    assert destination.read_bytes() == OLD


def test_a_killed_process_is_continued(server, destination):
    server.script = [file(stop=HALF, then="wait")]
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, server.url, md5(OLD), destination],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    end = time.monotonic() + 60
    while not part(destination).exists() or part(destination).stat().st_size < HALF - CHUNK:
        assert time.monotonic() < end
        time.sleep(0.01)
    process.kill()
    process.wait()
    size = part(destination).stat().st_size
    quick(server.url, OLD, destination)
    assert server.ranges() == [None, f"bytes={size}-"]
    assert destination.read_bytes() == OLD


def test_a_part_of_another_file_is_not_continued(server, destination):
    server.script = [file(stop=HALF)]
    refusal(server.url, OLD, destination, attempts=1)
    server.script = [file(NEW)]
    quick(server.url, NEW, destination)
    assert server.ranges() == [None, None]
    assert destination.read_bytes() == NEW


def test_a_whole_part_needs_only_its_name(server, destination):
    destination.parent.mkdir()
    part(destination).write_bytes(OLD)
    quick(server.url, OLD, destination)
    assert not server.seen
    assert list(destination.parent.iterdir()) == [destination]


@pytest.mark.parametrize("debris", [NEW[:HALF], NEW, OLD + OLD], ids=["half", "whole", "too long"])
def test_a_part_that_is_spoilt_is_started_anew(server, destination, debris):
    """As after a change of the file on the server, or two processes at once."""
    destination.parent.mkdir()
    part(destination).write_bytes(debris)
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD
    assert server.ranges()[-1] is None


def test_a_server_without_ranges_starts_from_0(server, destination):
    server.script = [file(stop=HALF, ranges=False), file(ranges=False)]
    quick(server.url, OLD, destination)
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert destination.read_bytes() == OLD


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


# ---- what is no file, too much, damaged or cannot be stored --------------------------------------


def test_corruption_says_both_checksums_and_leaves_nothing(server, destination):
    corrupt = OLD[:100] + b"?" + OLD[101:]
    server.script = [file(corrupt)] * 2
    assert md5(corrupt) in refusal(server.url, OLD, destination, attempts=2)
    assert not list(destination.parent.iterdir())


@pytest.mark.parametrize(("number", "requests"), [(404, 1), (403, 1), (429, 3), (503, 3)])
def test_answers_that_are_no_file(server, destination, number, requests):
    server.script = [status(number)] * 3
    assert f"{number} " in refusal(server.url, OLD, destination)
    assert len(server.seen) == requests


def test_a_stall_before_any_answer_ends(server, destination):
    server.script = [lambda handler: handler.server.gate.wait(60)] * 2
    assert "timed out" in refusal(server.url, OLD, destination, attempts=2, timeout=0.2)


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


def test_nobody_listens(destination):
    unused = Server()
    unused.server_close()
    assert "Connection refused" in refusal(unused.url, OLD, destination)


@pytest.mark.parametrize("url", ["http://[", "ftp://127.0.0.1/x"])
def test_an_address_that_is_none(url, destination):
    refusal(url, OLD, destination)
