"""Test-time augmentation and ensembles: means of probabilities, kept apart from plain figures."""

import json
import shutil
from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from made_data import Memory
from made_models import trained_variables
from scipy.special import softmax
from support import call, read_data, small_evaluator

from fer_jax import trained
from fer_jax.errors import UserError
from fer_jax.evaluation import calibration, inference
from fer_jax.evaluation.predictions import VIEWS, Predictions
from fer_jax.evaluation.report import describe_answers


def faces(n=3, size=32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, size, size, 3), np.uint8)


@pytest.mark.parametrize("kind", VIEWS)
def test_views_are_images_and_the_first_is_the_image_itself(kind):
    images = faces()
    shown = inference.views(jnp.asarray(images), kind)
    assert len(shown) == VIEWS[kind]
    assert all(view.shape == images.shape and view.dtype == jnp.uint8 for view in shown)
    np.testing.assert_array_equal(shown[0], images)
    assert len({np.asarray(view).tobytes() for view in shown}) == len(shown)


@pytest.mark.parametrize("kind", ["flip", "flip_crops"])
def test_the_second_half_mirrors_the_first(kind):
    shown = [np.asarray(view) for view in inference.views(jnp.asarray(faces()), kind)]
    half = len(shown) // 2
    for view, mirrored in zip(shown[:half], shown[half:], strict=True):
        np.testing.assert_array_equal(mirrored, view[:, :, ::-1])


def test_crops_show_the_corners_and_the_centre():
    """Of a picture whose grey is its column, and of one whose grey is its row."""
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None], (64, 64))
    images = np.stack([ramp, ramp.T])[..., None].repeat(3, axis=-1)
    crops = [
        np.asarray(view)[..., 0] for view in inference.views(jnp.asarray(images), "flip_crops")
    ]
    edges = [(down[0, 0], down[-1, 0], right[0, 0], right[0, -1]) for down, right in crops[1:6]]
    assert edges == [(0, 55, 0, 55), (0, 55, 8, 63), (8, 63, 0, 55), (8, 63, 8, 63), (4, 59, 4, 59)]


def test_a_crop_of_one_grey_stays_it():
    images = np.full((1, 33, 33, 3), 201, np.uint8)
    for view in inference.views(jnp.asarray(images), "flip_crops"):
        np.testing.assert_array_equal(view, images)


def test_the_average_is_of_probabilities():
    logits = np.random.default_rng(0).normal(size=(4, 5, 7)) * 3
    probabilities = softmax(logits, axis=-1)
    labels = np.arange(5)
    losses = -np.log(probabilities[:, np.arange(5), labels])
    mean, loss = inference.average(list(zip(probabilities, losses, strict=True)))
    np.testing.assert_allclose(mean, probabilities.mean(0), rtol=1e-5)
    np.testing.assert_allclose(loss, -np.log(mean[np.arange(5), labels]), rtol=1e-4)


def test_the_averages_loss_does_not_underflow():
    """Two members that give the label e^-200 and e^-300: float32 probabilities have 0 of both."""
    probabilities = np.array([[1.0, 0.0]], np.float32)
    members = [(probabilities, np.array([loss], np.float32)) for loss in (200.0, 300.0)]
    assert float(inference.average(members)[1][0]) == pytest.approx(200 + np.log(2), rel=1e-6)


def made(seed) -> Predictions:
    probabilities = np.random.default_rng(seed).dirichlet(np.ones(7), 3).astype(np.float32)
    labels = np.array([0, 3, 6], np.int32)
    return Predictions(
        tuple("abc"), labels, probabilities, -np.log(probabilities[np.arange(3), labels])
    )


def test_an_ensemble_is_the_mean_of_its_members():
    members = [made(seed) for seed in range(3)]
    found = inference.ensemble(members)
    assert found.keys == members[0].keys
    expected = np.mean([one.probabilities for one in members], axis=0)
    np.testing.assert_allclose(found.probabilities, expected, rtol=1e-5)
    np.testing.assert_allclose(
        found.losses, -np.log(expected[np.arange(3), found.labels]), rtol=1e-4
    )
    assert inference.ensemble(members[:1]) is members[0]


