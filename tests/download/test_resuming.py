"""Downloads that are cut, stall or are killed go on where they stopped, if it is the same file."""

import os
import re
import subprocess
import sys
import time

import pytest
from served import (
    HALF,
    NEW,
    OLD,
    SIZE,
    file,
    left,
    md5,
    quick,
    refusal,
    status,
)

from fer_jax.conversion.download import CHUNK

SCRIPT = """
import sys, pathlib
from fer_jax.conversion.download import fetch
fetch(sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]), timeout=20)
"""


def test_a_file_arrives_and_then_needs_no_network(server, destination):
    assert quick(server.url, OLD, destination) == destination
    assert destination.read_bytes() == OLD
    assert left(destination) == {"model.h5"}
    quick(server.url, OLD, destination)
    assert server.ranges() == [None]


def test_a_damaged_cached_file_is_fetched_again_and_said(server, destination, capsys):
    destination.parent.mkdir()
    destination.write_bytes(OLD[:-1] + b"?")
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert f"{destination} is damaged" in said


@pytest.mark.parametrize("then", ["cut", "wait"])
def test_a_cut_or_a_stall_goes_on_where_it_stopped(server, destination, capsys, then):
    server.script = [file(stop=HALF, then=then), status(503), file(stop=HALF + 2 * CHUNK)]
    quick(server.url, OLD, destination, attempts=4, timeout=1 if then == "wait" else 20)
    assert destination.read_bytes() == OLD
    assert server.ranges()[0] is None
    assert server.ranges()[1:] == [f"bytes={HALF}-"] * 2 + [f"bytes={HALF + 2 * CHUNK}-"]
    assert sum(request["sent"] for request in server.seen) == SIZE
    assert re.findall(r"attempt (\d) of 4 in (\S+) s", capsys.readouterr().err) == [
        ("2", "0.01"),
        ("3", "0.02"),
        ("4", "0.04"),
    ]


def test_a_stall_before_any_answer_ends(server, destination):
    server.script = [lambda handler: handler.server.gate.wait(60)] * 2
    assert "timed out" in refusal(server.url, OLD, destination, attempts=2, timeout=0.2)


def test_attempts_are_bounded_and_the_next_call_goes_on(server, destination):
    server.script = [file(stop=CHUNK), file(stop=2 * CHUNK), file(stop=3 * CHUNK)]
    assert "the last of 3 attempts" in refusal(server.url, OLD, destination)
    assert len(server.seen) == 3
    quick(server.url, OLD, destination)
    assert server.ranges()[3] == f"bytes={3 * CHUNK}-"
    assert destination.read_bytes() == OLD


def test_a_part_of_another_address_or_checksum_is_not_continued(server, destination):
    server.script = [file(stop=HALF), file(stop=HALF)]
    refusal(server.url, OLD, destination, attempts=1)
    refusal(server.url + "?other", OLD, destination, attempts=1)
    server.script = [file(NEW)]
    quick(server.url + "?other", NEW, destination)
    assert server.ranges() == [None, None, None]


@pytest.mark.parametrize("debris", ["{", "[]", "{}", '{"url": 1}', None])
def test_a_part_of_unknown_origin_is_replaced(server, destination, debris):
    destination.parent.mkdir()
    (destination.parent / "model.h5.part").write_bytes(NEW[:HALF])
    if debris:
        (destination.parent / "model.h5.part.json").write_text(debris)
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD
    assert left(destination) == {"model.h5"}


def test_a_whole_part_needs_only_its_name(server, destination):
    destination.parent.mkdir()
    (destination.parent / "model.h5.part").write_bytes(OLD)
    quick(server.url, OLD, destination)
    assert not server.seen
    assert left(destination) == {"model.h5"}


