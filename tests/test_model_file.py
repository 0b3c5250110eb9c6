"""One file is one model: it comes back bit for bit, and what is not one is refused in one line."""

import dataclasses
import json
import os
import struct
import subprocess
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax.traverse_util import flatten_dict
from made_models import made_file, made_model, two_stages
from support import ROOT, assert_identical

from fer_jax import model_file
from fer_jax.errors import UserError
from fer_jax.models.classifier import describe


@pytest.fixture(scope="module", autouse=True)
def small():
    with two_stages():
        yield


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file, to be read only."""
    path = tmp_path_factory.mktemp("saved") / "model.safetensors"
    model_file.save(path, made_file(made_model()))
    return path


@pytest.fixture
def rewrite(saved, tmp_path):
    """Writes the saved file anew, its tensors and the fields of its header as functions make it."""

    def write(of_header=lambda fields: fields, of_tensors=lambda tensors: tensors):
        with safetensors.safe_open(saved, framework="numpy") as file:
            fields = json.loads(file.metadata()["fer_jax"])
        tensors = of_tensors(safetensors.numpy.load_file(saved))
        header = of_header(fields)
        text = header if isinstance(header, str) else json.dumps(header)
        path = tmp_path / "changed.safetensors"
        safetensors.numpy.save_file(tensors, path, metadata={"fer_jax": text})
        return path

    return write


def refusal(path):
    with pytest.raises(UserError) as caught:
        model_file.load(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    assert str(path) in line
    return line


STRANGE = np.array(
    [0x7FA0BEEF, 0xFFC00001, 0x80000000, 0x00000001, 0x807FFFFF, 0x7F800000], np.uint32
).view(np.float32)  # NaNs with payloads, minus zero, subnormals, infinity


@pytest.mark.parametrize("head", ["none", "imagenet", "fer"])
def test_a_file_comes_back_bit_for_bit(head, tmp_path):
    file = made_file(made_model(head=head))
    for leaf in jax.tree.leaves(file.variables):
        leaf.ravel()[: len(STRANGE)] = STRANGE[: leaf.size]
    path = tmp_path / "new" / "folder" / "model.safetensors"
    model_file.save(path, file)
    again = model_file.load(path)
    assert_identical(again.variables, file.variables)
    assert again.about == file.about
    assert describe(again.model()) == file.about.architecture
    assert sorted(path.parent.iterdir()) == [path]


def test_a_rounded_file_is_half_as_large_and_comes_back_as_rounded(saved, tmp_path):
    file, path = model_file.load(saved), tmp_path / "half.safetensors"
    model_file.save(path, model_file.rounded(file))
    again, kernels = model_file.load(path), 0
    before, after = (flatten_dict(f.variables, sep="/") for f in (file, again))
    assert before.keys() == after.keys()
    for name, leaf in after.items():
        expected = before[name]
        if expected.ndim > 1:
            kernels += expected.nbytes
            expected = expected.astype(ml_dtypes.bfloat16).astype(np.float32)
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, expected, err_msg=name)
    assert abs(saved.stat().st_size - path.stat().st_size - kernels / 2) < 2_000
    assert again.about.metrics is None
    assert again.about.origin["kernels"] == "rounded to bfloat16"
    twice = tmp_path / "twice.safetensors"
    model_file.save(twice, model_file.rounded(again))
    assert twice.read_bytes() == path.read_bytes()


def test_arrays_that_are_not_contiguous_are_kept_as_they_read(tmp_path):
    file = made_file(made_model())
    turned = jax.tree.map(
        lambda leaf: np.asfortranarray(leaf[..., ::-1])[..., ::-1], file.variables
    )
    model_file.save(tmp_path / "m.safetensors", dataclasses.replace(file, variables=turned))
    assert_identical(model_file.load(tmp_path / "m.safetensors").variables, file.variables)


@pytest.mark.parametrize("version", [0, 3, 5, "4", True, None, [4]])
def test_another_version_is_refused(version, rewrite):
    line = refusal(rewrite(lambda fields: fields | {"version": version}))
    assert f"version {version!r}" in line
    assert "reads 4" in line


def test_how_the_data_were_divided_is_kept(saved, tmp_path):
    splitting = {"label_order": "", "validation_fraction": 0.2, "split_seed": 3}
    file = model_file.load(saved)
    about = dataclasses.replace(file.about, splitting=splitting)
    model_file.save(tmp_path / "m.safetensors", dataclasses.replace(file, about=about))
    assert model_file.load(tmp_path / "m.safetensors").about.splitting == splitting


@pytest.mark.parametrize("splitting", [{}, {"split_seed": 0}, {"path": "/etc"}, 3, ["label_order"]])
def test_a_broken_division_is_refused(splitting, rewrite):
    assert "broken header" in refusal(rewrite(lambda fields: fields | {"splitting": splitting}))


def test_a_file_says_its_stem(rewrite, tmp_path):
    def without_stem(fields):
        settings = fields["architecture"]
        return fields | {"architecture": {k: settings[k] for k in settings if k != "stem_stride"}}

    assert "stem_stride" in refusal(rewrite(without_stem))
    model_file.save(tmp_path / "m.safetensors", made_file(made_model(stem_stride=1)))
    assert model_file.load(tmp_path / "m.safetensors").model().backbone.stem_stride == 1


def changed(**settings):
    """Changes settings of the architecture."""
    return lambda fields: fields | {"architecture": fields["architecture"] | settings}


def without(name):
    return lambda fields: {key: value for key, value in fields.items() if key != name}


HEAD = {"kind": "fer", "classes": 7, "filters": 6, "hidden": 5, "dropout": 0.3, "padding": "VALID"}


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda fields: "no json", "header"),
        (lambda fields: "[" * 200_000, "header"),
        (lambda fields: " " * 2**20 + "{}", "at most"),
        (lambda fields: "[1]", "header"),
        (lambda fields: "1" * 5000, "header"),
        (without("version"), "version"),
        (without("architecture"), "architecture"),
        (lambda fields: fields | {"colour": "red"}, "colour"),
        (lambda fields: fields | {"architecture": None}, "header"),
        (lambda fields: fields | {"architecture": []}, "header"),
        (lambda fields: fields | {"image_size": "96"}, "image_size"),
        (lambda fields: fields | {"image_size": 0}, "image_size"),
        (lambda fields: fields | {"image_size": 64}, "image_size"),  # the head sees nothing
        (lambda fields: fields | {"image_size": 10**9}, "image_size"),
        (lambda fields: fields | {"labels": 7}, "header"),
        (lambda fields: fields | {"labels": ["happy"]}, "labels"),
        (lambda fields: fields | {"labels": [1] * 7}, "labels"),
        (lambda fields: fields | {"origin": ["a"]}, "header"),
        (lambda fields: fields | {"origin": {"selected_on": ["x"]}}, "origin"),
        (lambda fields: fields | {"training_data": ["x"]}, "header"),
        (lambda fields: fields | {"training_data": {"train": 1}}, "training_data"),
        (lambda fields: fields | {"metrics": [0.5]}, "metrics"),
        (lambda fields: fields | {"preprocessing": None}, "preprocessing"),
        (changed(variant="b9"), "header"),
        (changed(variant=["b2"]), "header"),
        (changed(padding="valid"), "padding"),
        (changed(stem_stride=3), "stem_stride"),
        (changed(stem_stride=0), "stem_stride"),
        (changed(stem_stride=2.0), "stem_stride"),
        (changed(stem_stride="wide"), "stem_stride"),
        (changed(stem_stride=[1]), "stem_stride"),
        (changed(bn_epsilon="small"), "header"),
        (changed(bn_epsilon=0.0), "bn_epsilon"),
        (changed(input_mean=[0.0, 0.0]), "input_mean"),
        (changed(input_mean="abc"), "header"),
        (changed(input_std=[1.0, 0.0, 1.0]), "input_std"),
        (changed(input_std=[1.0, float("nan"), 1.0]), "input_std"),
        (changed(input_std=[1.0, 10**400, 1.0]), "input_std"),
        (changed(input_mean=[0.0, float("-inf"), 0.0]), "input_mean"),
        (changed(colour="red"), "architecture"),
        (changed(head=None), "header"),
        (changed(head=[]), "header"),
        (changed(head={"kind": "code"}), "code"),
        (changed(head=HEAD | {"classes": None}), "labels"),
        (changed(head=HEAD | {"padding": "CIRCULAR"}), "padding"),
        (changed(head=HEAD | {"filters": -1}), "no model has such head"),
        (changed(head=HEAD | {"filters": 6.0}), "no model has such head"),
        (changed(drop_connect="often"), "header"),
        (changed(head=HEAD | {"filters": 10**12}), "head/conv"),
        (changed(head=HEAD | {"name": "x"}), "header"),
        (changed(variant="b1"), "tensors differ"),
    ],
)
def test_a_broken_header_is_refused(change, word, rewrite):
    line = refusal(rewrite(change))
    assert any(part in line for part in word.split("|")), line


FIRST = "params/backbone/stem/kernel"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: {k: v for k, v in t.items() if k != FIRST}, [FIRST, "nothing found"]),
        (lambda t: t | {"params/more": np.zeros(3, np.float32)}, ["more", "nothing expected"]),
        (lambda t: t | {FIRST: t[FIRST][..., :-1].copy()}, [FIRST, "(3, 3, 3, 31) found"]),
        (lambda t: t | {FIRST: t[FIRST].reshape(-1)}, [FIRST, "(864,) found"]),
        (lambda t: t | {FIRST: t[FIRST].astype(np.float16)}, [FIRST, "F16 found"]),
        (lambda t: t | {FIRST: t[FIRST].astype(np.int32)}, [FIRST, "I32 found"]),
        (lambda t: {}, ["101 tensors differ"]),
    ],
)
def test_tensors_that_are_not_the_architectures_are_refused(change, words, rewrite):
    line = refusal(rewrite(of_tensors=change))
    assert all(word in line for word in words), line


def test_a_foreign_file_is_refused_with_the_way_to_convert_it(tmp_path):
    path = tmp_path / "timm.safetensors"
    safetensors.numpy.save_file({"conv_stem.weight": np.zeros(3, np.float32)}, path)
    assert "python -m fer_jax.convert" in refusal(path)


def raw(header: bytes, length: int | None = None, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + data


ABSURD = {
    "empty": b"",
    "short": b"\x01\x02",
    "header of 2^60": raw(b"{}", 2**60),
    "header past the end": raw(b"{}", 10**8),
    "no utf-8": raw(b"\xff\xfe\xfd\xfc"),
    "deep": raw(b"[" * 100_000),
    "terabytes": raw(b'{"a":{"dtype":"F32","shape":[1099511627776],"data_offsets":[0,4398046511104]}}'),  # noqa: E501
    "overflow": raw(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,8]}}'),
    "metadata of a number": raw(b'{"__metadata__":{"fer_jax":5}}'),
    "pickle": b"\x80\x04\x95" + bytes(200),
}  # fmt: skip


@pytest.mark.parametrize("data", ABSURD.values(), ids=ABSURD.keys())
def test_broken_bytes_are_refused(data, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    refusal(path)


@pytest.mark.parametrize("kept", [0.999, 0.5, 0.001])
def test_a_truncated_file_is_refused(kept, saved, tmp_path):
    path, data = tmp_path / "m.safetensors", saved.read_bytes()
    path.write_bytes(data[: int(kept * len(data))])
    refusal(path)


def test_no_file_and_a_folder_are_refused(tmp_path):
    assert "No such file" in refusal(tmp_path / "none.safetensors")
    refusal(tmp_path)


MEASURE = """
import pathlib, sys
from experiments.benchmark.memory import peak_mib
from fer_jax import model_file
from fer_jax.errors import UserError
before = peak_mib()
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    try:
        model_file.load(path)
    except UserError as error:
        print(path.name, "refused")
