"""Keras' files, read without Keras: weights-only and whole .h5, .weights.h5, and .keras.

Keras 3.15 on its JAX backend was tried: as harmless with hostile files, but 11 s and 1 GB for what
takes 0.5 s here, and weights alone it reads only into a model that someone has built before.
"""

import dataclasses
import io
import itertools
import json
import math
import pathlib
import re
import zipfile
from collections.abc import Iterator, Mapping
from typing import Any

import h5py
import numpy as np

from fer_jax.errors import UserError, one_line

LARGEST = 2**30  # bytes of an archive's weights, and of all arrays that are read from a file
LARGEST_CONFIG = 2**23  # bytes; B7's has a twentieth
DEEPEST = 8  # models within models
METADATA = "fer_jax"  # the group of our own texts, as bytes: attributes hold 64 KiB at most
SCALING = ("mean", "variance", "count")
VARIABLES: dict[
    int, tuple[str, ...]
] = {  # what a layer's variables are called, by how many there are, as Keras orders them
    1: ("kernel",),
    2: ("kernel", "bias"),
    3: SCALING,
    4: ("gamma", "beta", "moving_mean", "moving_variance"),
}


@dataclasses.dataclass(frozen=True)
class KerasFile:
    """Layers in the model's order, each with its arrays in Keras' order, and the saved config."""

    layers: dict[str, list[np.ndarray]]
    named: bool  # False: layer names are only class names with a number
    config: dict[str, Any] | None
    metadata: dict[str, str]  # what `write_weights` was given with them

    def arrays(self) -> dict[str, np.ndarray]:
        """`stem_bn/gamma` to array; of layers unlike ours `attention/0`, `attention/1`, ..."""
        found = {}
        for layer, arrays in self.layers.items():
            known = VARIABLES.get(len(arrays), ())
            if known == SCALING and arrays[-1].ndim:  # its count is one number
                known = ()
            for number, array in enumerate(arrays):
                found[f"{layer}/{known[number] if known else number}"] = array
        return found

    def configured(self) -> list[tuple[str, dict[str, Any]]]:
        """(class name, settings) of every layer of the saved config, nested models opened."""
        return list(_walk_config(self.config)) if self.config is not None else []


def read_keras(path: pathlib.Path) -> KerasFile:
    """Read any of Keras' formats by what lies in the file; UserError in one line otherwise."""
    try:
        if zipfile.is_zipfile(path):
            return _read_archive(path)
        with h5py.File(path, "r") as file:
            group = _legacy_group(file)
            return _read_legacy(file, group) if group else _read_weights(file, None)
    except Exception as error:  # whatever HDF5, zip and JSON make of a broken file
        raise UserError(f"cannot read {path} as a Keras file: {one_line(error)}") from error


def write_weights(
    path: pathlib.Path, places: dict[str, dict[str, np.ndarray]], metadata: Mapping[str, str]
) -> None:
    """The .weights.h5 of Keras 3: `layers/functional/layers/conv2d_3` -> `stem_conv/kernel`, ...

    `metadata` lies in a group of its own, of which Keras takes no notice.
    """
    with h5py.File(path, "w") as file:
        for key, text in metadata.items():
            file[f"{METADATA}/{key}"] = np.frombuffer(text.encode(), np.uint8)
        for model in dict.fromkeys(place.rpartition("layers/")[0] for place in places):
            file.create_group(f"{model}vars")  # a model has none of its own, but the group
        for place, arrays in places.items():
            group = file.create_group(f"{place}/vars")
            group.attrs["name"] = next(iter(arrays)).split("/")[0]
            for number, array in enumerate(arrays.values()):
                group.create_dataset(str(number), data=array)


def natural(name: str) -> list[Any]:
    """A sort key by which conv2d_10 follows conv2d_9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _read_archive(path: pathlib.Path) -> KerasFile:
    with zipfile.ZipFile(path) as archive:
        for member, largest in (("config.json", LARGEST_CONFIG), ("model.weights.h5", LARGEST)):
            _check_size(member, archive.getinfo(member).file_size, largest)
        config = json.loads(archive.read("config.json"))
        with h5py.File(io.BytesIO(archive.read("model.weights.h5")), "r") as file:
            return _read_weights(file, config)


def _check_size(what: str, size: int, largest: int) -> None:
    if size > largest:
        raise UserError(f"{what} has {size:,} bytes, the limit is {largest:,}")


def _legacy_group(file: h5py.File) -> h5py.Group | None:
    """The group that lists `layer_names`: the file's root, or model_weights in a whole model."""
    group = _group(file, "model_weights") if "model_weights" in file else file
    return group if _attributes(group, "layer_names") else None


