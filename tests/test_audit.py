"""The audit finds what was planted, lists keys of records, and replaces nothing but its own."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_data import (
    OPTIONS,
    csv_text,
    make_rows,
    opened,
    recompressed,
    seed_files,
    some_faces,
    write_folder,
    write_zip,
)
from support import call, contents, run

from fer_jax.auditing.copies import groups
from fer_jax.auditing.report import AUDIT_FILE
from fer_jax.data import synthetic
from fer_jax.data.images import encode_png
from fer_jax.data.sources import open_dataset
from fer_jax.data.synthetic import draw_face
from fer_jax.evaluation import plots
from fer_jax.labels import LABELS
from fer_jax.prepare import prepare

PLANTED, SPARE = 10, 5
QUALITIES = (75, 80, 90)


def audit(data: Path, output: Path, *flags: object) -> dict:
    """What audit.json holds after the front door has run; what it printed under "printed"."""
    outcome = call("audit", [f"--data={data}", f"--output={output}", *flags])
    assert outcome.status == 0, outcome.err
    return json.loads((output / AUDIT_FILE).read_text()) | {"printed": outcome.out}


def drawn_rows() -> list:
    """500 drawn faces to train on, 200 others; (role, class, uint8 [48, 48])."""
    rows = []
    for role, step in (("train", 10), ("validation", 4)):
        images, labels = some_faces(role, step)
        rows += [(role, LABELS[i], image) for image, i in zip(images, labels, strict=True)]
    return rows


def plant(rows: list) -> dict[str, bytes]:
    """Ten validation images as JPEG in train (90000.png...), ten of train relabelled (91000...)."""
    files = seed_files(rows)
    held_out = [row for row in rows if row[0] == "validation"][7::19][:PLANTED]
    for i, (_, name, image) in enumerate(held_out):
        altered = recompressed(image, QUALITIES[i % len(QUALITIES)])
        files[f"images/train/{name}/{90000 + i}.png"] = encode_png(altered[..., None])
    for i, (_, name, image) in enumerate(rows[5::29][:PLANTED]):
        wrong = LABELS[(LABELS.index(name) + 1 + i % 5) % 7]
        files[f"images/train/{wrong}/{91000 + i}.png"] = encode_png(image[..., None])
    return files


def exchange(rows: list, role: str, one: str, other: str) -> list:
    names = {one: other, other: one}
    return [(r, names.get(name, name) if r == role else name, image) for r, name, image in rows]


@pytest.fixture(scope="module")
def audits(tmp_path_factory):
    """The rows; their audit as they are, with planted copies, and with exchanged folders."""
    root = tmp_path_factory.mktemp("audits")
    rows = drawn_rows()
    zips = {
        "clean": seed_files(rows),
        "planted": plant(rows),
        "exchanged": seed_files(exchange(rows, "train", "happy", "sad")),
    }
    done = {}
    for name, files in zips.items():
        path = write_zip(root / f"{name}.zip", files)
        done[name] = audit(path, root / name) | {"folder": root / name, "zip": path}
    return rows, done


def test_planted_near_copies_are_found_and_hardly_another(audits):
    rows, done = audits
    validation = [f"{i:05d}" for i, row in enumerate(rows) if row[0] == "validation"]
    wanted = [{key, str(90000 + i)} for i, key in enumerate(validation[7::19][:PLANTED])]
    found = [{image["key"] for image in group} for group in done["planted"]["photographs"]]
    assert len(wanted) == PLANTED
    assert all(any(pair <= group for group in found) for pair in wanted)
    pairs = [len(done[kind]["near_copies"]) for kind in ("clean", "planted")]
    assert pairs[0] + PLANTED <= pairs[1] <= pairs[0] + PLANTED + SPARE


def test_planted_copies_are_listed_for_exclusion(audits):
    _, done = audits
    name = "exclude_copies_of_validation.txt"
    before, after = (
        (done[kind]["folder"] / name).read_text().split() for kind in ("clean", "planted")
    )
    planted = {str(90000 + i) for i in range(PLANTED)}
    assert planted <= set(after)
    assert not planted & set(before)
    exact = (done["planted"]["folder"] / f"exclude_exact_{name[8:]}").read_text().split()
    assert not planted & set(exact)


def test_relabelled_copies_are_conflicts(audits):
    _, done = audits
    relabelled = {str(91000 + i) for i in range(PLANTED)}
    listed = (done["planted"]["folder"] / "exclude_conflicts.txt").read_text().split()
    named = {image["key"] for group in done["planted"]["conflicts"] for image in group}
    assert relabelled <= set(listed)
    assert relabelled <= named
    new = len(done["planted"]["conflicts"]) - len(done["clean"]["conflicts"])
    assert PLANTED - 2 <= new <= PLANTED  # a group that was in conflict before counts once


def test_exchanged_folders_are_reported_and_others_are_not(audits):
    _, done = audits
    assert done["exchanged"]["names"]["validation"]["exchanged"]
    moved = done["exchanged"]["names"]["validation"]["looks_like"]
    assert moved == {"happy": "sad", "sad": "happy"}
    assert "EXCHANGED NAMES" in done["exchanged"]["printed"]
    assert "EXCHANGED" not in done["clean"]["printed"] + done["planted"]["printed"]
    assert done["clean"]["names"]["validation"]["looks_like"] == {}


def test_lists_hold_keys_of_training_records(audits):
    _, done = audits
    train = set(open_dataset(str(done["planted"]["zip"]), OPTIONS).roles["train"].keys)
    for name in done["planted"]["lists"]:
        text = (done["planted"]["folder"] / name).read_text()
        keys = text.splitlines()
        assert text == "".join(f"{key}\n" for key in keys)
        assert keys == sorted(set(keys))
        assert set(keys) <= train
        assert keys == done["planted"]["lists"][name]


def test_the_report_shows_every_picture_that_was_drawn(audits):
    _, done = audits
    folder = done["planted"]["folder"]
    text = (folder / "report.md").read_text()
    drawn = sorted(path.name for path in folder.glob("*.png"))
    assert {"conflicts.png", "exact_copies.png", "near_copies.png"} <= set(drawn)
    assert all(f"]({name})" in text for name in drawn)


def test_pictures_name_their_files(tmp_path, monkeypatch):
    """Whole where there is room, else by their end, which then shows that it is one."""
    titles = []
    monkeypatch.setattr(
        plots, "contact_sheet", lambda images, given, *_, **__: titles.extend(given)
    )
    face, other = (encode_png(image[..., None]) for image in some_faces("train", 2600)[0])
    files = {"data/sad/short.png": face, "data/sad/a_name_of_some_length_001.png": face}
    files["data/happy/other.png"] = other
    audit(write_folder(tmp_path, files) / "data", tmp_path / "a")
    assert sorted(titles) == ["train sad\nshort.png", "train sad\n…_some_length_001.png"]


ROWS = make_rows(42)


def test_a_name_that_looks_like_mathematics_is_drawn_as_it_is(tmp_path):
    face = encode_png(some_faces("train", 2600)[0][0][..., None])
    files = {"data/sad/a${$.png": face, "data/happy/c.png": face}
    found = audit(write_folder(tmp_path, files) / "data", tmp_path / "a")
    assert len(found["exact_copies"]) == 1
    assert (tmp_path / "a" / "exact_copies.png").exists()


@pytest.fixture
def small(tmp_path) -> Path:
    """A few images: row 40 blank, row 7 (validation) copies row 0, one file is no image."""
    rows = list(ROWS)
    rows[40] = (*rows[40][:2], np.full((48, 48), 17, np.uint8))
    rows[7] = ("validation", rows[0][1], rows[0][2])
    files = seed_files(rows) | {"images/train/sad/99.png": b"x"}
    return write_folder(tmp_path / "small", files)


def test_unreadable_and_blank_images_are_listed(small, tmp_path):
    found = audit(small, tmp_path / "a")
    assert [row["file"] for row in found["unreadable"]] == ["images/train/sad/99.png"]
    assert [[image["key"] for image in group] for group in found["blank"]] == [["00040"]]
    assert found["leaks"]["exact"]["validation"] == 1
    assert (tmp_path / "a" / "exclude_exact_copies_of_validation.txt").read_text() == "00000\n"


def test_the_same_input_gives_the_same_bytes(small, tmp_path):
    audit(small, tmp_path / "a")
    audit(small, tmp_path / "b")
    one, other = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert {k: v[0] for k, v in one.items()} == {k: v[0] for k, v in other.items()}


def test_every_layout_gives_the_same_findings(tmp_path):
    folder = write_folder(tmp_path / "folder", seed_files(ROWS))
    table = write_folder(tmp_path / "table", {"fer2013.csv": csv_text(ROWS).encode()})
    prepare(opened(folder), tmp_path / "prepared")
    found = [audit(p, tmp_path / f"of-{p.name}") for p in (folder, table, tmp_path / "prepared")]
    for facts in found:
        for key in ("data", "described", "printed"):
            facts.pop(key)
    assert found[0] == found[1] == found[2]


def test_one_split_alone_is_audited(tmp_path):
    data = write_folder(tmp_path / "data", seed_files(make_rows(42, ("train",))))
    found = audit(data, tmp_path / "a")
    assert found["names"] == {}
    assert list(found["counts"]) == ["train"]


def test_an_earlier_audit_is_replaced_as_a_whole(small, tmp_path):
    audit(small, tmp_path / "a")
    assert (tmp_path / "a" / "blank.png").exists()
    (small / "images" / "train").joinpath(ROWS[40][1], "40.png").unlink(missing_ok=True)
    for path in small.rglob("40.png"):
        path.unlink()
    (tmp_path / "a" / "letter.txt").write_text("dear")
    audit(small, tmp_path / "a")
    assert not (tmp_path / "a" / "blank.png").exists()
    assert (tmp_path / "a" / "letter.txt").read_text() == "dear"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "small"]


@pytest.mark.parametrize("place", [".", "../new/."])
def test_the_folder_one_stands_in_takes_an_audit_as_well(small, tmp_path, monkeypatch, place):
    (tmp_path / "new").mkdir()
    monkeypatch.chdir(tmp_path / "new")
    for _ in range(2):
        outcome = call("audit", [f"--data={small}", f"--output={place}"])
        assert outcome.status == 0, outcome.err
        assert json.loads((tmp_path / "new" / AUDIT_FILE).read_text())["leaks"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["new", "small"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--data="], "no data path"),
        (["--data={0}/nothing"], "does not exist"),
        (["--output={0}/small/images/train/sad/99.png"], "99.png (File exists): give a folder"),
        (["--output={0}/small/images/train/sad/99.png/a"], "a (Not a directory): give a folder"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(small, tmp_path, flags, reason):
    before = contents(tmp_path)
    defaults = [f"--data={small}", f"--output={tmp_path / 'new'}"]
    outcome = call("audit", [*defaults, *(flag.format(tmp_path) for flag in flags)])
    assert reason in outcome.refusal()
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_an_evaluations_folder_is_not_written_into(small, tmp_path):
    (tmp_path / "report.json").write_text("{}")
    outcome = call("audit", [f"--data={small}", f"--output={tmp_path}"])
    assert "holds an evaluation's report" in outcome.refusal()
    assert not (tmp_path / "report.md").exists()


@pytest.mark.slow
def test_as_a_process_it_is_quiet_where_there_is_no_terminal(small, tmp_path):
    outcome = run("audit", [f"--data={small}", f"--output={tmp_path / 'a'}"])
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    assert outcome.out.splitlines()[-1] == f"report {tmp_path / 'a'}/report.md"


def test_groups_are_of_two_or_more():
    assert [m.tolist() for m in groups(np.array([7, 1, 7, 3, 1, 7]))] == [[0, 2, 5], [1, 4]]


# ---- other people's data -----------------------------------------------------------------------


def test_a_sitter_making_two_faces_is_no_conflict(tmp_path, monkeypatch):
    """Same person, pose and light: near, but the mouth moves; frames of films are said to be."""
    files = {}
    for identity in (0, 2, 12, 13):
        files[f"data/disgust/s{identity}_a.png"] = draw_face("disgust", identity, identity)
        with monkeypatch.context() as patch:
            patch.setitem(synthetic.EXPRESSIONS, "disgust", synthetic.EXPRESSIONS["sad"])
            files[f"data/sad/s{identity}_b.png"] = draw_face("disgust", identity, identity)
    files["data/sad/s12_c.png"] = recompressed(files["data/disgust/s12_a.png"], 80)
    folder = write_folder(tmp_path, {n: encode_png(image[..., None]) for n, image in files.items()})
    found = audit(folder / "data", tmp_path / "a")
    assert len(found["near_copies"]) >= 5
    [conflict] = found["conflicts"]
    assert [image["key"] for image in conflict] == ["disgust/s12_a.png", "sad/s12_c.png"]
    assert "100% of the images have a near copy, as frames of films" in found["printed"]


def sequence(identity: int, frames: int, monkeypatch) -> list[np.ndarray]:
    """One sitter, pose and light, from neutral to happy in small steps."""
    still, glad = (synthetic.EXPRESSIONS[name] for name in ("neutral", "happy"))
    drawn = []
    for step in np.linspace(0, 1, frames):
        between = {name: still[name] + step * (glad[name] - still[name]) for name in still}
        with monkeypatch.context() as patch:
            patch.setitem(synthetic.EXPRESSIONS, "sad", between)
            drawn.append(draw_face("sad", identity, identity))
    return drawn


def test_frames_that_lead_from_one_face_to_another_are_no_conflict(tmp_path, monkeypatch):
    """Each is as good as its neighbour, also where the labels change; a copy relabelled is one."""
    files = {}
    for identity in (0, 1, 3):
        for i, image in enumerate(sequence(identity, 12, monkeypatch)):
            files[f"data/{'neutral' if i < 6 else 'happy'}/s{identity}_{i:02d}.png"] = image
    alone = draw_face("fear", 5, 5)
    files |= {"data/fear/a.png": alone, "data/angry/b.png": recompressed(alone, 80)}
    folder = write_folder(tmp_path, {n: encode_png(image[..., None]) for n, image in files.items()})
    found = audit(folder / "data", tmp_path / "a")
    assert len(found["photographs"]) == 4
    [conflict] = found["conflicts"]
    assert [image["key"] for image in conflict] == ["angry/b.png", "fear/a.png"]
    assert "1 photographs have copies with two labels" in found["printed"]


def test_a_class_padded_with_altered_copies_is_said_to_be(tmp_path):
    """Some of the classes are enough; a name like X.jpg7.jpg tells of what it was made."""
    images = some_faces("train", 90)[0]
    files = {
        f"data/{name}/{i}.jpg": images[7 * i + j]
        for i in range(4)
        for j, name in enumerate(("angry", "disgust", "happy"))
    }
    far = np.ascontiguousarray(np.roll(files["data/disgust/0.jpg"].T, 9))
    files |= {f"data/disgust/0.jpg{i}.jpg": np.roll(far, 4 * i) for i in range(3)}
    files["data/disgust/9.png.jpg"] = images[-1]  # converted, not padded
    folder = write_folder(tmp_path, {n: encode_png(image[..., None]) for n, image in files.items()})
    found = audit(folder / "data", tmp_path / "a")
    assert "3 images are made of others, as their names say (disgust 3 of 8)" in found["printed"]
    assert "disgust has 2.0 times the images of angry" in found["printed"]
    assert "there is no image of fear, neutral, sad, surprise" in found["printed"]
    family = [{image["key"] for image in group} for group in found["photographs"]]
    assert {"disgust/0.jpg", *(f"disgust/0.jpg{i}.jpg" for i in range(3))} in family
    listed = (tmp_path / "a" / "exclude_copies_by_name.txt").read_text().split()
    assert listed == [f"disgust/0.jpg{i}.jpg" for i in range(3)]
