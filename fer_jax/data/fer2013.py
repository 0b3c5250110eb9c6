"""The project's TFDS builder: a data set as a few array_record files, without TensorFlow."""

import contextlib
import functools
import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tqdm import tqdm

from fer_jax.data import images
from fer_jax.data.records import ROLES, Entry, Found, Listing, Records
from fer_jax.errors import UserError, one_line, printable
from fer_jax.labels import LABELS, index

BLOCK = 512  # records read at a time
DESCRIPTION = "Faces with one of seven expressions, pixels lossless, in the split of their source."


class Fer2013(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Roles of records -> array_record files of {image: PNG, label, key, row}."""

    code_path = None  # else TFDS 4.9.10 imports importlib_resources, which it does not declare
    VERSION = tfds.core.Version("1.0.0")

    def __init__(self, *, records: Mapping[str, Records], data_dir: str) -> None:
        """`records` by role; files come to lie under `data_dir/fer2013/1.0.0`."""
        self._records = records
        self._channels = max(part.channels for part in records.values())  # one number for all
        super().__init__(data_dir=data_dir, file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        image = tfds.features.Image(shape=(None, None, self._channels), encoding_format="png")
        fingerprints = {role: records.fingerprint for role, records in self._records.items()}
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": image,
                    "label": tfds.features.ClassLabel(names=LABELS),
                    "key": tfds.features.Text(),
                    "row": np.int32,
                }
            ),
            metadata=tfds.core.MetadataDict(fingerprints=fingerprints),
        )

    def _split_generators(self, _: Any) -> dict[str, Iterator[tuple[str, dict[str, Any]]]]:
        return {role: self._generate_examples(role) for role in self._records}

    def _generate_examples(self, role: str) -> Iterator[tuple[str, dict[str, Any]]]:
        records = self._records[role]
        for i in tqdm(range(len(records)), desc=f"writing {role}", unit="image", disable=None):
            record = records[i]
            shape = (*record["image"].shape[:2], self._channels)
            record["image"] = images.encode_png(np.broadcast_to(record["image"], shape))
            yield record["key"], record


def write(records: Mapping[str, Records], directory: Path) -> Path:
    """Write all roles somewhere under `directory` -> the folder that holds the finished files."""
    tfds.disable_progress_bar()
    builder = Fer2013(records=records, data_dir=str(directory))
    with contextlib.redirect_stdout(io.StringIO()):
        builder.download_and_prepare(file_format="array_record")
    return Path(builder.data_dir)


def read(path: Path, max_pixels: int, cache_mib: int) -> Found:
    """The entries of a directory that `write` made; UserError where files are missing or broken.

    Keeps up to `cache_mib` MiB of PNGs: decoding them once reads no file again.
    """
    encoded: dict[str, bytes] = {}
    room = cache_mib * 2**20
    try:
        _source.cache_clear()  # another directory may have had this path
        info = tfds.builder_from_directory(path).info
        names = [index(name) for name in info.features["label"].names]
        entries = []
        for role in (role for role in ROLES if role in info.splits):
            records = _source(path, role)
            starts = range(0, len(records), BLOCK)
            for start in tqdm(starts, f"reading {role}", disable=None, leave=False):
                block = range(start, min(start + BLOCK, len(records)))
                for i, record in zip(block, records.__getitems__(block), strict=True):
                    label, key, row = names[record["label"]], record["key"].decode(), record["row"]
                    entries.append(Entry(f"{role} {i}", role, label, key, int(row)))
                    room -= len(record["image"])
                    if room >= 0:
                        encoded[f"{role} {i}"] = record["image"]
        prints = dict(info.metadata["fingerprints"])
    except UserError:
        raise
    except Exception as error:  # protobuf, array_record and TFDS each raise their own kinds
        reason = printable(one_line(error))
        raise UserError(f"no whole prepared data ({reason}): remove them, prepare anew") from None
    listing = Listing("prepared", entries, fingerprints=prints)
    return listing, functools.partial(_image, encoded, path, max_pixels)


def _image(encoded: dict[str, bytes], path: Path, max_pixels: int, ref: str) -> np.ndarray:
    """Ref `"train 17"` -> uint8 [H, W, C] of that record; UnreadableImage for a damaged one."""
    data = encoded.pop(ref, None)
    if data is None:
        role, number = ref.split()
        data = _source(path, role)[int(number)]["image"]
    return images.decode(data, max_pixels)


@functools.lru_cache(8)
def _source(path: Path, role: str) -> Any:
    """One role's records, their images still encoded; opened once in each process."""
    builder = tfds.builder_from_directory(path)
    return builder.as_data_source(split=role, decoders={"image": tfds.decode.SkipDecoding()})
