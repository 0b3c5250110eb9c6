"""A trained model that people can ask: pictures in, for each the faces with calibrated answers."""

import collections
import contextlib
import functools
import itertools
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np
from PIL import Image
from scipy.special import log_softmax, logsumexp, softmax

from fer_jax import cache, trained
from fer_jax.config import packaged
from fer_jax.data.augment import resize
from fer_jax.data.images import quiet_pillow
from fer_jax.errors import UserError
from fer_jax.evaluation import inference as augmented
from fer_jax.evaluation.predictions import VIEWS
from fer_jax.labels import LABELS
from fer_jax.model_file import calibrated
from fer_jax.models import folded
from fer_jax.models.classifier import describe
from fer_jax.models.folded import PIECE, in_pieces
from fer_jax.recognition import faces, pictures
from fer_jax.recognition.pictures import Picture
from fer_jax.sections import Section, key
from fer_jax.training import mesh as meshes

SHIPPED = "fer2013_b2.safetensors"
HUB = "hf://"  # then user/name of a repository: nothing is fetched that was not asked for by this
FEW = 4  # faces, as one picture may have, for which there is a program
THREADS = 2  # that read pictures and find faces ahead of the model
NEAR = 0.5  # of a box's side: how far a face may move from frame to frame

Cut = tuple[np.ndarray, dict[str, Any]]  # uint8 [S, S, 3] for the model; a Face's other fields


@dataclass(frozen=True, kw_only=True)
class Face:
    """One face and what the model says of it. Pixels are the upright picture's."""

    box: tuple[float, ...]  # left, top, width, height
    landmarks: tuple[tuple[float, ...], ...] | None = None  # eyes, nose, mouth's corners: (x, y)
    detection: float | None = None  # how sure the detector is, 0..1
    label: str | None  # None where it abstained
    confidence: float  # the largest probability, 0..1
    probabilities: dict[str, float]  # at the model's temperature
    abstained: bool
    frame: int | None  # of a video, from 0
    time: float | None  # seconds from a video's start
    logits: tuple[float, ...] = field(repr=False)  # before the temperature


class Faces(list[Face]):
    """The faces of one picture; `error` says why there are none where it could not be read."""

    def __init__(self, given: Iterable[Face], picture: Picture) -> None:
        """Of `picture`, which has its pixels only where Options.pixels asked for them."""
        super().__init__(given)
        self.picture, self.file, self.error = picture, picture.file, picture.error
        self.frame, self.time = picture.frame, picture.time


@dataclass(frozen=True)
class Options(Section):
    """How pictures are answered, as `Recognizer.predict` and `predict_video` say."""

    batch_size: int = key(1, 4096, default=64)
    crop: str = key(choices=("detect", "whole"), default="detect")
    min_face: int = key(12, 4096, default=40)
    min_confidence: float = key(0, 1, default=0.0)
    tta: str = key(choices=tuple(VIEWS), default="none")
    smoothing: float = key(0, 0.99, default=0.0)
    pixels: bool = key(default=False)  # kept, to draw into


def load(path: str | os.PathLike[str] | None = None, detector: str = "auto") -> "Recognizer":
    """The shipped weights, a model file, a run's folder or a Hub's, or `hf://user/name`.

    `detector` is `auto` (MTCNN, the extra `faces`), the path of a YuNet file, or `none`: then each
    picture is taken for a face. Programs that JAX compiles are kept in the platform's cache folder,
    unless JAX_COMPILATION_CACHE_DIR says where already. UserError where `path` is no model.
    """
    cache.keep_programs()
    place = packaged("weights", SHIPPED) if path is None else pathlib.Path(path).expanduser()
    if isinstance(path, str) and path.startswith(HUB):
        from fer_jax.conversion import hub

        place = hub.fetch(path.removeprefix(HUB))
    return Recognizer(trained.load(place), detector)


def inference(model: Any, arrays: Any, shape: tuple[int, ...]) -> Callable[[Any], jax.Array]:
    """Compiled: uint8 [B, S, S, 3] = `shape` -> float32 [B, K] by `folded.ready`'s arrays."""

    def infer(arrays: Any, images: jax.Array) -> jax.Array:
        return in_pieces(functools.partial(folded.logits, model, arrays), images)

    images = jax.ShapeDtypeStruct(shape, np.uint8)
    program = cache.traced(infer, str(describe(model)), arrays, images)
    options = meshes.on_cpu(meshes.ANSWERING)
    return functools.partial(program.lower(arrays, images).compile(options), arrays)