def _read_legacy(file: h5py.File, group: h5py.Group) -> KerasFile:
    layers: dict[str, list[np.ndarray]] = {}
    budget = _Budget()
    for saved in _attributes(group, "layer_names"):
        place = _member(group, saved)
        for weight in _attributes(place, "weight_names"):
            layer = weight.split("/")[-2] if "/" in weight else saved
            layers.setdefault(layer, []).append(budget.read(_member(place, weight)))
    config = file.attrs.get("model_config")
    _check_size("model_config", len(config or ""), LARGEST_CONFIG)
    return KerasFile(layers, True, json.loads(config) if config else None, {})


def _member(group: h5py.Group, path: str) -> Any:
    """What lies at `path` within this very file: a link could lead to any other one."""
    for part in path.split("/"):
        link = group.get(part, getlink=True)
        if link is None:
            raise UserError(f"{group.name} has no {part!r}")
        if not isinstance(link, h5py.HardLink):
            raise UserError(f"{part!r} in {group.name} lies elsewhere: only whole files are read")
        group = group[part]
    return group


def _group(group: h5py.Group, path: str) -> h5py.Group:
    """The same, for what will be listed: listing a data set would read it."""
    member = _member(group, path)
    if not isinstance(member, h5py.Group):
        raise UserError(f"{member.name} is no group")
    return member


def _attributes(group: h5py.Group, name: str) -> list[str]:
    """A list of names, which Keras splits over name0, name1, ... where it is long."""
    parts = [group.attrs[name]] if name in group.attrs else []
    for number in itertools.count():
        if f"{name}{number}" not in group.attrs:
            break
        parts.append(group.attrs[f"{name}{number}"])
    texts = [text for part in parts for text in np.asarray(part).tolist()]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _read_weights(file: h5py.File, config: dict[str, Any] | None) -> KerasFile:
    """The format of Keras 3: groups named by class and number, each with `vars/0`, `vars/1`, ..."""
    found: list[tuple[str, str, list[np.ndarray]]] = []
    budget = _Budget()
    for path, group in _layers(file, "", set()):
        if len(group) == 0:
            continue
        arrays = [budget.read(_member(group, key)) for key in sorted(group, key=int)]
        name = group.attrs.get("name", b"")
        found.append((path, name.decode() if isinstance(name, bytes) else str(name), arrays))
    if not found:
        raise UserError("the file holds no layers")
    named = all(name for _, name, _ in found)
    found.sort(key=lambda entry: natural(entry[0]))
    layers: dict[str, list[np.ndarray]] = {}
    for path, name, arrays in found:
        layers[name if named and name not in layers else path] = arrays
    texts = _group(file, METADATA) if METADATA in file else {}
    metadata = {key: budget.read(_member(texts, key)).tobytes().decode() for key in texts}
    return KerasFile(layers, named, config, metadata)


def _layers(
    group: h5py.Group, path: str, seen: set[h5py.Group]
) -> Iterator[tuple[str, h5py.Group]]:
    """`layers/functional/layers/conv2d` and its group `vars`; no optimizer, no random state."""
    if path.count("layers/") >= DEEPEST or group in seen:
        raise UserError(f"its models within models have no end: {path[:60]}...")
    seen.add(group)
    layers = _group(group, "layers") if "layers" in group else {}
    for name in layers:
        layer, here = _group(layers, name), f"{path}layers/{name}"
        if "vars" in layer:
            yield here, _group(layer, "vars")
        yield from _layers(layer, f"{here}/", seen)


class _Budget:
    """Reads arrays until a file has given more than `LARGEST` bytes."""

    def __init__(self) -> None:
        self.left = LARGEST

    def read(self, dataset: Any) -> np.ndarray:
        """The array; UserError for what is no plain array, or too much of it."""
        if not isinstance(dataset, h5py.Dataset) or dataset.dtype.kind not in "fiu":
            raise UserError(f"{getattr(dataset, 'name', '?')} is no array of numbers")
        if dataset.external or dataset.is_virtual:
            raise UserError(f"{dataset.name} lies in another file: only whole files are read")
        if dataset.shape is None:
            raise UserError(f"{dataset.name} is empty")
        self.left -= math.prod(dataset.shape) * dataset.dtype.itemsize  # .size overflows
        if self.left < 0:
            raise UserError(f"the file says it holds more than {LARGEST:,} bytes of arrays")
        return np.asarray(dataset[()])


def _walk_config(config: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for layer in config["config"]["layers"]:
        if "layers" in layer["config"]:
            yield from _walk_config(layer)
        else:
            yield layer["class_name"], layer["config"]
