"""Seeded ways to spoil a good file: its bytes, its values, its members, its container."""

import io
import json
import os
import random
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

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
                array = odd_array(draw)
                array = array.astype("i8") if array.dtype.kind in "mM" else array
                texts = draw.random() < 0.3 or array.dtype.kind in "SU"
                owner.attrs[name] = array.astype("S8" if texts else "f4")
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
