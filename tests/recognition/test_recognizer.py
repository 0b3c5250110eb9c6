"""The Python door: any image in, a list of lists out, in full batches and bounded memory."""

import dataclasses
import io
import itertools
import subprocess
import sys

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ExifTags, Image
from scipy.special import softmax
from support import ROOT, read_data

import fer_jax
from fer_jax import trained
from fer_jax.data import images
from fer_jax.errors import UserError
from fer_jax.labels import LABELS
from fer_jax.model_file import calibrated
from fer_jax.recognition import pictures
from fer_jax.recognition.pictures import Picture
from fer_jax.recognition.recognizer import Faces, Options, Recognizer

RNG = np.random.default_rng(0)
FACE = RNG.integers(0, 256, (48, 48, 3), np.uint8)


def probabilities(found) -> list[float]:
    (face,) = found
    return list(face.probabilities.values())


def encoded(picture: Image.Image, kind: str, **settings) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **settings)
    return buffer.getvalue()


def test_importing_the_package_is_light():
    code = "import fer_jax, sys; print(sorted({'jax', 'flax', 'cv2', 'numpy'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr


def test_the_package_names_what_it_lacks():
    with pytest.raises(AttributeError, match=r"fer_jax.*no attribute 'lod'"):
        fer_jax.lod  # noqa: B018


def test_whole_images_are_answered_as_evaluation_answers_them(model, small_csv):
    records = read_data(small_csv).split("validation")
    ours = model.model
    evaluated = ours.evaluator.predict(ours.variables, records, progress=False)
    answers = model.predict([records[i]["image"] for i in range(len(records))], crop="whole")
    found = np.array([probabilities(one) for one in answers])
    np.testing.assert_allclose(found, evaluated.probabilities, atol=1e-6)
    said = [LABELS.index(face.label) for (face,) in answers]
    assert said == evaluated.predicted.tolist()
    assert np.ptp(found, axis=0).max() > 0.01


def test_a_face_says_where_it_is_and_what_it_shows(model, astronaut):
    ((face,),) = model.predict(astronaut)
    assert isinstance(face, fer_jax.Face)
    assert face.box[0] < face.landmarks[0][0] < face.landmarks[1][0] < face.box[0] + face.box[2]
    assert (face.frame, face.time, face.abstained) == (None, None, False)
    assert list(face.probabilities) == list(LABELS)
    assert face.confidence == max(face.probabilities.values()) == face.probabilities[face.label]
    np.testing.assert_allclose(softmax(face.logits), probabilities([face]), atol=1e-12)


@pytest.mark.parametrize("one", [True, False])
def test_answers_are_always_nested_and_no_face_is_an_empty_list(model, one):
    blank = np.zeros((60, 60, 3), np.uint8)
    assert model.predict(blank if one else [blank, blank]) == ([[]] if one else [[], []])
    assert model.predict([]) == []


def test_every_kind_of_image_is_the_same_image(model, tmp_path):
    path = tmp_path / "face.png"
    Image.fromarray(FACE).save(path)
    kinds = [FACE, path, str(path), path.read_bytes(), Image.open(path), tmp_path]
    answers = model.predict(kinds, crop="whole")
    assert len({tuple(probabilities(one)) for one in answers}) == 1
    assert answers[1].file == answers[5].file == str(path)
    batch = model.predict(np.stack([FACE, FACE]), crop="whole")
    assert [face.label for (face,) in batch] == [face.label for (face,) in answers[:2]]
    for one, other in zip(batch, answers[:2], strict=True):  # four faces' program and 16 faces'
        np.testing.assert_allclose(probabilities(one), probabilities(other), atol=1e-6)


def test_an_array_of_jax_is_one_image_or_a_batch_too(model):
    (one,) = model.predict(jnp.asarray(FACE), crop="whole")
    assert [one] == model.predict(FACE, crop="whole")
    assert model.predict(jnp.asarray([FACE, FACE])) == model.predict([FACE, FACE])


def rotated() -> bytes:
    """EXIF of a camera that was held upright."""
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    return exif.tobytes()