class Recognizer:
    """A model with its detector; `load` makes one."""

    def __init__(self, model: trained.Trained, detector: str) -> None:
        """`detector` as in `load`; UserError where it is a file and no YuNet."""
        self.model, self.size = model, model.about.image_size
        self.detector = detector
        network = model.evaluator.model
        arrays = jax.device_put(folded.ready(network, model.variables))
        self._program = functools.cache(functools.partial(inference, network, arrays))
        self._views = jax.jit(augmented.views, static_argnames="kind")
        self._pool, self._asking = (ThreadPoolExecutor(n) for n in (THREADS, augmented.ASKING))
        self._detect = functools.cache(functools.partial(faces.open_detector, detector))
        if detector not in ("auto", "none"):
            self._detect()

    def predict(
        self,
        images: Any,
        batch_size: int = 64,
        crop: Any = "detect",
        min_face: int = 40,
        min_confidence: float | None = None,
        tta: str = "none",
    ) -> list[Faces]:
        """The faces of each image, in their order: always a list of lists.

        `images` are paths, folders, encoded bytes, Pillow images, uint8 RGB arrays [H, W, 3], or a
        list of them. `crop`: `detect` finds faces of at least `min_face` pixels; `whole` takes the
        image for a face, as fer_jax.evaluate does; or boxes (left, top, width, height) in pixels,
        of several images a list for each. An image without a face gives [], one that cannot be
        read [] whose `error` says why. Below `min_confidence` the label is None. `tta` as in
        fer_jax.evaluate. UserError for other types and values.
        """
        alone = isinstance(images, str | bytes | os.PathLike | Image.Image)
        alone = alone or not np.iterable(images) or getattr(images, "ndim", 4) < 4
        items, boxes = [images] if alone else images, None
        if isinstance(crop, str):
            items = pictures.files(items)
        else:
            each = crop if np.iterable(crop) and not alone else [crop]
            boxes, crop = [_boxes(own) for own in each], "whole"
            if len(boxes) != len(items):
                raise UserError(f"crop has boxes of {len(boxes)} images, not of {len(items)}")
        options = Options(batch_size, crop, min_face, min_confidence or 0.0, tta)
        with quiet_pillow():
            return list(self.stream(items, options, boxes))

    def predict_video(
        self,
        source: str | os.PathLike[str] | int,
        every: int = 1,
        max_frames: int | None = None,
        **options: Any,
    ) -> Iterator[Faces]:
        """The faces of every `every`-th frame of a file or of camera number `source`, as they come.

        `options` as in `predict`; `smoothing`, from 0 to 0.99, is the share of a face's logits that
        comes from the nearest face of the frame before. Memory does not grow with the video.
        """
        if every < 1 or (max_frames is not None and max_frames < 1):
            raise UserError(f"every={every}, max_frames={max_frames}: both must be from 1")
        given = {name: value for name, value in options.items() if value is not None}
        frames = pictures.video(source, every, max_frames)
        batch_size = 1 if isinstance(source, int) else PIECE
        settings = Options(**{"batch_size": batch_size} | given)
        return self.smoothed(self.stream(frames, settings), settings)

    def stream(
        self, items: Iterable[Any], options: Options, boxes: Iterable[Any] | None = None
    ) -> Iterator[Faces]:
        """The faces of each image or Picture, in order, `batch_size` pictures at a time.

        Threads read a few pictures ahead. `boxes` [N, 4] for each image are its faces.
        """
        given = zip(items, itertools.repeat(None) if boxes is None else boxes, strict=False)
        jobs = (functools.partial(self._find, item, options, own) for item, own in given)
        read = self._ahead(jobs, 2 * THREADS if options.batch_size > 1 else 0)
        while batch := list(itertools.islice(read, options.batch_size)):
            logits = iter(self.logits([seen for _, cuts in batch for seen, _ in cuts], options))
            for picture, cuts in batch:
                said = [place | self._said(next(logits), options) for _, place in cuts]
                yield Faces([Face(**fields) for fields in said], picture)

    def smoothed(self, answers: Iterable[Faces], options: Options) -> Iterator[Faces]:
        """Exponential averages over frames: a share of each face's logits is its predecessor's."""
        before, file, share = list[Face](), None, options.smoothing
        for found in answers:
            if found.file != file:
                before, file = [], found.file
            for number, face in enumerate(found):
                past = _nearest(face, before) if share else None
                if past is not None:
                    mean = share * np.array(past.logits) + (1 - share) * np.array(face.logits)
                    found[number] = replace(face, **self._said(mean, options))
            if not found.picture.between:
                before = list(found)
            yield found

    def logits(self, images: Sequence[np.ndarray], options: Options) -> np.ndarray:
        """float64 [N, K] of N times uint8 [S, S, 3]; of several views the log of the mean answer.

        Two threads take halves of `batch_size` images, as in evaluation, padded to 1, 4, 16 or a
        whole half: no other program is ever compiled.
        """
        if not images:
            return np.empty((0, len(LABELS)))
        half = math.ceil(options.batch_size / (2 * PIECE)) * PIECE
        most, asked = min(half, options.batch_size), []
        for start in range(0, len(images), most):
            part = images[start : start + most]
            rows = min(next(n for n in (1, FEW, PIECE, most) if n >= len(part)), most)
            batch = np.zeros((rows, *part[0].shape), np.uint8)
            batch[: len(part)] = part
            shown = [batch] if options.tta == "none" else self._views(batch, kind=options.tta)
            asked.append((self._program(batch.shape), shown))
        each = self._asking.map if len(asked) > 1 else map
        views = np.concatenate(list(each(_answers, *zip(*asked, strict=True))), axis=1)
        views = views[:, : len(images)]  # only the last batch is padded
        if len(views) == 1:
            return views[0]
        return logsumexp(log_softmax(views, axis=-1), axis=0) - math.log(len(views))

    def seen(self, pixels: np.ndarray, box: Any, landmarks: Any) -> np.ndarray:
        """What the model takes of a face in uint8 [H, W, 1 or 3]: uint8 [S, S, 3].

        A box that is the whole picture is taken as fer_jax.evaluate takes it.
        """
        if tuple(box) != _whole(pixels):
            pixels = faces.cut(pixels, *faces.upright(box, landmarks))
        return np.broadcast_to(resize(pixels, self.size), (self.size, self.size, 3))

    def _ahead(self, jobs: Iterable[Callable[[], Any]], count: int) -> Iterator[Any]:
        """What the jobs return, in order; `count` are begun before they are asked for."""
        begun: collections.deque[Any] = collections.deque()
        for job in jobs:
            begun.append(self._pool.submit(job))
            if len(begun) > count:
                yield begun.popleft().result()
        while begun:
            yield begun.popleft().result()

    def _find(self, item: Any, options: Options, boxes: Any) -> tuple[Picture, list[Cut]]:
        """The picture, and its faces as the model takes them."""
        picture = pictures.read(item)
        pixels = picture.pixels
        if pixels is None or picture.between:
            return picture, []
        if boxes is None and options.crop == "detect" and self.detector != "none":
            colour = np.ascontiguousarray(np.broadcast_to(pixels, (*pixels.shape[:2], 3)))
            places = [_place(row) for row in self._detect()(colour, options.min_face).tolist()]
        else:
            given = [_whole(pixels)] if boxes is None else map(tuple, boxes.tolist())
            places = [{"box": box} for box in given]
        when = {"frame": picture.frame, "time": picture.time}
        cuts = [(self.seen(pixels, p["box"], p.get("landmarks")), p | when) for p in places]
        return picture if options.pixels else replace(picture, pixels=None), cuts

    def _said(self, logits: np.ndarray, options: Options) -> dict[str, Any]:
        """The fields of a Face that follow from its logits [K]."""
        probabilities = softmax(calibrated(logits, self.model.about))
        best = int(np.argmax(probabilities))
        abstained = bool(probabilities[best] < options.min_confidence)
        return {
            "label": None if abstained else LABELS[best],
            "confidence": float(probabilities[best]),
            "probabilities": dict(zip(LABELS, probabilities.tolist(), strict=True)),
            "abstained": abstained,
            "logits": tuple(logits.tolist()),
        }


