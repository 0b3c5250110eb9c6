"""The command: rows for programs, a table for people, drawn pictures, and bad input."""

import csv
import json
import shutil

import cv2
import numpy as np
import pytest
from support import call

from fer_jax.labels import LABELS
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
    assert output.read_bytes() == whole


def test_what_is_answered_is_not_read_again(recognised, folder, tmp_path):
    place, output = tmp_path / "pictures", tmp_path / "x.jsonl"
    shutil.copytree(folder, place)
    recognised(place, f"--output={output}")
    before = output.read_bytes()
    (place / "a.png").write_bytes(b"broken since")
    recognised(place, f"--output={output}")
    assert output.read_bytes() == before


def test_another_file_is_not_taken_for_answers(recognised, folder, tmp_path):
    other = tmp_path / "other.jsonl"
    other.write_text('{"name": 1}\n')
    assert "other.jsonl" in recognised(folder, f"--output={other}").refusal()
    assert other.read_text() == '{"name": 1}\n'
    assert "FILE.csv" in recognised(folder, f"--output={tmp_path / 'x.txt'}").refusal()


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ([], "--camera=0"),
        (["missing.jpg"], "missing.jpg: No such file"),
        (["broken.png"], "broken.png: not an image"),
        (["empty.mp4"], "empty.mp4: it has no frames"),
        (["nothing"], "nothing: no image or video"),
        (["--camera=63"], "camera 63"),
        (["a.png", "--explain"], "--draw=DIR"),
        (["a.png", "--draw=."], "holds the originals"),
        (["a.png", "--min_confidence=2"], "from 0 to 1"),
    ],
)  # fmt: skip
def test_where_nothing_can_be_answered_one_line_says_why(
    recognised, folder, tmp_path, monkeypatch, given, reason
):
    monkeypatch.chdir(tmp_path)
    shutil.copy(folder / "a.png", "a.png")
    (tmp_path / "broken.png").write_bytes(b"no image")
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "nothing").mkdir()
    outcome = recognised(*given)
    if "missing" not in reason and "not an image" not in reason and "frames" not in reason:
        assert reason in outcome.refusal()
    assert outcome.status == 2
    assert reason in outcome.err
    assert outcome.err.count("\n") == 1


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
