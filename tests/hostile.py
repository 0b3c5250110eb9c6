"""Hostile inputs: of each reader a small good one, spoiled by a draw."""

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
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
from spoiling import (
    ODD,
    Files,
    Random,
    as_folder,
    as_tar,
    as_zip,
    spoil_archive,
    spoil_arrays,
    spoil_bytes,
    spoil_hdf5,
    spoil_header,
    spoil_json,
    spoil_members,
    spoil_pickle,
    spoil_picture,
    spoil_table,
)
from support import CONFIG, SMALL, call, read_data, small_config

from fer_jax import config as configs
from fer_jax import model_file, train, workdir
from fer_jax.labels import LABELS
from fer_jax.models.classifier import describe, make_model, variable_shapes

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
        np.save(hashes, np.arange(14, dtype=np.uint64).reshape(7, 2))
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
        report = {"tta": "none", "temperature": 1, "split": "test"} | {
            "members": [{"checkpoint": "ours.safetensors"}],
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