@pytest.mark.parametrize(
    ("picture", "kind", "settings"),
    [
        (Image.fromarray(FACE[:, :40]), "JPEG", {"exif": rotated()}),
        (Image.fromarray(FACE).convert("CMYK"), "JPEG", {}),
        (Image.fromarray(np.dstack([FACE, FACE[..., 0]])), "PNG", {}),
        (Image.fromarray(FACE[..., 0].astype(np.uint16) * 257), "PNG", {}),
    ],
    ids=["rotated", "cmyk", "alpha", "16 bits"],
)
def test_pictures_are_read_as_training_reads_them(picture, kind, settings):
    data = encoded(picture, kind, **settings)
    read = pictures.read(data)
    np.testing.assert_array_equal(read.pixels, images.decode(data, 10**6))
    np.testing.assert_array_equal(pictures.read(Image.open(io.BytesIO(data))).pixels, read.pixels)
    if settings:
        assert read.pixels.shape[:2] == (40, 48)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"hello", "not an image"),
        (encoded(Image.fromarray(FACE), "JPEG")[:900], "truncated"),
        (encoded(Image.new("1", (20_000, 10_000)), "PNG"), "200000000 pixels"),
        (None, "No such file"),
    ],
    ids=["empty", "text", "truncated", "bomb", "missing"],
)
def test_what_cannot_be_read_is_named_and_the_rest_goes_on(model, tmp_path, data, reason):
    path = tmp_path / "bad.jpg"
    if data is not None:
        path.write_bytes(data)
    bad, good = model.predict([path, FACE], crop="whole")
    assert bad == []
    assert (bad.file, reason in bad.error) == (str(path), True), bad.error
    assert len(good) == 1
    assert good.error is None


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"images": FACE / 255}, r"float64 of shape \(48, 48, 3\)"),
        ({"images": [None]}, "NoneType"),
        ({"images": None}, "NoneType"),
        ({"images": 5}, "int"),
        ({"images": [FACE], "crop": None}, "crop=None"),
        ({"images": FACE[:0]}, r"\(0, 48, 3\)"),
        ({"crop": "face"}, "crop='face'"),
        ({"crop": [(0, 0, 48)]}, "left, top, width, height"),
        ({"crop": [(0, 0, -5, 5)]}, "left, top, width, height"),
        ({"images": [FACE, FACE], "crop": [[(0, 0, 48, 48)]]}, "of 1 images, not of 2"),
        ({"batch_size": 0}, "batch_size=0 must be from 1"),
        ({"min_face": 5}, "min_face=5 must be from 12"),
        ({"min_confidence": 60}, "min_confidence=60 must be from 0 to 1"),
        ({"tta": "ten"}, "flip_crops"),
    ],
)
def test_a_mistake_is_one_line_with_the_value_and_the_fix(model, asked, reason):
    with pytest.raises(UserError, match=reason):
        model.predict(**{"images": FACE, "crop": "whole"} | asked)


def test_boxes_are_the_callers_faces(model, astronaut):
    whole, box = (0, 0, 48, 48), (10, 5, 30, 40)
    (found,) = model.predict(FACE, crop=[whole, box])
    assert [face.box for face in found] == [whole, box]
    assert (found[0].landmarks, found[0].detection) == (None, None)
    (alone,) = model.predict(FACE, crop="whole")
    np.testing.assert_allclose(probabilities(found[:1]), probabilities(alone), atol=1e-5)
    one, none = model.predict([FACE, FACE], crop=[[box], []])
    np.testing.assert_allclose(probabilities(one), probabilities(found[1:]), atol=1e-5)
    assert none == []


def test_below_the_least_confidence_it_abstains_and_keeps_its_probabilities(model):
    ((sure,),) = model.predict(FACE, crop="whole")
    edge = sure.confidence
    ((same,),) = model.predict(FACE, crop="whole", min_confidence=edge)
    ((unsure,),) = model.predict(FACE, crop="whole", min_confidence=edge + 1e-6)
    assert same == sure
    assert unsure == dataclasses.replace(sure, label=None, abstained=True)


def test_the_header_s_calibration_makes_the_probabilities(model, monkeypatch):
    ((plain,),) = model.predict(FACE, crop="whole")
    about = dataclasses.replace(model.model.about, temperature=2.5, label_smoothing=0.1)
    monkeypatch.setattr(model, "model", dataclasses.replace(model.model, about=about))
    ((mild,),) = model.predict(FACE, crop="whole")
    assert mild.logits == plain.logits
    np.testing.assert_allclose(
        probabilities([mild]), softmax(calibrated(np.array(plain.logits), about))
    )


