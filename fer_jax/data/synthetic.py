"""Drawn faces: seven expressions, random identity, pose, light and noise, 48x48 grey as FER2013.

No expression is ambiguous on purpose: a person reads every face. Place, pose, light and identity
vary, which defeats a linear model on pixels but not a convolutional one.
"""

import math
from collections.abc import Mapping

import cv2
import numpy as np

from fer_jax.labels import LABELS

SIDE = 48
COUNTS = {  # per class in the order of LABELS; uneven as FER2013 is, but milder
    "train": (700, 300, 750, 1000, 850, 800, 600),
    "validation": (112, 48, 120, 160, 136, 128, 96),
}
IDENTITIES = {"train": range(1000), "validation": range(1_000_000, 1_000_160)}

_SCALE = 4  # drawn this much larger, then averaged down
_SHIFT = 4  # bits behind the binary point in OpenCV's coordinates

Values = Mapping[str, float]

# fmt: off
PERSON = {  # ranges of a face's own values; lengths in half its height, y down, tones 0..255
    # head; hair_length is the y of the hair's lower end, the fringe lower at the temples
    "width": (0.70, 0.86), "jaw": (0.55, 0.95), "skin": (85.0, 215.0), "hair": (15.0, 235.0),
    "hairline": (-1.0, -0.62), "fringe": (-0.3, 0.5), "hair_volume": (0.02, 0.2),
    "hair_length": (-0.9, 1.2), "clothes": (10.0, 245.0),
    # eyes and brows; brow_height is above the eye, brow_tone a fraction of the skin's
    "eye_distance": (0.31, 0.38), "eye_height": (-0.20, -0.10), "eye_width": (0.17, 0.21),
    "iris": (20.0, 110.0), "brow_height": (-0.25, -0.21), "brow_thickness": (0.05, 0.085),
    "brow_tone": (0.2, 0.45),
    # nose and mouth; glasses and beard are worn where positive
    "nose_tip": (0.16, 0.27), "nose_width": (0.09, 0.15), "mouth_height": (0.50, 0.58),
    "mouth_size": (0.92, 1.12), "lip": (0.035, 0.07), "lip_tone": (0.5, 0.75),
    "glasses": (-0.8, 0.2), "beard": (-0.8, 0.2),
}
VIEW = {  # where the camera stands and what it sees, drawn for each picture; angles in radians
    "right": (-0.12, 0.12), "down": (-0.12, 0.12), "roll": (-0.22, 0.22), "yaw": (-0.28, 0.28),
    "nod": (-0.08, 0.08), "height": (0.86, 1.08), "stretch": (0.92, 1.08),
    # light darkens from one side to the other; noise is a standard deviation in grey levels
    "background": (0.0, 255.0), "light_angle": (0.0, 2 * math.pi), "light": (0.0, 0.55),
    "gain": (0.7, 1.1), "offset": (-15.0, 40.0), "noise": (1.0, 7.0),
    # how strong the expression is, where the eyes look, and the sneer's side
    "intensity": (0.85, 1.2), "gaze": (-0.05, 0.05), "mirror": (-1.0, 1.0),
}
FEATURES = (  # widths and openings are half of them; teeth are a fraction of the mouth's opening,
    # which is an almond at square 0 and a box at 1; slant is the brows' inner end down
    "brow_raise", "brow_slant", "brow_arch", "eye_open", "mouth_width", "mouth_smile", "mouth_open",
    "mouth_square", "teeth", "sneer", "nose_wrinkles", "frown", "folds",
)
EXPRESSIONS = {name: dict(zip(FEATURES, values, strict=True)) for name, values in {
    # raise   slant  arch  eyes   width  smile  open   square teeth sneer wrinkl frown folds
    "angry": (-0.07, 0.11, 0.0, 0.075, 0.25, -0.06, 0.075, 1.0, 1.0, 0.0, 0.0, 1.0, 0.0),
    "disgust": (-0.05, 0.03, 0.04, 0.035, 0.29, -0.12, 0.03, 0.0, 0.0, 0.14, 1.0, 0.0, 1.0),
    "fear": (0.10, -0.09, 0.0, 0.165, 0.36, -0.07, 0.11, 0.6, 0.4, 0.0, 0.0, 0.0, 0.0),
    "happy": (0.0, 0.0, 0.07, 0.075, 0.40, 0.19, 0.10, 0.0, 0.8, 0.0, 0.0, 0.0, 0.7),
    "neutral": (0.0, 0.0, 0.04, 0.10, 0.29, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "sad": (0.02, -0.12, 0.0, 0.06, 0.25, -0.17, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0),
    "surprise": (0.15, 0.0, 0.12, 0.185, 0.17, 0.0, 0.21, 0.25, 0.0, 0.0, 0.0, 0.0, 0.0),
}.items()}
# fmt: on

_T = np.linspace(-1, 1, 17)  # runs along lids, brows and lips
_CIRCLE = np.exp(2j * math.pi * np.arange(32) / 32)


def faces(role: str) -> tuple[np.ndarray, np.ndarray]:
    """images uint8 [N, 48, 48], labels int32 [N] of `train` or `validation`: the same every time.

    The roles have no identity in common.
    """
    labels = np.repeat(np.arange(len(LABELS), dtype=np.int32), COUNTS[role])
    people = IDENTITIES[role]
    images = np.empty((len(labels), SIDE, SIDE), np.uint8)
    for number, label in enumerate(labels):
        images[number] = draw_face(LABELS[label], people[number % len(people)], number)
    return images, labels


def draw_face(expression: str, identity: int, seed: int) -> np.ndarray:
    """uint8 [48, 48]: person `identity` with `expression`, seen in the view number `seed`."""
    # The two streams keep a person's draws apart from a picture's.
    person = _choose(PERSON, np.random.default_rng([1, identity]))
    rng = np.random.default_rng([2, identity, LABELS.index(expression), seed])
    view = _choose(VIEW, rng)
    face = {
        name: value + view["intensity"] * (EXPRESSIONS[expression][name] - value)
        for name, value in EXPRESSIONS["neutral"].items()
    }
    canvas = _Canvas()
    _draw_head(canvas, person)
    _draw_eyes(canvas, person, face, view["gaze"])
    _draw_nose(canvas, person, face)
    _draw_mouth(canvas, person, face, math.copysign(1, view["mirror"]))
    _draw_brows(canvas, person, face)
    _draw_glasses(canvas, person)
    return _expose(canvas.draw(view), view, rng)


def _choose(ranges: Mapping[str, tuple[float, float]], rng: np.random.Generator) -> Values:
    """One value of each range. Only `random` is drawn from: its stream is fixed by NumPy."""
    draws = iter(rng.random(len(ranges)).tolist())
    return {name: low + (high - low) * next(draws) for name, (low, high) in ranges.items()}


class _Canvas:
    """Takes shapes of the face, complex [n] with a point as x + iy, and draws them as seen."""

    def __init__(self) -> None:
        self._shapes: list[tuple[np.ndarray, bool, tuple[float, float, bool]]] = []

    def fill(self, points: np.ndarray, tone: float, on_face: bool = True) -> None:
        self._shapes.append((points, on_face, (tone, 0, True)))

    def line(self, points: np.ndarray, tone: float, thickness: float, closed: bool = False) -> None:
        self._shapes.append((points, True, (tone, thickness, closed)))

    def draw(self, view: Values) -> np.ndarray:
        """uint8 [4 * 48, 4 * 48]: the shapes in the order of their coming."""
        side = SIDE * _SCALE
        unit = view["height"] * side / 2
        given, turning, styles = zip(*self._shapes, strict=True)
        sizes = [len(points) for points in given]
        points, on_face = np.concatenate(given), np.repeat(turning, sizes)

        # What is on the face turns with it, as on an upright cylinder.
        turned = np.sin(np.arcsin(np.clip(points.real, -1, 1)) + view["yaw"])
        x = view["stretch"] * np.where(on_face, turned, points.real)
        y = points.imag + view["nod"] * on_face
        turn = unit * complex(math.cos(view["roll"]), math.sin(view["roll"]))
        centre = side / 2 * complex(1 + view["right"], 1 + view["down"])
        pixels = (1 << _SHIFT) * ((x + 1j * y) * turn + centre)
        whole = np.rint(pixels.view(np.float64).reshape(-1, 2)).astype(np.int32)

        picture = np.full((side, side), view["background"], np.uint8)
        outlines = np.split(whole, np.cumsum(sizes[:-1]))
        for outline, (tone, thickness, closed) in zip(outlines, styles, strict=True):
            if thickness:
                width = max(1, round(thickness * unit))
                cv2.polylines(picture, [outline], closed, tone, width, cv2.LINE_8, _SHIFT)
            else:
                cv2.fillPoly(picture, [outline], tone, cv2.LINE_8, _SHIFT)
        return picture


def _ellipse(x: float, y: float, width: float, height: float) -> np.ndarray:
    """complex [32]: from the right, downwards first."""
    return complex(x, y) + width * _CIRCLE.real + 1j * height * _CIRCLE.imag


def _band(x: np.ndarray, upper: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """The outline of what lies between two curves over the same x."""
    return np.concatenate([x + 1j * upper, (x + 1j * lower)[::-1]])


def _draw_head(canvas: _Canvas, person: Values) -> None:
    width, skin, hair = person["width"], person["skin"], person["hair"]
    canvas.fill(_ellipse(0, 2.1, 1.5, 0.95), person["clothes"], on_face=False)
    canvas.fill(_ellipse(0, 0.95, 0.4 * width, 0.7), 0.7 * skin, on_face=False)
    back = _ellipse(0, 0, width + person["hair_volume"], 1 + person["hair_volume"])
    canvas.fill(back[back.imag < person["hair_length"]], hair, on_face=False)
    for side in (-1, 1):
        canvas.fill(_ellipse(side * width, 0, 0.1, 0.2), 0.85 * skin, on_face=False)
    narrowing = 1 - (1 - person["jaw"]) * np.maximum(_CIRCLE.imag, 0) ** 2
    outline = width * _CIRCLE.real * narrowing + 1j * _CIRCLE.imag
    canvas.fill(outline, skin, on_face=False)
    if person["beard"] > 0:
        canvas.fill(outline[outline.imag > 0.1], 0.6 * skin, on_face=False)
        canvas.fill(_ellipse(0, 0.15, 0.7 * width, 0.55), skin, on_face=False)
    top = -np.sqrt(1 - _T**2)
    brim = np.maximum(top, person["hairline"] + person["fringe"] * _T**2)
    canvas.fill(_band(width * _T, top, brim), hair, on_face=False)


def _draw_eyes(canvas: _Canvas, person: Values, face: Values, gaze: float) -> None:
    half, opened = person["eye_width"], face["eye_open"]
    upper, lower = -opened * (1 - _T**2), 0.75 * opened * (1 - _T**4)
    iris = _ellipse(gaze, 0, 0.1, 0.1)
    t = iris.real / half
    iris.imag = np.clip(iris.imag, -opened * (1 - t**2), 0.75 * opened * (1 - t**4))
    for side in (-1, 1):
        centre = complex(side * person["eye_distance"], person["eye_height"])
        canvas.fill(centre + _band(half * _T, upper, lower), 250)
        canvas.fill(centre + iris, person["iris"])
        canvas.line(centre + half * _T + 1j * upper, 0.25 * person["skin"], 0.035)
        canvas.line(centre + half * _T + 1j * lower, 0.6 * person["skin"], 0.02)


def _draw_brows(canvas: _Canvas, person: Values, face: Values) -> None:
    tone = person["brow_tone"] * person["skin"]
    y = person["eye_height"] + person["brow_height"] - face["brow_raise"]
    height = y - face["brow_slant"] * _T - face["brow_arch"] * (1 - _T**2)
    for side in (-1, 1):
        x = side * (person["eye_distance"] + 0.02 + 0.21 * _T)
        canvas.line(x + 1j * height, tone, person["brow_thickness"])
        if face["frown"] > 0:
            fold = np.array([0.05 * side + 1j * (y + 0.18), 0.06 * side + 1j * (y - 0.08)])
            canvas.line(fold, 0.55 * person["skin"], 0.03)


def _draw_nose(canvas: _Canvas, person: Values, face: Values) -> None:
    skin, half = person["skin"], person["nose_width"]
    tip = person["nose_tip"] - 0.05 * face["nose_wrinkles"]
    canvas.line(half * _T + 1j * (tip + 0.03 - 0.05 * _T**2), 0.6 * skin, 0.04)
    for side in (-1, 1):
        canvas.fill(_ellipse(0.55 * side * half, tip, 0.04, 0.03), 0.35 * skin)
    if face["nose_wrinkles"] > 0:
        for y in (-0.14, -0.04, 0.06):
            canvas.line(0.13 * _T + 1j * (y + 0.06 * _T**2), 0.5 * skin, 0.03)


def _draw_mouth(canvas: _Canvas, person: Values, face: Values, sneering: float) -> None:
    x = face["mouth_width"] * person["mouth_size"] * _T
    opening = face["mouth_open"] * (1 - np.abs(_T) ** (2 + 6 * face["mouth_square"]))
    middle = person["mouth_height"] - face["mouth_smile"] * (_T**2 - 0.4)
    sneer = face["sneer"] * np.exp(-(((_T - 0.5 * sneering) / 0.35) ** 2))
    upper, lower = middle - opening - sneer, middle + opening - 0.2 * sneer
    lip = person["lip"] * (1 - 0.8 * _T**2)
    dark = 0.15 * person["skin"]
    canvas.fill(_band(x, upper - lip, lower + 1.3 * lip), person["lip_tone"] * person["skin"])
    canvas.fill(_band(x, upper, lower), dark)
    if face["teeth"] > 0:
        canvas.fill(_band(0.95 * x, upper, upper + face["teeth"] * (lower - upper)), 245)
    canvas.line(x + 1j * upper, dark, 0.03)
    if face["folds"] > 0:
        for side in (-1, 1):
            start = side * (person["nose_width"] + 0.06) + 1j * (person["nose_tip"] - 0.05)
            end = side * (x[-1] + 0.1) + 1j * (person["mouth_height"] - 0.02)
            canvas.line(np.array([start, end]), 0.6 * person["skin"], 0.03)


def _draw_glasses(canvas: _Canvas, person: Values) -> None:
    if person["glasses"] <= 0:
        return
    height = person["eye_height"] + 0.02
    for side in (-1, 1):
        rim = _ellipse(side * person["eye_distance"], height, 0.27, 0.23)
        canvas.line(rim, 30, 0.025, closed=True)
    canvas.line(np.array([-0.06, 0.06]) + 1j * (height - 0.03), 30, 0.025)


def _expose(picture: np.ndarray, view: Values, rng: np.random.Generator) -> np.ndarray:
    """Averages down to 48x48, lights it from one side, adds noise and rounds to uint8."""
    small = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(np.float64)
    place = np.linspace(-0.5, 0.5, SIDE)
    slope = math.cos(view["light_angle"]) * place + math.sin(view["light_angle"]) * place[:, None]
    small *= view["gain"] * (1 - view["light"] * (0.5 + slope))
    # The sum of three uniform numbers is near enough to normal, and of unit variance when doubled.
    noise = 2 * (rng.random((3, SIDE, SIDE)).sum(axis=0) - 1.5)
    small += view["offset"] + view["noise"] * noise
    return np.clip(np.rint(small), 0, 255).astype(np.uint8)