@pytest.mark.parametrize(
    ("members", "kind", "temperature", "text"),
    [
        (1, "none", 1.0, "plain"),
        (1, "flip", 1.0, "test-time augmentation flip, 2 views"),
        (1, "none", 1.5, "temperature 1.5"),
        (5, "none", 1.0, "ensemble of 5"),
        (5, "flip_crops", 1.0, "ensemble of 5, test-time augmentation flip_crops, 12 views"),
        (5, "none", 0.75, "ensemble of 5, temperature 0.75"),
    ],
)
def test_the_way_of_answering_has_a_name(members, kind, temperature, text):
    assert describe_answers(members, kind, temperature) == text


def test_prediction_over_views_is_the_mean_of_predictions_of_views():
    images = faces(11, 16)
    evaluator = small_evaluator()
    variables = trained_variables(evaluator.model)
    for kind in ("flip", "flip_crops"):
        shown = [np.asarray(view) for view in inference.views(jnp.asarray(images), kind)]
        apart = [evaluator.predict(variables, Memory(view), False) for view in shown]
        found = evaluator.predict(variables, Memory(images), False, kind)
        expected = inference.ensemble(apart)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, rtol=2e-5)
        np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-4)
        assert np.abs(found.probabilities - apart[0].probabilities).max() > 1e-6


@pytest.fixture(scope="module")
def two_models(finished_run, tmp_path_factory):
    """The finished run, and a file of it whose last layer answers otherwise."""
    model = trained.load(finished_run).file()
    head = model.variables["params"]["head"]
    name = next(name for name, part in head.items() if part["bias"].shape == (7,))
    head[name]["bias"] = np.linspace(-1, 1, 7, dtype=np.float32)
    path = tmp_path_factory.mktemp("second") / "second.safetensors"
    trained.model_file.save(path, model)
    return finished_run, path


def evaluated(folder, *flags):
    outcome = call("evaluate", [*flags, f"--output={folder}"])
    assert outcome.status == 0, outcome.err
    report = json.loads((folder / "report.json").read_text())
    return report, Predictions.load(folder / "predictions.npz"), outcome.out


def test_ensemble_and_views_from_end_to_end(two_models, small_csv, tmp_path):
    run, file = (f"--checkpoint={path}" for path in two_models)
    data = f"--data={small_csv}"
    _, one, _ = evaluated(tmp_path / "one", run, data)
    _, other, _ = evaluated(tmp_path / "other", file, data)
    report, both, said = evaluated(tmp_path / "both", run, file, data)
    expected = (one.probabilities + other.probabilities) / 2
    np.testing.assert_allclose(both.probabilities, expected, atol=1e-6)
    assert np.abs(both.probabilities - one.probabilities).max() > 0.01
    assert report["answers"] == "ensemble of 2"
    assert [member["checkpoint"] for member in report["members"]] == list(map(str, two_models))
    assert report["selected_on"] == "validation"
    assert "chose this checkpoint" in report["note"]
    assert "accuracy on validation (ensemble of 2)" in said
    text = (tmp_path / "both" / "report.md").read_text()
    assert text.splitlines()[0].endswith("on `validation` (ensemble of 2)")
    assert all(str(path) in text for path in two_models)

    report, _, said = evaluated(tmp_path / "flip", run, data, "--tta=flip", "--split=test")
    assert report["answers"] == "test-time augmentation flip, 2 views"
    assert (report["tta"], len(report["members"])) == ("flip", 1)
    assert "accuracy on test (test-time augmentation flip, 2 views)" in said


