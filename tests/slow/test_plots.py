"""Every picture exists, is a PNG of sensible size, and changes with what it shows."""

import threading

import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from fer_jax.evaluation import plots
from fer_jax.evaluation.calibration import reliability
from fer_jax.labels import LABELS

pytestmark = pytest.mark.usefixtures("drawn_pictures")


def pixels(path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB"))


def assert_drawn(path, least=(200, 200)) -> np.ndarray:
    """A picture with paper, ink and neither in excess."""
    drawn = pixels(path)
    assert drawn.shape[0] >= least[0]
    assert drawn.shape[1] >= least[1]
    white = (drawn == 255).all(axis=2).mean()
    assert 0.01 < white < 0.995
    return drawn


def faces(n, channels=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, 48, 48, channels), np.uint8)


def curve(last_accuracy=0.6):
    train = [
        {"step": s, "epoch": s / 10, "kind": "train", "loss": 2 / s, "accuracy": s / 100}
        for s in range(1, 41)
    ]
    validation = [
        {"step": s, "epoch": s / 10, "kind": "validation", "loss": 1.5, "accuracy": 0.4}
        for s in (10, 20, 30)
    ]
    return [*train, *validation, {**validation[-1], "epoch": 4.0, "accuracy": last_accuracy}]


def table(seed=0):
    rng = np.random.default_rng(seed)
    probabilities = rng.dirichlet(np.full(7, 0.3), 400)
    return reliability(probabilities, rng.integers(0, 7, 400))


