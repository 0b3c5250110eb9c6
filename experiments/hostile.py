"""Hostile inputs: of each reader a small good one, and seeded ways to spoil it."""

import io
import json
import os
import random
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import safetensors.numpy
from made_data import csv_text, make_rows, seed_files
from made_models import (
    keras_config,
    keras_layers,
    made_file,
    made_model,
    made_variables,
    torch_arrays,
    write_archive,
    write_legacy,
    write_weights,
)
from support import CONFIG, SMALL, call, read_data, small_config

from fer_jax import config as configs
from fer_jax import model_file, train, workdir
from fer_jax.labels import LABELS
from fer_jax.models.classifier import describe, make_model, variable_shapes

Files = dict[str, bytes]
Random = random.Random
ODD: Sequence[Any] = (
    *(None, True, "", "\0", "a\nb", "nan", "../../x", "/etc/passwd", "\ud800", "x" * 5000, "٣"),
    *(0, -1, 1.5, 7, 2**31, 2**63, 2**70, 10**400, 1e308, float("nan"), float("inf"), -0.0),
    *([], {}, [None], [[]], {"": 1}, [1, 2, 3], ["angry"] * 7, "angry", "float32", "b2", "1e999"),
)
NAMES = (
    *(
        "../../evil.png",
        "/tmp/evil.png",
        "..\\..\\evil.png",
        "C:\\evil.png",
        "a\nb.png",
        "\x07.png",
    ),
    *("train/angry/" + "x" * 240 + ".png", "train/angry/.png", "train/../angry/0.png", "~/x.png"),
    *("train/angry/0.png/x.png", "train//angry//0.png", "./train/angry/0.png", "train/angry/é.png"),
    *("train/nobody/0.png", "eval/angry/0.png", "train/angry/0.svg", "-x", "con", "é/ü/0.jpg"),
)
SHAPES = ((), (0,), (1,), (3, 3), (7,), (2, 3, 4, 5), (0, 7))
TYPES = ("f2", "f4", "f8", "i1", "i8", "u1", "?", "c8", "S3", "U3", "M8[s]")


# ---- spoiling ----------------------------------------------------------------------------------