def test_views_are_averaged_as_in_evaluation(model):
    both = model.predict([FACE, FACE[:, ::-1]], crop="whole")
    mean = np.mean([probabilities(one) for one in both], axis=0)
    for asked in (FACE, FACE[:, ::-1]):
        (found,) = model.predict(asked, crop="whole", tta="flip")
        np.testing.assert_allclose(probabilities(found), mean, atol=1e-5)


def test_no_count_of_faces_compiles_anew(model):
    own = Recognizer(model.model, "none")
    for count in (1, 2, 4, 5, 15, 16, 17, 32, 33, 70):
        answers = own.predict([FACE] * count, batch_size=64)
        assert len(answers) == count
        np.testing.assert_allclose(probabilities(answers[-1]), probabilities(answers[0]), atol=1e-5)
    assert own._program.cache_info().currsize == 4  # of 1, 4, 16 and 32 faces, a half of 64


@pytest.mark.parametrize("crop", ["whole", "detect"])
def test_a_stream_of_pictures_is_held_in_bounded_memory(model, crop):
    made = []

    def endless():
        while True:
            made.append(len(made))
            yield Picture(np.zeros((40, 40, 1), np.uint8), str(made[-1]))

    answers = model.stream(endless(), Options(batch_size=8, crop=crop))
    for number, found in enumerate(itertools.islice(answers, 50)):
        assert (found.file, found.picture.pixels) == (str(number), None)
        assert len(found) == (crop == "whole")
        assert len(made) - number <= 8 + 5


@pytest.fixture(scope="module")
def film(astronaut, tmp_path_factory):
    """30 frames at 10 a second: the astronaut drifts to the left."""
    path = str(tmp_path_factory.mktemp("film") / "film.mp4")
    video = cv2.VideoWriter(path, cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (160, 160))
    for left in range(140, 170):
        video.write(np.ascontiguousarray(astronaut[40:200, left : left + 160, ::-1]))
    video.release()
    return path


def test_video_frames_have_their_numbers_and_times(model, film):
    answers = list(model.predict_video(film, every=7, max_frames=4))
    assert [found.frame for found in answers] == [0, 7, 14, 21]
    assert [round(found.time, 3) for found in answers] == [0, 0.7, 1.4, 2.1]
    for found in answers:
        (face,) = found
        assert (face.frame, face.time) == (found.frame, found.time)
    lefts = [found[0].box[0] for found in answers]
    assert lefts == sorted(lefts, reverse=True)


def test_smoothing_mixes_a_face_with_its_predecessor_alone(model, film):
    plain = [np.array(found[0].logits) for found in model.predict_video(film, max_frames=3)]
    smooth = [found[0] for found in model.predict_video(film, max_frames=3, smoothing=0.75)]
    expected = plain[0]
    for one, face in zip(plain, smooth, strict=True):
        expected = 0.75 * expected + 0.25 * one if one is not plain[0] else one
        np.testing.assert_allclose(face.logits, expected, rtol=1e-6)
    far = dataclasses.replace(smooth[0], box=(900.0, 900.0, 50.0, 50.0))
    pair = [Faces([face], Picture(None, "x")) for face in (far, smooth[1])]
    assert list(model.smoothed(pair, Options(smoothing=0.5)))[1] == [smooth[1]]


@pytest.mark.parametrize("name", ["missing.mp4", "empty.mp4"])
def test_a_video_without_frames_is_refused(model, tmp_path, name):
    (tmp_path / "empty.mp4").write_bytes(b"")
    with pytest.raises(UserError, match=name):
        list(model.predict_video(tmp_path / name))


@pytest.mark.parametrize("wrong", [{"every": 0}, {"max_frames": 0}])
def test_of_a_video_at_least_a_frame_is_asked_for(model, film, wrong):
    with pytest.raises(UserError, match=r"=0.* from 1"):
        list(model.predict_video(film, **wrong))


def test_without_a_detector_a_picture_is_a_face(model, model_path):
    alone = fer_jax.load(model_path, detector="none")
    assert alone.predict(FACE) == model.predict(FACE, crop="whole")
    assert trained.load(model_path).about == alone.model.about