def test_a_part_that_is_too_long_is_started_anew(server, destination):
    server.script = [file(stop=HALF)]
    refusal(server.url, OLD, destination, attempts=1)
    with open(destination.parent / "model.h5.part", "ab") as part:
        part.write(bytes(SIZE))
    quick(server.url, OLD, destination)
    assert destination.read_bytes() == OLD
    assert server.ranges()[2] is None


def test_a_server_without_ranges_starts_from_0(server, destination):
    server.script = [file(stop=HALF, ranges=False), file(ranges=False)]
    quick(server.url, OLD, destination)
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert destination.read_bytes() == OLD


@pytest.mark.parametrize(
    ("headers", "continued"),
    [
        ({"ETag": 'W/"weak"'}, False),
        ({"ETag": 'W/"weak"', "Last_Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, True),
        ({"Content_Encoding": "x-unknown"}, False),
    ],
)
def test_only_what_names_its_version_is_continued(server, destination, headers, continued):
    server.script = [file(stop=HALF, **headers), file(**headers)]
    quick(server.url, OLD, destination)
    assert server.ranges() == [None, f"bytes={HALF}-" if continued else None]
    assert destination.read_bytes() == OLD


def test_a_file_that_changes_on_the_server_is_not_glued(server, destination):
    server.script = [file(OLD, '"old"', HALF), file(NEW, '"new"')]
    quick(server.url, NEW, destination)
    assert len(server.seen) == 2
    assert destination.read_bytes() == NEW


def unconditional(data, etag, shift=0):
    """A range of whatever lies there, without a look at If-Range."""

    def behaviour(handler):
        start = int(handler.headers["Range"][6:-1]) + shift
        about = f"bytes {start}-{len(data) - 1}/{len(data)}"
        handler.answer(206, ETag=etag, Content_Length=len(data) - start, Content_Range=about)
        handler.send(data[start:])

    return behaviour


@pytest.mark.parametrize("wrong", [unconditional(NEW, '"new"'), unconditional(NEW, '"old"', CHUNK)])
def test_a_wrong_range_is_noticed_before_its_body(server, destination, wrong, capsys):
    server.script = [file(OLD, '"old"', HALF), wrong, file(NEW, '"new"')]
    quick(server.url, NEW, destination)
    assert destination.read_bytes() == NEW
    assert "does not continue" in capsys.readouterr().err


def test_a_lie_about_the_version_is_told_by_the_checksum(server, destination, capsys):
    server.script = [file(OLD, stop=HALF), file(NEW), file(NEW)]
    quick(server.url, NEW, destination)
    assert destination.read_bytes() == NEW
    assert md5(OLD[:HALF] + NEW[HALF:]) in capsys.readouterr().err
    assert server.ranges()[2] is None


def process(server, destination):
    """A process of its own that fetches OLD."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", SCRIPT, server.url, md5(OLD), destination],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_size(path, size):
    deadline = time.monotonic() + 60
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline, f"{path} did not grow to {size} bytes"
        time.sleep(0.01)


def test_a_killed_process_is_continued_by_the_one_that_waits(server, destination):
    server.script = [file(stop=HALF, then="wait")]
    with process(server, destination) as first:
        wait_for_size(destination.parent / "model.h5.part", HALF)
        with process(server, destination) as second:
            assert "waiting for another process" in second.stderr.readline()
            assert len(server.seen) == 1
            first.kill()
            assert second.wait(60) == 0
    assert server.ranges() == [None, f"bytes={HALF}-"]
    assert [request["sent"] for request in server.seen] == [HALF, SIZE - HALF]
    assert destination.read_bytes() == OLD
    assert left(destination) == {"model.h5"}


def test_two_processes_at_once_fetch_once(server, destination):
    server.script = [file(stop=HALF, then="wait")]
    with process(server, destination) as first, process(server, destination) as second:
        wait_for_size(destination.parent / "model.h5.part", HALF)
        server.gate.set()
        assert (first.wait(60), second.wait(60)) == (0, 0)
    assert len(server.seen) == 1
    assert destination.read_bytes() == OLD