print(round(peak_mib() - before))
"""


def test_absurd_files_take_no_memory(tmp_path):
    """In a process of its own, whose largest size tells."""
    for number, data in enumerate(ABSURD.values()):
        (tmp_path / f"{number}.safetensors").write_bytes(data)
    with open(tmp_path / "sparse.safetensors", "wb") as file:  # 99 MB of header, of no disk
        file.write(struct.pack("<Q", 99_000_000))
        file.truncate(2**36)
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    out = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    *lines, mebibytes = out.splitlines()
    assert len(lines) == len(ABSURD) + 1
    assert int(mebibytes) < 300


@pytest.mark.parametrize("failure", [OSError("no space left"), KeyboardInterrupt()])
def test_an_interrupted_write_leaves_what_was_there(failure, saved, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    path.write_bytes(saved.read_bytes())

    def half(tensors, place, metadata):
        with open(place, "wb") as file:
            file.write(b"half")
        raise failure

    monkeypatch.setattr(model_file, "save_file", half)
    expected = UserError if isinstance(failure, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        model_file.save(path, made_file(made_model(), seed=1))
    assert sorted(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == saved.read_bytes()


def test_a_write_that_is_killed_leaves_what_was_there(saved, tmp_path, monkeypatch):
    """The name is given only to a file that was written to its end."""
    path = tmp_path / "m.safetensors"
    path.write_bytes(saved.read_bytes())
    sizes = []

    def replace(source, target):
        sizes.append(os.path.getsize(source))
        assert path.read_bytes() == saved.read_bytes()
        assert target == path

    monkeypatch.setattr(os, "replace", replace)
    model_file.save(path, made_file(made_model(), seed=1))
    assert sizes == [saved.stat().st_size]


def test_places_that_cannot_be_written_are_named(tmp_path):
    file = made_file(made_model())
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder.safetensors").mkdir()
    places = [tmp_path / "file" / "m.safetensors", tmp_path / "folder.safetensors"]
    for place in [*places, tmp_path / ("a" * 300 + ".safetensors")]:
        with pytest.raises(UserError, match="cannot write") as caught:
            model_file.save(place, file)
        assert str(place) in str(caught.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.safetensors"]
    assert (tmp_path / "file").read_text() == "mine"


def test_hashes_of_training_images_come_back(saved, tmp_path):
    path, hashes = tmp_path / "m.safetensors", np.array([[3, 5], [2**63 + 1, 0]], np.uint64)
    given = model_file.load(saved)
    assert given.train_hashes is None
    model_file.save(path, dataclasses.replace(given, train_hashes=hashes))
    found = model_file.load(path)
    np.testing.assert_array_equal(found.train_hashes, hashes)
    assert found.train_hashes.dtype == np.uint64
    assert found.about == given.about


@pytest.mark.parametrize("key", model_file.HASHES_KEYS)
@pytest.mark.parametrize("text", ["?", "AAAA", "ä"])
def test_broken_hashes_are_refused(saved, tmp_path, key, text):
    path = tmp_path / "m.safetensors"
    with safetensors.safe_open(saved, framework="numpy") as file:
        metadata = file.metadata() | dict.fromkeys(model_file.HASHES_KEYS, "") | {key: text}
    safetensors.numpy.save_file(safetensors.numpy.load_file(saved), path, metadata=metadata)
    assert "broken training hashes" in refusal(path)
