"""Keras' files from strangers: they are data, at most so large, and lead to no other file."""

import io
import itertools
import json
import os
import subprocess
import sys
import zipfile

import h5py
import numpy as np
import pytest
from made_models import RESCALING, write_weights
from support import ROOT

from fer_jax.conversion import keras
from fer_jax.conversion.keras import _natural, read_keras
from fer_jax.errors import UserError

KERNEL = np.arange(6, dtype=np.float32).reshape(2, 3)


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_keras(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    assert str(path) in line
    return line


def legacy(path, fill, name="dense/kernel"):
    """A weights-only .h5 of one layer, whose group `fill` fills."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["dense"]
        group = file.create_group("dense")
        group.attrs["weight_names"] = [name]
        fill(group)
    return path


def archive(path, config='{"config": {"layers": []}}', weights=None, kind=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", kind) as file:
        file.writestr("config.json", config)
        if weights is None:
            buffer = io.BytesIO()
            with h5py.File(buffer, "w") as inner:
                inner["layers/dense/vars/0"] = KERNEL
            weights = buffer.getvalue()
        file.writestr("model.weights.h5", weights)
    return path


def test_what_is_written_is_read(tmp_path):
    stem, top = {"stem/kernel": KERNEL}, {"top/kernel": KERNEL.T, "top/bias": KERNEL[0]}
    places = {"layers/conv2d": stem, "layers/conv2d_1": top}
    texts = {"about": "a" * 100_000, "other": "\N{SNOWMAN}"}  # more than an attribute may hold
    keras.write_weights(tmp_path / "w.weights.h5", places, texts)
    file = read_keras(tmp_path / "w.weights.h5")
    assert file.metadata == texts
    assert list(file.layers) == ["stem", "top"]
    assert not file.configured
    for name, array in {**stem, **top}.items():
        np.testing.assert_array_equal(file.arrays()[name], array)


def test_an_archive_is_read_without_keras(tmp_path):
    file = read_keras(
        archive(tmp_path / "m.keras", json.dumps({"config": {"layers": [RESCALING]}}))
    )
    np.testing.assert_array_equal(file.arrays()["layers/dense/kernel"], KERNEL)
    assert not file.named
    assert file.configured == [("Rescaling", RESCALING["config"])]


def test_layers_are_sorted_by_number():
    assert sorted(["conv2d_10", "conv2d_9", "conv2d"], key=_natural) == [
        "conv2d",
        "conv2d_9",
        "conv2d_10",
    ]


def test_two_layers_of_one_name_are_both_kept(tmp_path):
    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        for number, place in enumerate(("layers/dense", "layers/functional/layers/dense")):
            group = file.create_group(f"{place}/vars")
            group.attrs["name"], group["0"] = "dense", KERNEL + number
    file = read_keras(tmp_path / "w.weights.h5")
    assert [float(arrays[0][0, 0]) for arrays in file.layers.values()] == [0, 1]


def test_no_foreign_layer_of_three_variables_is_taken_for_the_scaling(tmp_path):
    gru = {f"gru/{number}": KERNEL for number in range(3)}
    keras.write_weights(tmp_path / "w.weights.h5", {"layers/gru": gru}, {})
    assert list(read_keras(tmp_path / "w.weights.h5").arrays()) == list(gru)


def external_link(group):
    group["dense/kernel"] = h5py.ExternalLink("other.h5", "/secret")


def soft_link_to_an_external_one(group):
    group.file["elsewhere"] = h5py.ExternalLink("other.h5", "/")
    group["dense/kernel"] = h5py.SoftLink("/elsewhere/secret")


def external_group(group):
    del group.file["dense"]
    group.file["dense"] = h5py.ExternalLink("other.h5", "/dense")


def external_root(group):
    group.file["model_weights"] = h5py.ExternalLink("other.h5", "/")


def external_data(group):
    group.create_dataset("dense/kernel", (4,), "f4", external=[("other.h5", 0, 16)])


def virtual(group):
    source = h5py.VirtualSource("other.h5", "secret", (3,))
    layout = h5py.VirtualLayout((3,), "f4")
    layout[:] = source
    group.create_virtual_dataset("dense/kernel", layout)


def terabytes(group):
    group.create_dataset("dense/kernel", (2**20, 2**20), "f4", chunks=(64, 64), compression="gzip")


def overflowing(group):
    """Its number of values is 2^64, which NumPy's integers count as 0."""
    group.create_dataset("dense/kernel", (2**32, 2**32), "f4", chunks=(64, 64), compression="gzip")


def objects(group):
    group.create_dataset("dense/kernel", data=["import os"], dtype=h5py.string_dtype())


def references(group):
    group.create_dataset("dense/kernel", data=[group.ref], dtype=h5py.ref_dtype)


def empty(group):
    group["dense/kernel"] = h5py.Empty("f4")


def a_group(group):
    group.create_group("dense/kernel")


def absent(group):
    pass


def names_of_nothing(group):
    group.attrs["weight_names"] = h5py.Empty("f4")
    group.file.attrs["layer_names"] = h5py.Empty("f4")


LEGACY = [
    (external_link, "only whole files"),
    (soft_link_to_an_external_one, "only whole files"),
    (external_group, "only whole files"),
    (external_root, "only whole files"),
    (external_data, "another file"),
    (virtual, "another file"),
    (terabytes, "more than"),
    (overflowing, "more than"),
    (objects, "no array of numbers"),
    (references, "no array of numbers"),
    (empty, "is empty"),
    (a_group, "no array of numbers"),
    (absent, "has no /dense/dense/kernel"),
    (names_of_nothing, "cannot read"),
]


@pytest.fixture
def other(tmp_path, monkeypatch):
    """Another file beside, full of what links may lead to."""
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["secret"] = np.ones(3, np.float32)
        file["dense/dense/kernel"] = KERNEL
        file["dense"].attrs["weight_names"] = ["dense/kernel"]
        file.attrs["layer_names"] = ["dense"]
    monkeypatch.chdir(tmp_path)
    return tmp_path / "other.h5"


@pytest.mark.parametrize(("fill", "word"), LEGACY, ids=[fill.__name__ for fill, _ in LEGACY])
def test_a_malicious_h5_is_refused(fill, word, other, tmp_path):
    assert other.exists()  # there would be something to read
    assert word in refusal(legacy(tmp_path / "w.h5", fill))


def soft_link(file):
    virtual(file.create_group("hidden"))
    file["layers/dense/vars/0"] = h5py.SoftLink("/hidden/dense/kernel")


def external_variables(file):
    file["layers/dense/vars"] = h5py.ExternalLink("other.h5", "/dense")


def external_layer(file):
    file["layers/dense"] = h5py.ExternalLink("other.h5", "/dense")


def external_layers(file):
    file["layers"] = h5py.ExternalLink("other.h5", "/")


def external_array(file):
    file.create_group("layers/dense/vars")["0"] = h5py.ExternalLink("other.h5", "/secret")


def virtual_array(file):
    virtual(file.create_group("layers/dense/vars"))
    file.move("layers/dense/vars/dense/kernel", "layers/dense/vars/0")
    del file["layers/dense/vars/dense"]


def data_for_a_group(file):
    """Listing them would read them, wherever they lie."""
    virtual(file.create_group("hidden"))
    file.create_group("layers")
    file.move("hidden/dense/kernel", "layers/kernel")


WEIGHTS = [
    (soft_link, "holds no layers"),
    (external_variables, "holds no layers"),
    (external_layer, "holds no layers"),
    (external_layers, "holds no layers"),
    (external_array, "holds no layers"),
    (virtual_array, "another file"),
    (data_for_a_group, "holds no layers"),
]


def weights(path, fill):
    with h5py.File(path, "w") as file:
        fill(file)
    return path


@pytest.mark.parametrize(("fill", "word"), WEIGHTS, ids=[fill.__name__ for fill, _ in WEIGHTS])
def test_a_malicious_weights_h5_is_refused(fill, word, other, tmp_path):
    assert other.exists()
    assert word in refusal(weights(tmp_path / "w.weights.h5", fill))


def test_no_other_file_is_opened(other, tmp_path):
    """The other file is a pipe: whoever opens it waits, and the process is ended."""
    for fill, _ in LEGACY:
        legacy(tmp_path / f"{fill.__name__}.h5", fill)
    for fill, _ in WEIGHTS:
        weights(tmp_path / f"{fill.__name__}.weights.h5", fill)
    other.unlink()
    places = sorted(path.name for path in tmp_path.iterdir())
    os.mkfifo(other)
    refused, _ = in_a_process(tmp_path, places)
    assert refused == places


def test_arrays_that_are_too_large_together_are_refused(tmp_path, monkeypatch):
    places = {f"layers/{a}": {f"{a}/kernel": np.ones((100, 100), np.float32)} for a in "abc"}
    keras.write_weights(tmp_path / "w.h5", places, {})
    assert len(read_keras(tmp_path / "w.h5").layers) == 3
    monkeypatch.setattr(keras, "LARGEST", 100_000)
    assert "more than 100,000 bytes" in refusal(tmp_path / "w.h5")


def test_hard_links_in_a_circle_end(tmp_path):
    path = tmp_path / "w.weights.h5"
    with h5py.File(path, "w") as file:
        layers = file.create_group("layers")
        for number in range(300):
            layers[f"functional_{number}"] = file["/"]
    assert "holds no layers" in refusal(path)


def test_models_within_models_without_end_are_refused(tmp_path):
    path = tmp_path / "w.weights.h5"
    with h5py.File(path, "w") as file:
        group = file
        for _ in range(2000):
            group = group.create_group("layers/functional")
    assert "no end" in refusal(path)


@pytest.mark.parametrize("key", ["x", "0.5", "1e3"])
def test_variables_without_a_number_are_refused(key, tmp_path):
    with h5py.File(tmp_path / "w.weights.h5", "w") as file:
        file[f"layers/dense/vars/{key}"] = KERNEL
    refusal(tmp_path / "w.weights.h5")


def test_h5_files_without_layers_are_refused(tmp_path):
    with h5py.File(tmp_path / "w.h5", "w") as file:
        file["weights"] = KERNEL
    assert "holds no layers" in refusal(tmp_path / "w.h5")


@pytest.mark.parametrize("config", [b"\xff\xfe", "[" * 100_000, "no json", "1" * 2**24])
def test_a_broken_config_is_refused(config, tmp_path):
    refusal(archive(tmp_path / "m.keras", config))
    path = legacy(
        tmp_path / "w.h5", lambda group: group.create_dataset("dense/kernel", data=KERNEL)
    )
    with h5py.File(path, "a") as file:
        if len(config) < 1000:
            file.attrs["model_config"] = np.bytes_(config)
        else:
            file.create_group("model_weights").attrs["layer_names"] = ["dense"]
            file.move("dense", "model_weights/dense")
            file.attrs.create("model_config", config, dtype=h5py.string_dtype())
    refusal(path)


def lines_of_damage(path, data, steps, width):
    """What is said of `data` with `width` bytes overwritten at so many places, one at a time."""
    said = []
    for start in range(0, len(data) - width, len(data) // steps):
        path.write_bytes(data[:start] + b"\xff" * width + data[start + width :])
        try:
            read_keras(path)
        except UserError as error:
            said.append(str(error))
    return said


@pytest.mark.parametrize("kind", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damaged_archives_are_refused_or_read(kind, tmp_path):
    data = archive(tmp_path / "m.keras", "{}", kind=kind).read_bytes()
    said = lines_of_damage(tmp_path / "broken.keras", data, 30, 8)
    assert len(said) > 10
    assert not any("\n" in line for line in said)


def test_damaged_h5_files_are_refused_or_read(tmp_path):
    path = tmp_path / "w.weights.h5"
    write_weights(path, [])
    with h5py.File(path, "a") as file:
        for name, number in itertools.product("abcd", range(3)):
            file[f"layers/{name}/vars/{number}"] = KERNEL
    said = lines_of_damage(path, path.read_bytes(), 60, 6)
    assert len(said) > 5
    assert not any("\n" in line for line in said)


@pytest.mark.parametrize("member", ["config.json", "model.weights.h5"])
def test_an_archive_without_a_part_is_refused(member, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as file:
        file.writestr(member, "{}")
    refusal(tmp_path / "m.keras")


def test_truncated_files_are_refused(tmp_path):
    path = tmp_path / "w.h5"
    places = {"layers/dense": {"dense/kernel": np.ones((100, 100), np.float32)}}
    keras.write_weights(path, places, {})
    data = path.read_bytes()
    for kept in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:kept])
        refusal(path)


READ = """
import sys
from experiments.benchmark.memory import peak_mib
from fer_jax.conversion.keras import read_keras
from fer_jax.errors import UserError
before = peak_mib()
for path in sys.argv[1:]:
    try:
        read_keras(path)
    except UserError as error:
        print(path)
print(round(peak_mib() - before))
"""


def in_a_process(folder, names):
    """Names of the files that a process of its own refuses, and the MiB by which it grew."""
    out = subprocess.run(
        [sys.executable, "-c", READ, *names],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
        timeout=100,
    ).stdout
    *refused, mebibytes = out.splitlines()
    return refused, int(mebibytes)


def test_bombs_take_no_memory(tmp_path):
    """The largest size of a process of its own tells."""
    legacy(tmp_path / "a.h5", terabytes)
    legacy(tmp_path / "b.h5", overflowing)
    archive(tmp_path / "c.keras", " " * (keras.LARGEST_CONFIG + 1), kind=zipfile.ZIP_DEFLATED)
    archive(tmp_path / "d.keras", weights=bytes(2**20), kind=zipfile.ZIP_DEFLATED)
    data = bytearray((tmp_path / "d.keras").read_bytes())
    entry = data.rindex(b"PK\x01\x02")  # of the weights, in the list at the end
    data[entry + 24 : entry + 28] = (keras.LARGEST + 1).to_bytes(4, "little")
    (tmp_path / "d.keras").write_bytes(data)
    names = ["a.h5", "b.h5", "c.keras", "d.keras"]
    assert all((tmp_path / name).stat().st_size < 2**20 for name in names)
    refused, mebibytes = in_a_process(tmp_path, names)
    assert refused == names
    assert mebibytes < 100
