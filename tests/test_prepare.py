"""The prepared directory holds the same truth, and appears whole or not at all."""

import errno
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_data import OPTIONS, csv_text, kaggle_files, make_rows, seed_files, write_folder
from support import call, contents
from test_sources import summary

from fer_jax import prepare
from fer_jax.data import images, sources
from fer_jax.data.images import encode_png
from fer_jax.data.sources import open_dataset, read_dataset
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.outputs import clear_leftovers, unfinished

ROOT = Path(__file__).resolve().parents[1]
ROWS = make_rows()


def prepared(source: Path, output: Path) -> Path:
    prepare.prepare(read_dataset(str(source), OPTIONS), output)
    return output


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        open_dataset(str(path), OPTIONS)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A prepared directory of ROWS, to be read only."""
    root = tmp_path_factory.mktemp("made")
    write_folder(root / "seed", seed_files(ROWS))
    return prepared(root / "seed", root / "prepared")


def test_one_truth(made, tmp_path):
    folder = open_dataset(str(write_folder(tmp_path / "a", seed_files(ROWS))), OPTIONS)
    table = write_folder(tmp_path / "b", {"fer2013.csv": csv_text(ROWS).encode()})
    again = open_dataset(str(made), OPTIONS)
    assert again.layout == "prepared"
    assert summary(again) == summary(folder) == summary(open_dataset(str(table), OPTIONS))
    assert summary(open_dataset(str(prepared(table, tmp_path / "c")), OPTIONS)) == summary(folder)


def test_keys_that_are_paths(tmp_path):
    kaggle = write_folder(tmp_path / "a", kaggle_files(ROWS))
    again = open_dataset(str(prepared(kaggle, tmp_path / "b")), OPTIONS)
    assert summary(again) == summary(open_dataset(str(kaggle), OPTIONS))


def test_colour_and_sizes_survive(tmp_path):
    draw = np.random.default_rng(0)
    mixed = {
        f"train/{name}/{i}.png": encode_png(
            draw.integers(0, 256, (20 + i, 30, 1 if i % 2 else 3), np.uint8)
        )
        for i, name in enumerate(LABELS)
    }
    options = replace(OPTIONS, validation_fraction=0.0)
    folder = write_folder(tmp_path / "a", mixed)
    again = open_dataset(str(prepared(folder, tmp_path / "b")), options)
    assert summary(again) == summary(open_dataset(str(folder), options))
    assert again.roles["train"][0]["image"].shape == (20, 30, 3)
    assert again.roles["train"][1]["image"].shape == (21, 30, 1)


def test_the_validation_split_is_made_when_it_is_read(tmp_path):
    """So that its seed stays the configuration's, and the same whatever the layout."""
    folder = write_folder(tmp_path / "a", seed_files(make_rows(140, ("train",))))
    output = prepared(folder, tmp_path / "b")
    assert list(read_dataset(str(output), OPTIONS).roles) == ["train"]
    for seed in (0, 1):
        options = replace(OPTIONS, split_seed=seed)
        assert summary(open_dataset(str(output), options)) == summary(
            open_dataset(str(folder), options)
        )


@pytest.mark.parametrize("cache_mib", [0, 64])
def test_records_survive_pickling(made, cache_mib):
    dataset = open_dataset(str(made), replace(OPTIONS, cache_mib=cache_mib))
    assert summary(pickle.loads(pickle.dumps(dataset))) == summary(dataset)
    assert summary(dataset) == summary(open_dataset(str(made), OPTIONS))


def test_a_copied_directory_reads_the_same(made, tmp_path):
    copy = write_folder(tmp_path / "copy", {f.name: f.read_bytes() for f in made.iterdir()})
    assert summary(open_dataset(str(copy), OPTIONS)) == summary(open_dataset(str(made), OPTIONS))


def test_a_missing_or_damaged_file_is_refused(made, tmp_path):
    parts = {f.name: f.read_bytes() for f in made.iterdir()}
    train = next(name for name in parts if "train" in name)
    without = {name: data for name, data in parts.items() if name != train}
    assert "no whole prepared data" in refused(write_folder(tmp_path / "a", without))
    cut = parts | {train: parts[train][:1000]}
    assert "no whole prepared data" in refused(write_folder(tmp_path / "b", cut))
    swapped = parts | {train: parts[train.replace("train", "test")]}
    assert "remove them, prepare anew" in refused(write_folder(tmp_path / "c", swapped))


def test_labels_are_mapped_by_name(made, tmp_path):
    parts = {f.name: f.read_bytes() for f in made.iterdir()}
    parts["label.labels.txt"] = "\n".join(LABELS[::-1]).encode()
    copy = write_folder(tmp_path, parts)
    with pytest.raises(UserError, match="fingerprints differ"):
        open_dataset(str(copy), OPTIONS)