def dark_cells(matrix, path) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the dark blue pixels, the colour bar left out."""
    plots.confusion_matrix(matrix, LABELS, path)
    drawn = assert_drawn(path, least=(600, 700))[:, :-160].astype(int)
    return np.nonzero((drawn[..., 2] > drawn[..., 0] + 60) & (drawn[..., 0] < 60))


def test_confusion_matrix_shades_the_share_of_the_row(tmp_path):
    sizes = np.array([100, 5, 90, 200, 80, 70, 60])
    rows, columns = dark_cells(np.diag(sizes), tmp_path / "right.png")
    assert np.corrcoef(rows, columns)[0, 1] > 0.9, "the dark cells do not lie on the diagonal"
    all_second = np.zeros((7, 7), int)
    all_second[:, 1] = sizes
    rows, columns = dark_cells(all_second, tmp_path / "collapsed.png")
    assert np.ptp(columns) < 150, "rows are true classes: one answer is one column"
    assert np.ptp(rows) > 500


def test_confusion_matrix_with_an_absent_class_and_long_names(tmp_path):
    matrix = np.diag([3, 0, 12345])
    plots.confusion_matrix(matrix, ("a", "b", "a very long class name"), tmp_path / "m.png")
    assert_drawn(tmp_path / "m.png")


def test_reliability_diagram(tmp_path):
    plots.reliability_diagram(table(), tmp_path / "a.png")
    first = assert_drawn(tmp_path / "a.png", least=(600, 500))
    plots.reliability_diagram(table(1), tmp_path / "b.png")
    assert not np.array_equal(first, pixels(tmp_path / "b.png"))


def test_reliability_before_and_after_stand_side_by_side(tmp_path):
    plots.reliability_diagram(table(), tmp_path / "one.png")
    plots.reliability_diagram(table(), tmp_path / "two.png", table(1))
    plots.reliability_diagram(table(), tmp_path / "other.png", table(2))
    alone, beside = pixels(tmp_path / "one.png"), assert_drawn(tmp_path / "two.png", (600, 1200))
    other = pixels(tmp_path / "other.png")
    assert beside.shape[1] == 2 * alone.shape[1]
    half = alone.shape[1] - 20
    np.testing.assert_array_equal(beside[200:, :half], other[200:, :half])
    assert (beside[:, -half:] != other[:, -half:]).any()


def drawn_figure(monkeypatch, draw, *given):
    """The figure that `draw` makes, laid out."""
    kept = []
    monkeypatch.setattr(plots, "_save", lambda figure, _: kept.append(figure))
    draw(*given, "unwritten.png")
    kept[0].draw_without_rendering()
    return kept[0]


def test_where_the_model_is_too_modest_the_bar_of_accuracy_goes_on(monkeypatch):
    modest = [{"from": 0.4, "to": 0.6, "count": 9, "accuracy": 0.8, "confidence": 0.5}]
    axes = drawn_figure(monkeypatch, plots.reliability_diagram, modest).axes[0]
    for height in (0.1, 0.6, 0.79):
        top = [bar for bar in axes.patches if bar.get_bbox().contains(0.5, height)][-1]
        assert to_hex(top.get_facecolor()) == plots.BLUE, height


def test_legends_cover_nothing(monkeypatch):
    for draw, given in (
        (plots.reliability_diagram, (table(),)),
        (plots.learning_curves, (curve(),)),
        (plots.class_distribution, ({"train": range(7)},)),
    ):
        figure = drawn_figure(monkeypatch, draw, *given)
        legends = [*figure.legends, *(axes.get_legend() for axes in figure.axes)]
        boxes = [legend.get_window_extent() for legend in legends if legend]
        assert boxes
        assert all(box.y0 >= 0 and box.x0 >= 0 for box in boxes), "within the picture"
        for axes in figure.axes:
            assert not any(box.overlaps(axes.get_window_extent()) for box in boxes)


@pytest.mark.parametrize("last", [2, 4, 5])
def test_epochs_are_whole(monkeypatch, last):
    shorter = [row for row in curve() if row["epoch"] <= last]
    for axes in drawn_figure(monkeypatch, plots.learning_curves, shorter).axes:
        assert all(float(tick.get_text()).is_integer() for tick in axes.get_xticklabels())


def test_losses_are_called_what_they_are(monkeypatch):
    loss, _ = drawn_figure(monkeypatch, plots.learning_curves, curve()).axes
    trained, validated, _ = (text.get_text() for text in loss.get_legend().get_texts())
    assert "minimised" in trained
    assert "smoothing" in trained
    assert "plain cross-entropy" in validated


def test_shares_have_true_ticks(monkeypatch):
    counts = {"train": [700, 300, 750, 1000, 850, 800, 600]}
    [axes] = drawn_figure(monkeypatch, plots.class_distribution, counts).axes
    ticks = [float(tick.get_text().rstrip("%")) for tick in axes.get_yticklabels()]
    assert len({round(step, 6) for step in np.diff(ticks)}) == 1
    assert all(tick.is_integer() for tick in ticks)
    assert "Share of each class" in axes.get_title()


def test_reliability_of_one_image(tmp_path):
    plots.reliability_diagram(reliability(np.eye(7)[:1], np.zeros(1, int)), tmp_path / "a.png")
    assert_drawn(tmp_path / "a.png")


def test_contact_sheet_of_few_and_of_none(tmp_path):
    names = ["happy", "sad", "fear"]
    plots.contact_sheet(faces(3), names, tmp_path / "some.png", "Mistakes")
    assert_drawn(tmp_path / "some.png", least=(150, 600))
    plots.contact_sheet([], [], tmp_path / "none.png", "No mistakes")
    assert (pixels(tmp_path / "none.png") != 255).any()


@pytest.mark.parametrize("channels", [1, 3])
def test_contact_sheet_shows_the_very_images(tmp_path, channels):
    red = np.zeros((8, 48, 48, channels), np.uint8)
    red[..., 0] = 200
    plots.contact_sheet(red, [f"no. {i}" for i in range(8)], tmp_path / "s.png")
    drawn = assert_drawn(tmp_path / "s.png", least=(100, 500))
    expected = (200, 200, 200) if channels == 1 else (200, 0, 0)
    share = (drawn == expected).all(axis=2).mean()
    assert 0.4 < share < 0.95


def test_contact_sheet_takes_images_of_different_sizes(tmp_path):
    images = [faces(1)[0], faces(1, 3)[0, :32, :40]]
    plots.contact_sheet(images, ["a", "b"], tmp_path / "s.png", "Two")
    assert_drawn(tmp_path / "s.png", least=(100, 200))


def test_contact_sheet_wants_a_title_per_image(tmp_path):
    with pytest.raises(ValueError, match="shorter"):
        plots.contact_sheet(faces(2), ["one"], tmp_path / "s.png")
    assert not (tmp_path / "s.png").exists()


def test_learning_curves_move_with_the_records(tmp_path):
    plots.learning_curves(curve(), tmp_path / "a.png")
    first = assert_drawn(tmp_path / "a.png", least=(400, 1000))
    plots.learning_curves(curve(last_accuracy=0.1), tmp_path / "b.png")
    assert not np.array_equal(first, pixels(tmp_path / "b.png"))


@pytest.mark.parametrize(
    "records",
    [
        [],
        [{"step": 1, "epoch": 0.1, "kind": "train", "loss": None, "accuracy": None}],
        [{"step": 1, "epoch": 0.1, "kind": "validation", "loss": None}],
        [{"step": 1, "epoch": 0.1, "kind": "validation", "loss": 1.0, "accuracy": 0.5}],
    ],
)
def test_learning_curves_of_almost_nothing(tmp_path, records):
    plots.learning_curves(records, tmp_path / "a.png")
    assert_drawn(tmp_path / "a.png", least=(400, 1000))


def test_class_distribution(tmp_path):
    counts = {"train": [3995, 436, 4097, 7215, 4965, 4830, 3171], "validation": np.arange(7)}
    plots.class_distribution(counts, tmp_path / "a.png")
    first = assert_drawn(tmp_path / "a.png", least=(400, 800))
    plots.class_distribution({"train": counts["train"]}, tmp_path / "b.png")
    assert not np.array_equal(first, pixels(tmp_path / "b.png"))
    plots.class_distribution({"train": [0] * 7}, tmp_path / "c.png")
    assert_drawn(tmp_path / "c.png")


def test_the_same_picture_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        plots.learning_curves(curve(), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_drawing_in_threads_gives_the_same_picture(tmp_path):
    def draw(i):
        plots.reliability_diagram(table(), tmp_path / f"{i}.png")

    threads = [threading.Thread(target=draw, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({(tmp_path / f"{i}.png").read_bytes() for i in range(3)}) == 1