def test_a_temperature_scales_the_mean_of_an_ensemble(two_models, small_csv, tmp_path):
    flags = [*(f"--checkpoint={path}" for path in two_models), f"--data={small_csv}"]
    plain, one, _ = evaluated(tmp_path / "plain", *flags)
    report, other, said = evaluated(tmp_path / "scaled", *flags, "--temperature=0.25")
    expected = calibration.scale(one.probabilities, 0.25)
    np.testing.assert_allclose(other.probabilities, expected)
    same = ("n", "accuracy", "accuracy_95_interval", "confusion_matrix", "macro_f1", "clean")
    assert [report[name] for name in same] == [plain[name] for name in same]
    assert report["loss"] == pytest.approx(calibration.mean_loss(expected, one.labels))
    error = calibration.calibration_error(calibration.reliability(expected, one.labels))
    assert report["expected_calibration_error"] == pytest.approx(error)
    assert abs(error - plain["expected_calibration_error"]) > 0.01
    assert (report["temperature"], report["answers"]) == (0.25, "ensemble of 2, temperature 0.25")
    assert "accuracy on validation (ensemble of 2, temperature 0.25)" in said
    best = 0.25 * report["temperature_scaling"]["temperature"]
    assert best == pytest.approx(plain["temperature_scaling"]["temperature"], rel=1e-3)
    advice = f"`--temperature={best:.3f}`, fitted on all of these, the 0.25 applied here included."
    assert advice in (tmp_path / "scaled" / "report.md").read_text()


def test_temperature_one_changes_nothing(two_models, small_csv, tmp_path):
    flags = [f"--checkpoint={two_models[0]}", f"--data={small_csv}"]
    plain, one, _ = evaluated(tmp_path / "plain", *flags)
    report, other, _ = evaluated(tmp_path / "one", *flags, "--temperature=1")
    assert report | {"command": ""} == plain | {"command": ""}
    assert (report["temperature"], report["answers"]) == (1.0, "plain")
    assert other.probabilities.dtype == np.float32
    np.testing.assert_array_equal(other.probabilities, one.probabilities)
    np.testing.assert_array_equal(other.losses, one.losses)
    best = report["temperature_scaling"]["temperature"]
    advice = f"`--temperature={best:.3f}`, fitted on all of these."
    assert advice in (tmp_path / "one" / "report.md").read_text()


def test_where_no_image_is_left_that_is_said(two_models, small_csv):
    model, records = trained.load(two_models[1]), read_data(small_csv).split("test").take([])
    with pytest.raises(UserError, match="no image is left to answer"):
        model.evaluator.predict(model.variables, records, progress=False)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "0.001", "101"])
def test_what_is_no_temperature_is_refused(value):
    line = call("evaluate", ["--checkpoint=a", f"--temperature={value}"]).refusal()
    assert f"--temperature={float(value)}: give a number from 0.01 to 100" in line


@pytest.mark.parametrize(
    ("flag", "folder"),
    [("--tta=flip", "report-test-flip"), ("--temperature=1.5", "report-test-T1.5")],
)
def test_another_way_of_answering_does_not_replace_the_plain_report(
    two_models, small_csv, tmp_path, flag, folder
):
    path = tmp_path / "model.safetensors"
    shutil.copy(two_models[1], path)
    flags = [f"--checkpoint={path}", f"--data={small_csv}", "--split=test", flag]
    outcome = call("evaluate", flags)
    assert outcome.status == 0, outcome.err
    assert [p.name for p in (tmp_path / "model").iterdir()] == [folder]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--checkpoint=a", "--checkpoint=a"], ["given twice"]),
        (["--checkpoint=a", "--checkpoint=b/../a/"], ["given twice"]),
        (["--checkpoint=a", "--checkpoint=b"], ["--output=DIR"]),
        (["--checkpoint=a", "--tta=ten"], ["tta", "flip_crops"]),
    ],
)
def test_what_makes_no_ensemble_is_refused(flags, words):
    line = call("evaluate", flags).refusal()
    assert all(word in line for word in words), line


def test_who_chose_an_ensemble(two_models):
    run, file = trained.load_all(two_models)
    assert run.evaluator is file.evaluator, "equal models are compiled once"

    def chosen(*splits):
        models = [
            replace(run, about=replace(run.about, origin={"selected_on": split}))
            for split in splits
        ]
        known = run.about.training_data.get("test", "of test")
        return trained.origin_of(models, "test", known)["selected_on"]

    assert chosen("validation", "validation") == "validation"
    assert chosen("validation", "test") == "test"
    assert chosen("validation", None) is None
    assert chosen("test") == "test"
