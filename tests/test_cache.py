"""Where caches lie, and that a second process does not compile what the first one has."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from support import ROOT

from fer_jax import cache
from fer_jax.errors import UserError


def test_the_platforms_folder(monkeypatch):
    monkeypatch.delenv("FER_JAX_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", "/scratch/cache")
    if sys.platform == "linux":
        assert cache.folder("weights") == Path("/scratch/cache/fer_jax/weights")
    monkeypatch.setenv("FER_JAX_CACHE", "/data")
    assert cache.folder("weights") == Path("/data/weights")
    monkeypatch.setenv("FER_JAX_CACHE", "~/kept")
    assert cache.folder("programs") == Path.home() / "kept/programs"


def test_no_home_is_one_line(monkeypatch):
    monkeypatch.setenv("FER_JAX_CACHE", "~nobody-of-that-name/weights")
    with pytest.raises(UserError, match="set FER_JAX_CACHE"):
        cache.folder("weights")


def test_processors_of_other_abilities_have_other_names(tmp_path, monkeypatch):
    """The clock's speed changes while one looks; flags and model do not."""
    texts = (
        "model name\t: A\ncpu MHz\t: 2000.1\nflags\t: sse avx\n" * 2,
        "model name\t: A\ncpu MHz\t: 3000.7\nflags\t: sse avx\n",
        "model name\t: A\ncpu MHz\t: 2000.1\nflags\t: sse avx avx512f\n",
        "model name\t: B\ncpu MHz\t: 2000.1\nflags\t: sse avx\n",
    )
    names = []
    for number, text in enumerate(texts):
        place = tmp_path / str(number)
        place.write_text(text)
        monkeypatch.setattr(cache, "PROCESSORS", place)
        names.append(cache.processor())
    assert names[0] == names[1]
    assert len(set(names)) == 3
    monkeypatch.setattr(cache, "PROCESSORS", tmp_path / "absent")
    assert cache.processor() == cache.processor()


def test_a_trace_is_kept_for_equal_arguments_and_made_anew_where_it_is_broken(tmp_path):
    traced, before = [], jax.config.jax_compilation_cache_dir

    def double():  # a new function each time, of which JAX itself remembers nothing
        return lambda x: (traced.append(x.shape), 2 * x)[1]

    three, four = np.arange(3, dtype=np.float32), np.arange(4, dtype=np.float32)
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    try:
        for x in (three, four, three, four):
            np.testing.assert_array_equal(cache.traced(double(), "a", x)(x), 2 * x)
        assert traced == [(3,), (4,)]
        cache.traced(double(), "another model", three)
        assert len(traced) == 3
        for path in tmp_path.glob("*.trace"):
            path.write_bytes(path.read_bytes()[:50])
        np.testing.assert_array_equal(cache.traced(double(), "a", three)(three), 2 * three)
        assert len(traced) == 4
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


@pytest.mark.parametrize("folder", ["", "gs://bucket/programs"])
def test_without_a_folder_of_this_machine_no_trace_is_kept(folder, tmp_path, monkeypatch):
    """JAX keeps nothing for an empty name, and reaches buckets by itself."""
    before = jax.config.jax_compilation_cache_dir
    monkeypatch.chdir(tmp_path)
    three = np.arange(3, dtype=np.float32)
    try:
        jax.config.update("jax_compilation_cache_dir", folder)
        double = cache.traced(lambda x: 2 * x, "a", three)
        jax.config.update("jax_compilation_cache_dir", "")  # JAX itself shall not look there
        np.testing.assert_array_equal(double(three), 2 * three)
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert not list(tmp_path.iterdir())


COMPILE = """
import json, jax
from fer_jax import cache
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
cache.keep_programs()
jax.block_until_ready(jax.jit(lambda x: x * 2 + 1)(1.0))
hits, misses = (events.count(f"/jax/compilation_cache/cache_{what}") for what in ("hits", "misses"))
print(json.dumps([jax.config.jax_compilation_cache_dir, hits, misses]))
"""


def compiled(**environment):
    """Of a process of its own: the folder of its programs, how many it found there and not."""
    kept = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    out = subprocess.run(
        [sys.executable, "-c", COMPILE],
        env=kept | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    )
    assert not out.stderr
    return json.loads(out.stdout)


@pytest.mark.slow
def test_a_second_process_does_not_compile(tmp_path):
    place, hits, misses = compiled(FER_JAX_CACHE=str(tmp_path))
    assert place == str(tmp_path / "programs" / cache.processor())
    assert hits == 0
    assert misses > 0
    assert compiled(FER_JAX_CACHE=str(tmp_path)) == [place, misses, 0]


@pytest.mark.slow
def test_the_users_own_folder_is_left_alone(tmp_path):
    own = str(tmp_path / "own")
    place, *_ = compiled(JAX_COMPILATION_CACHE_DIR=own, FER_JAX_CACHE=str(tmp_path / "ours"))
    assert place == own
    assert not (tmp_path / "ours").exists()


@pytest.mark.slow
def test_a_folder_that_cannot_be_made_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    place, *_ = compiled(FER_JAX_CACHE=str(tmp_path / "file"))
    assert place is None