def _boxes(given: Any) -> np.ndarray:
    """float [N, 4]; UserError where they are no boxes."""
    with contextlib.suppress(ValueError, TypeError):
        boxes = np.asarray(given, np.float64).reshape(-1, 4)
        if np.isfinite(boxes).all() and (boxes[:, 2:] >= 1).all():
            return boxes
    raise UserError(f"crop={given!r} are no boxes: give (left, top, width, height) in pixels")


def _place(row: Sequence[float]) -> dict[str, Any]:
    """The fields of a Face that a detector's row tells."""
    marks = tuple(zip(row[4:14:2], row[5:14:2], strict=True))
    return {"box": tuple(row[:4]), "landmarks": marks, "detection": row[14]}


def _whole(pixels: np.ndarray) -> tuple[float, ...]:
    """The box of a whole picture."""
    return (0.0, 0.0, float(pixels.shape[1]), float(pixels.shape[0]))


def _answers(program: Callable[[Any], jax.Array], views: Sequence[Any]) -> np.ndarray:
    """float64 [V, B, K] of V views."""
    return np.array([program(view) for view in views], np.float64)


def _nearest(face: Face, others: Sequence[Face]) -> Face | None:
    """The one whose box's centre is nearest, if that is less than NEAR of the box's side away."""

    def distance(other: Face) -> float:
        return math.dist(_centre(face.box), _centre(other.box))

    nearest = min(others, key=distance, default=face)
    return nearest if others and distance(nearest) < NEAR * max(face.box[2:]) else None


def _centre(box: Sequence[float]) -> tuple[float, float]:
    return box[0] + box[2] / 2, box[1] + box[3] / 2
