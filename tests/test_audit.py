"""The audit finds what was planted, lists keys of records, and replaces nothing but audits."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_data import (
    OPTIONS,
    SKIP,
    csv_text,
    make_rows,
    opened,
    seed_files,
    write_folder,
    write_zip,
)
from support import call, contents, run

from fer_jax.auditing import photographs
from fer_jax.auditing.near_duplicates import recompressed
from fer_jax.auditing.photographs import groups, joined_by
from fer_jax.auditing.report import AUDIT_FILE, FILES
from fer_jax.data import duplicates
from fer_jax.data.images import encode_png
from fer_jax.data.sources import open_dataset
from fer_jax.data.synthetic import faces
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
        images, labels = faces(role)
        rows += [(role, LABELS[i], image) for image, i in zip(images, labels, strict=True)][::step]
    return rows


def real_rows(fer2013: Path) -> list:
    """A twelfth of Training, a quarter of PublicTest."""
    roles = opened(fer2013, SKIP).roles
    return [
        (role, LABELS[roles[role].labels[i]], roles[role].image(i)[..., 0])
        for role, step in (("train", 12), ("validation", 4))
        for i in range(0, len(roles[role]), step)
    ]


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


@pytest.fixture(scope="module", params=["drawn", "real"])
def audits(request, tmp_path_factory):
    """The rows; their audit as they are, with planted copies, and with exchanged folders."""
    root = tmp_path_factory.mktemp("audits")
    drawn = request.param == "drawn"
    rows = drawn_rows() if drawn else real_rows(request.getfixturevalue("fer2013"))
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
    named = {image["key"] for group in done["planted"]["conflicts"] for image in group["images"]}
    assert relabelled <= set(listed)
    assert relabelled <= named
    new = len(done["planted"]["conflicts"]) - len(done["clean"]["conflicts"])
    assert PLANTED - 2 <= new <= PLANTED  # a group that was in conflict before counts once


def test_exchanged_folders_are_reported_and_others_are_not(audits):
    _, done = audits
    assert done["exchanged"]["names"]["validation"]["verdict"] == "exchanged"
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
        assert len(keys) == done["planted"]["lists"][name]


def test_the_report_shows_every_picture_that_was_drawn(audits):
    _, done = audits
    folder = done["planted"]["folder"]
    text = (folder / "report.md").read_text()
    drawn = sorted(path.name for path in folder.glob("*.png"))
    assert {"conflicts.png", "distances.png", "exact_copies.png", "near_copies.png"} <= set(drawn)
    assert all(f"]({name})" in text for name in drawn)
    assert {path.name for path in folder.iterdir()} <= FILES


def test_exact_copies_of_the_whole_data(fer2013):
    """An independent count: 280 images of PublicTest have an exact copy in Training."""
    roles = opened(fer2013, SKIP).roles
    pixels = {role: [r.image(i).tobytes() for i in range(len(r))] for role, r in roles.items()}
    train = set(pixels["train"])
    wanted = {
        key
        for key, image in zip(roles["validation"].keys, pixels["validation"], strict=True)
        if image in train
    }
    pool = photographs.Pool(
        images=np.zeros((sum(map(len, roles.values())), 1, 1), np.uint8),
        splits=tuple(role for role in roles for _ in roles[role].keys),
        keys=tuple(key for role in roles for key in roles[role].keys),
        labels=np.concatenate([r.labels for r in roles.values()]),
        rows=np.concatenate([r.rows for r in roles.values()]),
        copies=duplicates.copy_groups(np.concatenate([r.digests for r in roles.values()])),
    )
    leaks = photographs.leaking(pool, groups(pool.copies)) & pool.within("validation")
    assert {pool.keys[i] for i in np.flatnonzero(leaks)} == wanted
    assert len(wanted) == 280


ROWS = make_rows(42)


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
    assert [image["key"] for image in found["blank"]] == ["00040"]
    assert found["leaks"]["exact"]["validation"] == 1
    assert (tmp_path / "a" / "exclude_exact_copies_of_validation.txt").read_text() == "00000\n"
    assert found["known"]["name"] is None


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
        for key in ("data", "layout", "printed"):
            facts.pop(key)
    assert found[0] == found[1] == found[2]


def test_without_rows_ferplus_is_said_to_be_of_no_use(tmp_path):
    files = {name.replace(".png", "x.png"): data for name, data in seed_files(ROWS).items()}
    head = "neutral,happiness,surprise,sadness,anger,disgust,fear,contempt,unknown,NF"
    (tmp_path / "votes.csv").write_text(head + "\n")
    data = write_folder(tmp_path / "data", files)
    found = audit(data, tmp_path / "a", f"--ferplus={tmp_path / 'votes.csv'}")
    assert "FER+ cannot be joined" in found["printed"]


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
    audit(small, tmp_path / "a")
    assert not (tmp_path / "a" / "blank.png").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "small"]


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        (["--data="], "no data path"),
        (["--data={0}/nothing"], "does not exist"),
        (["--output={0}/small"], "is not an earlier audit (it holds images)"),
        (["--output={0}/small/images/train/sad/99.png"], "99.png is no directory"),
        (["--output={0}/small/images/train/sad/99.png/a"], "99.png is no directory"),
        (["--output={0}/half"], "is not an earlier audit (it has no audit.json)"),
        (["--output={0}/mixed"], "is not an earlier audit (it holds letter.txt)"),
        (["--ferplus={0}/nothing.csv"], "cannot read --ferplus"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(small, tmp_path, flags, reason):
    write_folder(tmp_path / "mixed", {"audit.json": b"{}", "letter.txt": b"dear"})
    write_folder(tmp_path / "half", {"report.md": b"mine"})
    before = contents(tmp_path)
    defaults = [f"--data={small}", f"--output={tmp_path / 'new'}"]
    outcome = call("audit", [*defaults, *(flag.format(tmp_path) for flag in flags)])
    assert reason in outcome.refusal()
    assert contents(tmp_path) == before
    assert not (tmp_path / "new").exists()


def test_as_a_process_it_is_quiet_where_there_is_no_terminal(small, tmp_path):
    outcome = run("audit", [f"--data={small}", f"--output={tmp_path / 'a'}"])
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    assert outcome.out.splitlines()[-1] == f"report {tmp_path / 'a'}/report.md"


def test_groups_join_over_several_links():
    assert joined_by(6, [np.array([4, 2]), np.array([5, 4]), np.array([1, 0])]).tolist() == [
        0,
        0,
        2,
        3,
        2,
        2,
    ]
    assert [members.tolist() for members in groups(np.array([7, 1, 7, 3, 1, 7]))] == [
        [0, 2, 5],
        [1, 4],
    ]