def spoil_bytes(data: bytes, draw: Random) -> bytes:
    """Bytes flipped, cut, inserted, repeated, set to one value, exchanged in the header."""
    for _ in range(draw.choice((1, 1, 2, 8))):
        size = len(data)
        at = draw.randrange(min(size, draw.choice((64, size))) or 1) if size else 0
        end = at + draw.choice((1, 1, 4, 64, size // 2))
        some = draw.randbytes(draw.choice((1, 4, 64)))
        data = draw.choice(
            (
                data[:at] + bytes([draw.randrange(256)]) + data[at + 1 :],
                data[:at] + draw.choice((b"\0", b"\xff")) * 4 + data[at + 4 :],
                data[:at],
                data[:at] + data[end:],
                data[:at] + some + data[at:],
                data[:end] + data[at:],
            )
        )
    return data


def spoil_json(text: bytes, draw: Random) -> bytes:
    """A value replaced by an odd one, a key renamed or lost; at times no JSON that ends well."""
    if draw.random() < 0.1:
        deep = draw.choice((b"[" * 100_000, b'{"a":' * 100_000, b"1" * 5000, b"\xff\xfe{}", b"nul"))
        return draw.choice((deep, text[:1] + deep + text[1:]))
    root = holder = [json.loads(text)]
    key: Any = 0
    while isinstance(holder[key], dict | list) and holder[key] and draw.random() < 0.85:
        holder = holder[key]
        key = draw.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    way = draw.randrange(4)
    if way == 0 and isinstance(holder, dict):
        holder[str(draw.choice(ODD))] = holder.pop(key)
    elif way == 1:
        del holder[key]
    else:
        holder[key] = draw.choice(ODD)
    return json.dumps(root[0] if root else None).encode("utf-8", "surrogatepass")


def spoil_table(text: bytes, draw: Random) -> bytes:
    """Cells replaced by odd values, rows repeated or cut, another separator or encoding."""
    lines = [line.split(",") for line in text.decode().splitlines()]
    for _ in range(draw.choice((1, 1, 3))):
        row = draw.choice(lines[: draw.choice((1, len(lines)))])
        at = draw.randrange(len(row))
        words = row[at].split(" ")
        words[draw.randrange(len(words))] = str(draw.choice(ODD))
        quoted = '"' + str(draw.choice(ODD)) + draw.choice(('"', ""))
        row[at] = draw.choice((str(draw.choice(ODD)), " ".join(words), quoted, row[at] * 2))
        if draw.random() < 0.2:
            draw.choice((row.pop, lines.pop))(at)
        if not lines or not lines[-1]:
            break
    table = draw.choice((",", ",", ";", "\t")).join
    lines = [line for line in lines if line]
    coded = draw.choice(("utf-8", "utf-8", "utf-16", "utf-8-sig"))
    return "\n".join(map(table, lines)).encode(coded, "surrogatepass")


def spoil_arrays(data: bytes, draw: Random) -> bytes:
    """An .npz of which one array is of another type or shape, lost, or pickled."""
    with np.load(io.BytesIO(data)) as file:
        arrays = dict(file)
    name = draw.choice(list(arrays))
    odd = odd_array(draw)
    arrays[name] = draw.choice((odd, arrays[name][:-1], np.array([{}, os], dtype="O")[:1]))
    if draw.random() < 0.2:
        arrays.pop(name)
    out = io.BytesIO()
    np.savez(out, **arrays)
    return out.getvalue()


def odd_array(draw: Random) -> np.ndarray:
    """Of an odd type or shape, at times not finite."""
    array = np.zeros(draw.choice(SHAPES), draw.choice(TYPES))
    return array + np.array(draw.choice((1, np.nan, np.inf))) if array.dtype.kind == "f" else array


def spoil_header(data: bytes, draw: Random) -> bytes:
    """A safetensors file whose header, or the text of a model's in it, is another."""
    (size,) = struct.unpack("<Q", data[:8])
    header, rest = json.loads(data[8 : 8 + size]), data[8 + size :]
    about = header.get("__metadata__", {}).get("fer_jax")
    if about and draw.random() < 0.7:
        header["__metadata__"]["fer_jax"] = spoil_json(about.encode(), draw).decode(
            errors="replace"
        )
        text = json.dumps(header).encode()
    else:
        text = spoil_json(json.dumps(header).encode(), draw)
    told = draw.choice((len(text),) * 6 + (0, 2**40, 2**64 - 1))
    return struct.pack("<Q", told) + text + rest


def spoil_hdf5(data: bytes, draw: Random) -> bytes:
    """An attribute, a data set or a group replaced, lost, or a link to elsewhere."""
    buffer, found = io.BytesIO(data), []
    with h5py.File(buffer, "r+") as file:
        file.visit(found.append)
        name = draw.choice(found)
        owner = draw.choice((file, file[name]))
        attributes, way = list(owner.attrs), draw.randrange(6)
        if way == 0 and attributes:
            name = draw.choice(attributes)
            value = owner.attrs[name]
            del owner.attrs[name]
            if isinstance(value, str) and draw.random() < 0.7:
                spoil = spoil_json if value.startswith("{") else spoil_bytes
                text = spoil(value.encode(), draw).decode(errors="replace")
                owner.attrs[name] = text.replace("\0", " ")  # HDF5 has no such texts
            elif draw.random() < 0.7:
                owner.attrs[name] = odd_array(draw).astype("S8" if draw.random() < 0.3 else "f4")
        else:
            del file[name]
            if way == 1:
                file[name] = h5py.ExternalLink(draw.choice(("/etc/passwd", "no.h5")), "/")
            elif way == 2:
                file[name] = h5py.SoftLink(draw.choice(("/", f"/{name}", "/no")))
            elif way == 3:
                file.create_dataset(name, draw.choice(((2**40,), (0,), (3, 3))), "f4", chunks=True)
            elif way == 4:
                file.create_group(name)
    return buffer.getvalue()


def spoil_members(files: Files, draw: Random) -> Files:
    """A file's name or bytes replaced, a file lost or there twice."""
    name = draw.choice(list(files))
    way, rest = draw.randrange(5), {k: v for k, v in files.items() if k != name}
    if way == 0:
        return rest | {draw.choice(NAMES): files[name]}
    if way == 1:
        return {k: v for k, v in files.items() if k.partition("/")[0] != name.partition("/")[0]}
    if way == 2:
        return rest | {f"{name}.{draw.choice(('txt', 'png', 'zip', 'csv'))}": files[name]}
    spoil = spoil_picture if name.endswith((".png", ".jpg")) else spoil_bytes
    return rest | {name: draw.choice((b"", spoil(files[name], draw)))}


def spoil_picture(data: bytes, draw: Random) -> bytes:
    """Bytes, or a PNG whose header tells of another size; at times something else entirely."""
    if data[:4] == b"\x89PNG" and draw.random() < 0.3:
        sizes = struct.pack(">II", *draw.choices((0, 1, 48, 65_535, 2**31 - 1), k=2))
        head = b"IHDR" + sizes + bytes(draw.choices((0, 1, 2, 3, 4, 6, 8, 16), k=2)) + data[26:29]
        return data[:12] + head + struct.pack(">I", zlib.crc32(head)) + data[33:]
    other = (b"", b"<svg/>", b"GIF89a", b"\0" * 100, b"%PDF-1.4", b"RIFF\0\0\0\0WEBPVP8 ")
    return draw.choice(other) if draw.random() < 0.1 else spoil_bytes(data, draw)


# ---- containers ----------------------------------------------------------------------------------


def as_zip(files: Files, draw: Random) -> bytes:
    """Packed; at times a member twice, of a symbolic link's mode, or with zeros by the million."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", draw.choice((0, 8, 8, 12, 14))) as archive:
        for name, data in files.items():
            archive.writestr(zipfile.ZipInfo(name) if draw.random() < 0.1 else name, data)
        if draw.random() < 0.2:
            link = zipfile.ZipInfo("train/angry/link.png")
            link.external_attr = 0o120777 << 16
            archive.writestr(link, "/etc/passwd")
        if draw.random() < 0.1:
            archive.writestr("train/angry/zeros.png", bytes(2**24), 8)
    return out.getvalue()


def as_tar(files: Files, draw: Random) -> bytes:
    """Packed; at times with links, devices and pipes among the members."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=draw.choice(("w", "w:gz", "w:bz2", "w:xz"))) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for kind in draw.sample((b"1", b"2", b"3", b"6", b"5"), draw.choice((0, 0, 2))):
            member = tarfile.TarInfo(draw.choice((*NAMES, "train/angry/0.png")))
            member.type, member.linkname = (
                kind,
                draw.choice(("/etc/passwd", "../../x", member.name)),
            )
            archive.addfile(member)
    return out.getvalue()


def as_folder(files: Files, place: Path, draw: Random) -> None:
    """Written out; at times with loops of links, pipes and folders where files are expected."""
    for name, data in files.items():
        path = place / name.replace("..", "_").lstrip("/").replace("\0", "_")
        with_parents = all(not p.is_file() for p in path.parents) and not path.exists()
        if with_parents:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    way, odd = draw.randrange(8), place / "train" / "angry" / "odd.png"
    if way < 4 and odd.parent.is_dir():
        (
            lambda: odd.symlink_to(odd),
            lambda: odd.symlink_to(odd.parents[2]),
            lambda: os.mkfifo(odd),
            odd.mkdir,
        )[way]()


# ---- readers: (inputs' folder, output's folder, draw) -> a command and its arguments -------------

Case = Callable[[Path, Path, Random], tuple[str, list[str]]]


class Bases:
    """Good small inputs, made once: bytes by name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        rows = make_rows(21)
        self.images = seed_files(rows, root="")
        self.tables = [csv_text(rows, kind).encode() for kind in ("fer2013", "icml")]
        self.csv = folder / "fer2013.csv"
        self.csv.write_bytes(self.tables[0])
        self.keys = "\n".join(read_data(self.csv).roles["train"].keys[:3]).encode()
        self.records = self._records()
        self.models = self._models()
        self.run = self._run()
        self.votes = self._votes(len(rows))
        self.pictures = self._pictures()

    def _records(self) -> Files:
        made = self.folder / "records"
        assert call("prepare", [f"--source={self.csv}", f"--output={made}"]).status == 0
        return {path.name: path.read_bytes() for path in made.iterdir()}

    def _models(self) -> Files:
        """Files of the smallest variant that convert offers, which is cut to two stages."""
        model, headless = made_model("tiny"), made_model("tiny", head="none")
        variables = made_variables(model)
        layers, place = keras_layers(model, variables), self.folder
        about = keras_config(layers)
        model_file.save(place / "ours.safetensors", made_file(model))
        write_legacy(place / "plain.h5", layers)
        write_legacy(place / "whole.h5", layers, config=about)
        write_archive(place / "model.keras", layers, about)
        write_weights(place / "new.weights.h5", layers)
        tensors = torch_arrays("timm", made_variables(headless))
        safetensors.numpy.save_file(tensors, place / "timm.safetensors")
        names = ["ours.safetensors", "plain.h5", "whole.h5", "model.keras", "new.weights.h5"]
        try:
            import torch

            torch.save({k: torch.tensor(v) for k, v in tensors.items()}, place / "timm.pth")
            names.append("timm.pth")
        except ImportError:
            pass
        small = describe(make_model(small_config("unused").model))
        shapes = variable_shapes(model_file.rebuild(small, "float32"))
        flat = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
        file = made_file(made_model(), architecture=small, image_size=32)
        variables = model_file.unflatten_dict(flat, sep="/")
        model_file.save(place / "mini.safetensors", model_file.ModelFile(file.about, variables))
        return {name: (place / name).read_bytes() for name in (*names, "timm.safetensors")}

    def _run(self) -> Files:
        """What a run's folder says of it; its checkpoints are the worker's to stand in for."""
        config, data = small_config(self.csv), read_data(self.csv)
        identity = configs.identity(config, {k: r.fingerprint for k, r in data.roles.items()})
        about = train.about_run(config, data, identity)
        hashes = io.BytesIO()
        np.save(hashes, np.arange(7, dtype=np.uint64))
        return {
            workdir.RUN_FILE: json.dumps(about).encode(),
            workdir.HASHES_FILE: hashes.getvalue(),
        }

    def _votes(self, rows: int) -> bytes:
        from fer_jax.data.sidecars import COLUMNS

        line = ",".join(["Training", "fer.png", *"4010300020"])
        return "\n".join([",".join(["Usage", "Image name", *COLUMNS]), *[line] * rows]).encode()

    def _pictures(self) -> Files:
        from skimage import data

        face = cv2.resize(data.astronaut()[:256, 128:384, ::-1], (128, 128))
        kinds = ("png", "jpg", "webp", "bmp", "tiff")
        found = {f"face.{kind}": cv2.imencode(f".{kind}", face)[1].tobytes() for kind in kinds}
        path = str(self.folder / "film.avi")
        film = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 5, (128, 128))
        for _ in range(2):
            film.write(face)
        film.release()
        return found | {"film.avi": Path(path).read_bytes()}

    def warm_up(self) -> None:
        """Good inputs: what is imported or compiled once is no other's time, memory or writing."""
        out = self.folder / "warm"
        models = ["--source=fer_jax", f"--input={self.folder}/ours.safetensors"]
        (out / "in").mkdir(parents=True)
        (out / "in" / "face.png").write_bytes(self.pictures["face.png"])
        recognised = [f"--model={self.folder}/mini.safetensors", "--detector=none"]
        for door, arguments in {
            "audit": [f"--data={self.csv}", f"--output={out}/audit"],
            "main": self._main(),
            "convert": [*models, f"--output={out}/m.safetensors"],
            "recognise": [f"{out}/in", *recognised, f"--output={out}/x.csv", f"--draw={out}/d"],
        }.items():
            outcome = call(door, arguments)
            assert outcome.status == 0, f"{door}: {outcome.err}"

    # Data: read by prepare.

    def readers(self) -> dict[str, Case]:
        """By name, those that this environment can try."""
        found: dict[str, Case] = {
            "folder of images": self.of_folder,
            "zip": lambda *case: self._prepared("data.zip", self._packed(as_zip, case), *case),
            "tar": lambda *case: self._prepared("data.tar.gz", self._packed(as_tar, case), *case),
            "CSV": self.of_csv,
            "Parquet": self.of_parquet,
            "prepared records": self.of_records,
            "model file": self._converted("ours.safetensors", spoil_header, "--source=fer_jax"),
            "Keras .h5, weights": self._converted("plain.h5", spoil_hdf5, *KERAS),
            "Keras .h5, whole": self._converted("whole.h5", spoil_hdf5, *KERAS),
            "Keras .weights.h5": self._converted("new.weights.h5", spoil_hdf5, *KERAS),
            "Keras .keras": self._converted("model.keras", spoil_archive, *KERAS),
            "safetensors": self._converted("timm.safetensors", spoil_header, *TIMM),
            "a run's run.json": self.of_run,
            "config overrides": self.of_overrides,
            "lists of keys": self.of_keys,
            "targets .npz": self.of_targets,
            "FER+ votes": self.of_votes,
            "predictions, reports": self.of_reports,
            "pictures": self.of_pictures,
        }
        if "timm.pth" in self.models:
            found["PyTorch .pth"] = self._converted("timm.pth", spoil_pickle, *TIMM)
        return found

    def _packed(self, pack: Callable[[Files, Random], bytes], case: Any) -> bytes:
        draw = case[2]
        files = spoil_members(self.images, draw) if draw.random() < 0.7 else self.images
        data = pack(files, draw)
        return spoil_bytes(data, draw) if draw.random() < 0.4 else data

    def _prepared(self, name: str, data: bytes, place: Path, out: Path, draw: Random) -> Any:
        (place / name).write_bytes(data)
        return self._prepare(place / name, out, draw)

    def _prepare(self, source: Path, out: Path, draw: Random) -> Any:
        if draw.random() < 0.05:
            return "audit", [f"--data={source}", f"--output={out}/audit"]
        flags = [f"--source={source}", f"--output={out}/made"]
        return "prepare", [*flags, f"--on_corrupt={draw.choice(('stop', 'skip'))}"]

    def of_folder(self, place: Path, out: Path, draw: Random) -> Any:
        """Class folders."""
        as_folder(spoil_members(self.images, draw), place / "data", draw)
        return self._prepare(place / "data", out, draw)

    def of_csv(self, place: Path, out: Path, draw: Random) -> Any:
        """FER2013's table, in both orders of columns."""
        spoil = draw.choice((spoil_bytes, spoil_table, spoil_table))
        data = spoil(draw.choice(self.tables), draw)
        return self._prepared(draw.choice(("fer2013.csv", "x.csv")), data, place, out, draw)

    def of_parquet(self, place: Path, out: Path, draw: Random) -> Any:
        """As `datasets` writes it, in a folder."""
        import pyarrow as pa
        from pyarrow import parquet

        pictures = [*self.images.values()][:7]
        columns: dict[str, Any] = {
            "image": [{"bytes": data, "path": None} for data in pictures],
            "label": list(range(7)),
        }
        if draw.random() < 0.7:
            odd = ([None] * 7, [b"x"] * 7, [1.5] * 7, ["angry"] * 7, [[1]] * 7, pictures)
            name = draw.choice(("image", "label", "split"))
            columns[name] = draw.choice((*odd, [draw.choice((-1, 7, 2**40))] * 7))
        out_file = io.BytesIO()
        parquet.write_table(pa.table(columns), out_file, row_group_size=draw.choice((1, 7)))
        data = out_file.getvalue()
        data = spoil_bytes(data, draw) if draw.random() < 0.5 else data
        (place / "data").mkdir()
        (place / "data" / f"{draw.choice(('train', 'test', 'x'))}.parquet").write_bytes(data)
        door, flags = self._prepare(place / "data", out, draw)
        return door, [*flags, f"--label_order={','.join(LABELS)}"]

    def of_records(self, place: Path, out: Path, draw: Random) -> Any:
        """What prepare wrote."""
        files = dict(self.records)
        name = draw.choice(list(files))
        spoil = spoil_json if name.endswith(".json") and draw.random() < 0.7 else spoil_bytes
        files[name] = spoil(files[name], draw)
        if draw.random() < 0.1:
            del files[name]
        as_folder(files, place / "data", draw)
        return self._prepare(place / "data", out, draw)

    # Models: read by convert.

    def _converted(self, name: str, spoil: Callable[[bytes, Random], bytes], *told: str) -> Case:
        def case(place: Path, out: Path, draw: Random) -> Any:
            way = spoil if draw.random() < 0.7 else spoil_bytes
            (place / name).write_bytes(way(self.models[name], draw))
            return "convert", [f"--input={place / name}", f"--output={out}/m.safetensors", *told]

        return case

    def of_run(self, place: Path, out: Path, draw: Random) -> Any:
        """A run to convert, or to go on with."""
        files = dict(self.run)
        name = workdir.RUN_FILE if draw.random() < 0.8 else workdir.HASHES_FILE
        spoil = spoil_bytes if name == workdir.HASHES_FILE or draw.random() < 0.2 else spoil_json
        files[name] = spoil(files[name], draw)
        as_folder(files, place / "run", draw)
        if draw.random() < 0.3:
            return "main", self._main(f"--workdir={place}/run")
        flags = [f"--input={place}/run", f"--output={out}/m.safetensors"]
        return "convert", ["--source=fer_jax", *flags]

    # What a training run is told: main, up to where it would compile.

    def _main(self, *flags: str) -> list[str]:
        settings = [f"--config.{key}={value}" for key, value in SMALL.items()]
        return [
            *(f"--config={CONFIG}", f"--config.data.path={self.csv}", *settings, "--dry_run"),
            *flags,
        ]

    def of_overrides(self, place: Path, out: Path, draw: Random) -> Any:
        """Keys of the config with odd values."""
        keys = [*configs.load_config(CONFIG, CONFIG.name).to_dict().items()]
        flat = [(f"{s}.{k}", v) for s, kv in keys if isinstance(kv, dict) for k, v in kv.items()]
        flags = []
        for _ in range(draw.choice((1, 1, 2))):
            name, value = draw.choice(flat)
            near = (value, f"-{value}", f"{value}{value}", "9" * 30, "1e-30", "0", "1", "True")
            flags.append(f"--config.{name}={draw.choice((*ODD, *near))!s}")
        if draw.random() < 0.1:
            flags.append(
                spoil_bytes(flags[0].encode(errors="replace"), draw).decode(errors="replace")
            )
        return "main", self._main(*(flag.replace("\0", "") for flag in flags))

    def of_keys(self, place: Path, out: Path, draw: Random) -> Any:
        """What to exclude."""
        odd = "\n".join(str(draw.choice(ODD)) for _ in range(3))
        data = draw.choice((spoil_bytes(self.keys, draw), odd.encode("utf-8", "surrogatepass")))
        (place / "keys.txt").write_bytes(data)
        return "main", self._main(f"--config.data.exclude={place}/keys.txt")

    def of_targets(self, place: Path, out: Path, draw: Random) -> Any:
        """Soft targets."""
        made, keys = io.BytesIO(), np.array(self.keys.decode().split("\n"))
        np.savez(made, key=keys, probabilities=np.full((len(keys), 7), 1 / 7, np.float32))
        spoil = draw.choice((spoil_arrays, spoil_bytes))
        (place / "targets.npz").write_bytes(spoil(made.getvalue(), draw))
        return "main", self._main(f"--config.data.targets={place}/targets.npz")

    # The rest.

    def of_votes(self, place: Path, out: Path, draw: Random) -> Any:
        """FER+'s table."""
        spoil = draw.choice((spoil_bytes, spoil_table))
        (place / "votes.csv").write_bytes(spoil(self.votes, draw))
        flags = [f"--data={self.csv}", f"--ferplus={place}/votes.csv"]
        return "targets", [*flags, f"--output={out}/targets.npz"]

    def of_reports(self, place: Path, out: Path, draw: Random) -> Any:
        """Predictions to compare, a report to take a temperature from."""
        answers, count = io.BytesIO(), 8
        shares = np.full((count, 7), 1 / 7)
        arrays = {
            "key": np.array([*"abcdefgh"]),
            "label": np.arange(count) % 7,
            "loss": shares[:, 0],
        }
        np.savez(answers, probabilities=shares, **arrays)
        report = {"tta": "none", "temperature": 1, "members": [{}], "split": "test"} | {
            "answers": "plain",
            "temperature_scaling": {"temperature": 1.1, "label_smoothing": 0.1},
        }
        files = {"predictions.npz": answers.getvalue(), "report.json": json.dumps(report).encode()}
        as_folder(files, place / "good", draw)
        name = draw.choice(list(files))
        spoil = draw.choice((spoil_arrays, spoil_bytes)) if name.endswith("npz") else spoil_json
        files[name] = spoil(files[name], draw)
        as_folder(files, place / "odd", draw)
        if name == "report.json":
            flags = [f"--input={self.folder}/ours.safetensors", f"--report={place}/odd"]
            return "convert", ["--source=fer_jax", *flags, f"--output={out}/m.safetensors"]
        flags = [f"{place}/good", f"{place}/odd", f"--output={out}/c", "--bootstrap_samples=10"]
        return "compare", flags

    def of_pictures(self, place: Path, out: Path, draw: Random) -> Any:
        """A folder to recognise, at times with the rows of a stopped run."""
        name = draw.choice(list(self.pictures))
        (place / name).write_bytes(spoil_picture(self.pictures[name], draw))
        if draw.random() < 0.2:
            (place / "good.png").write_bytes(self.pictures["face.png"])
        if draw.random() < 0.1:
            os.mkfifo(place / "pipe.png")
        flags = [f"--model={self.folder}/mini.safetensors", f"--output={out}/rows.jsonl"]
        if draw.random() < 0.2:  # as if continued
            row = json.dumps({"file": str(place / "good.png"), "face": 0}).encode()
            rows = row + b"\n" + spoil_json(row, draw) + b"\n" + spoil_bytes(row, draw) + b"\n"
            (out / "rows.jsonl").write_bytes(rows)
        drawn = [f"--draw={out}/drawn"] if draw.random() < 0.3 else []
        return "recognise", [str(place), *flags, "--detector=none", *drawn]


KERAS = ("--source=keras", "--variant=tiny", "--image_size=96", "--head_padding=valid")
TIMM = ("--source=timm", "--variant=tiny", "--image_size=96")


def spoil_archive(data: bytes, draw: Random) -> bytes:
    """A .keras of which a member is spoiled."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice(list(files))
    if draw.random() < 0.2:
        return as_zip(spoil_members(files, draw), draw)
    spoil = spoil_json if name.endswith(".json") else spoil_hdf5
    return as_zip(files | {name: spoil(files[name], draw)}, draw)


def spoil_pickle(data: bytes, draw: Random) -> bytes:
    """A .pth whose pickle runs a command, or whose members are spoiled."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = draw.choice([name for name in files if draw.random() < 0.5 or name.endswith(".pkl")])
    run = b"cos\nsystem\n(S'touch executed'\ntR."
    if draw.random() < 0.2:
        return run
    return as_zip(files | {name: draw.choice((run, spoil_bytes(files[name], draw)))}, draw)