def test_the_front_door(tmp_path):
    write_folder(tmp_path / "a", seed_files(ROWS) | {"images/.DS_Store": b""})
    flags = [f"--source={tmp_path / 'a'}", f"--output={tmp_path / 'new' / 'b'}"]
    result = call("prepare", flags)
    assert (result.status, result.err) == (0, "")
    assert "split folders" in result.out
    assert "ignored: 1 hidden and system files" in result.out
    assert result.out.splitlines()[-1].startswith("wrote ")
    written = read_dataset(str(tmp_path / "new" / "b"), OPTIONS)
    source = read_dataset(str(tmp_path / "a"), OPTIONS)
    assert sources.fingerprint(written) == sources.fingerprint(source)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["b"]


def test_what_was_left_out_is_listed(tmp_path):
    write_folder(tmp_path / "a", seed_files(ROWS) | {"images/train/sad/99.png": b"x"})
    flags = [f"--source={tmp_path / 'a'}", f"--output={tmp_path / 'b'}", "--on_corrupt=skip"]
    outcome = call("prepare", flags)
    assert outcome.status == 0, outcome.err
    assert "left out: images/train/sad/99.png: not an image" in outcome.out


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--source={0}/a"], "give --output: Directory to write"),
        (["--output={0}/b"], "Kaggle"),
        (["--source={0}/nothing", "--output={0}/b"], "does not exist"),
        (["--source={0}/a", "--output={0}/a"], "is no empty directory"),
        (["--source={0}/a", "--output={0}/a/images/train/notes.txt"], "is no empty directory"),
        (["--source={0}/a", "--output={0}/a/images/train/notes.txt/b"], "cannot write"),
        (["--source={0}/a", "--output={0}/b", "--on_corrupt=drop"], "on_corrupt"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(tmp_path, flags, reason):
    write_folder(tmp_path / "a", seed_files(ROWS) | {"images/train/notes.txt": b"x"})
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert reason in call("prepare", [flag.format(tmp_path) for flag in flags]).refusal()
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_an_empty_output_directory_is_taken(made, tmp_path):
    output = prepare.check_output(str(tmp_path))
    prepare.prepare(open_dataset(str(made), OPTIONS), output)
    assert summary(open_dataset(str(output), OPTIONS)) == summary(open_dataset(str(made), OPTIONS))


def test_a_full_disk_leaves_nothing(made, tmp_path, monkeypatch):
    dataset = open_dataset(str(made), OPTIONS)
    calls = iter([encode_png] * 20)  # train has 14 images, so test's are being written

    def fail_later(pixels):
        encode = next(calls, None)
        if encode is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return encode(pixels)

    monkeypatch.setattr(images, "encode_png", fail_later)
    with pytest.raises(UserError, match="No space left on device"):
        prepare.prepare(dataset, tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_prepare_that_still_runs_keeps_its_folder(made, tmp_path):
    running = unfinished(tmp_path / "b")
    dead = tmp_path / ".b-unfinished-dead"
    with running as folder:
        dead.mkdir()
        assert clear_leftovers(tmp_path / "b") == [dead]
        assert folder.is_dir()
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_file_that_cannot_grow_is_one_line(tmp_path):
    """As on a full disk, array_record raises what is no OSError."""
    write_folder(tmp_path / "a", seed_files(ROWS))
    flags = [f"--source={tmp_path / 'a'}", f"--output={tmp_path / 'b'}"]
    limited = (
        "import resource, runpy, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (9000, 9000)); sys.argv[0] = 'prepare'; "
        "runpy.run_module('fer_jax.prepare', run_name='__main__')"
    )
    command = [sys.executable, "-c", limited, *flags]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1].startswith("error: cannot write --output=")
    assert len(done.stderr.splitlines()) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_the_folder_one_stands_in_is_refused_before_the_work(tmp_path, monkeypatch):
    """It would be replaced by another of its name."""
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    for place in (".", "../new"):
        line = call("prepare", ["--source=nothing", f"--output={place}"]).refusal()
        assert f"--output={place} is where you are" in line


def test_options_are_called_as_the_command_has_them(tmp_path):
    rows = [(role, str(LABELS.index(name)), pixels) for role, name, pixels in ROWS]
    write_folder(tmp_path / "a", seed_files(rows) | {"images/train/7/9.png": b""})
    flags = [f"--source={tmp_path / 'a'}", f"--output={tmp_path / 'b'}"]
    assert "label_order=1:" in call("prepare", flags).refusal()
    flags += ["--label_order=" + ",".join(LABELS)]
    assert "map=7:none" in call("prepare", flags).refusal()
    done = call("prepare", [*flags, "--map=7:none"])
    assert "1 image of 7 left out" in done.out, done.err


def test_the_same_again_is_done_already_and_other_data_are_refused(tmp_path):
    """A run killed after its last word is started again like any other."""
    for name, rows in {"a": ROWS, "other": ROWS[:-1]}.items():
        write_folder(tmp_path / name, seed_files(rows))
    flags = [f"--source={tmp_path / 'a'}", f"--output={tmp_path / 'b'}"]
    assert "wrote" in call("prepare", flags).out
    before = contents(tmp_path / "b")
    again = call("prepare", flags)
    assert (again.status, again.err) == (0, "")
    assert "already prepared" in again.out
    other = call("prepare", [f"--source={tmp_path / 'other'}", f"--output={tmp_path / 'b'}"])
    assert "holds other data" in other.refusal()
    assert contents(tmp_path / "b") == before
