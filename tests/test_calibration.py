"""Calibration error against a naive loop; temperature scaling never scores what it fitted."""

import dataclasses

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from made_models import made_file, made_model
from scipy.special import softmax

from fer_jax.evaluation.calibration import (
    BINS,
    at_temperature,
    calibration_error,
    cross_fitted,
    fit_temperature,
    mean_loss,
    reliability,
    scale,
)
from fer_jax.evaluation.predictions import TEMPERATURES, Predictions
from fer_jax.model_file import calibrated, unsmoothed


def expected_calibration_error(probabilities, labels, bins=BINS):
    return calibration_error(reliability(probabilities, labels, bins))


def two_class(confidences, correct):
    """Class 0 is always the answer; the label is 0 where it is right."""
    sure = np.array(confidences, np.float64)
    return np.stack([sure, 1 - sure], 1), np.where(correct, 0, 1)


def test_constructed_case_by_hand():
    """Bins (0.8, 0.867] with 4 images and (0.933, 1] with 6, gaps 0.84 - 0.5 and 1 - 0.98."""
    probabilities, labels = two_class([0.84] * 4 + [0.98] * 6, [1, 1, 0, 0] + [1] * 6)
    expected = 0.4 * (0.84 - 0.5) + 0.6 * (1 - 0.98)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(expected)


def test_perfectly_calibrated_and_perfectly_wrong():
    probabilities, labels = two_class([0.75] * 8, [1, 1, 1, 0] * 2)
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0, abs=1e-12)
    probabilities, labels = two_class([1.0] * 5, [0] * 5)
    assert expected_calibration_error(probabilities, labels) == 1.0


def test_gaps_of_one_bin_cancel_and_of_two_do_not():
    probabilities, labels = two_class([0.61, 0.65], [1, 0])
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.63 - 0.5)
    probabilities, labels = two_class([0.61, 0.75], [1, 0])
    assert expected_calibration_error(probabilities, labels) == pytest.approx((0.39 + 0.75) / 2)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_bins_are_closed_at_their_upper_edge(dtype):
    probabilities = np.array([[0.6, 0.4], [0.61, 0.39], [1.0, 0.0]], dtype)
    table = reliability(probabilities, np.zeros(3, np.int32))
    assert [m for m, row in enumerate(table) if row["count"]] == [8, 9, 14]
    assert len(table) == 15
    np.testing.assert_allclose([row["to"] for row in table], np.arange(1, 16) / 15)


def test_rows_are_plain_and_empty_bins_are_none():
    probabilities, labels = two_class([0.84, 0.84], [1, 0])
    rows = reliability(probabilities, labels)
    assert rows[0] == {"from": 0.0, "to": 1 / 15, "count": 0, "accuracy": None, "confidence": None}
    assert rows[12]["count"] == 2
    assert rows[12]["accuracy"] == 0.5
    assert rows[12]["confidence"] == pytest.approx(0.84)


def naive_ece(probabilities, labels, bins):
    n, total = len(labels), 0.0
    sure, right = probabilities.max(1), probabilities.argmax(1) == labels
    for m in range(bins):
        inside = (sure > m / bins) & (sure <= (m + 1) / bins)
        if inside.any():
            total += inside.sum() / n * abs(right[inside].mean() - sure[inside].mean())
    return total


@hypothesis.given(data=st.data(), n=st.integers(1, 80), bins=st.integers(1, 20))
@hypothesis.settings(max_examples=60, deadline=None)
def test_any_probabilities_agree_with_the_formula(data, n, bins):
    scores = data.draw(hnp.arrays(np.float64, (n, 7), elements=st.floats(-5, 5)))
    labels = data.draw(hnp.arrays(np.int32, n, elements=st.integers(0, 6)))
    probabilities = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    hypothesis.assume((np.abs(probabilities.max(1) * bins % 1 - 0.5) < 0.499).all())
    figure = expected_calibration_error(probabilities, labels, bins)
    assert figure == pytest.approx(naive_ece(probabilities, labels, bins), abs=1e-12)
    assert 0 <= figure <= 1


def test_rounding_above_one_stays_in_the_last_bin():
    probabilities = np.array([[np.nextafter(np.float32(1), np.float32(2)), 0]], np.float32)
    assert reliability(probabilities, np.zeros(1, int))[-1]["count"] == 1


def answers_at(temperature, n=4000, seed=0):
    """Probabilities of logits that are `temperature` times too far apart, and drawn labels."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 7)) * 1.5
    honest = softmax(logits, axis=1)
    labels = np.array([rng.choice(7, p=row) for row in honest])
    return softmax(logits * temperature, axis=1).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.5])
def test_the_temperature_is_found_again(temperature):
    probabilities, labels = answers_at(temperature)
    assert fit_temperature(probabilities, labels) == pytest.approx(temperature, rel=0.06)


def test_the_fitted_temperature_is_the_minimum_of_the_loss():
    probabilities, labels = answers_at(2.0, n=300)
    best = fit_temperature(probabilities, labels)
    losses = [mean_loss(scale(probabilities, best * f), labels) for f in (0.98, 1, 1.02)]
    assert losses[1] < min(losses[0], losses[2])
    grid = [mean_loss(scale(probabilities, t), labels) for t in np.geomspace(0.1, 10, 200)]
    assert losses[1] <= min(grid) + 1e-9


def test_scaling_keeps_the_answers_and_mends_the_error():
    probabilities, labels = answers_at(2.5)
    scaled, facts = cross_fitted(probabilities, labels, np.arange(len(labels)), seed=0)
    np.testing.assert_array_equal(scaled.argmax(1), probabilities.argmax(1))
    np.testing.assert_allclose(scaled.sum(1), 1)
    before = expected_calibration_error(probabilities, labels)
    after = expected_calibration_error(scaled, labels)
    assert before > 0.15
    assert after < 0.03
    assert facts["images"] == [2000, 2000]


def first_half(probabilities, scaled, facts):
    """Bool [N]: whose answers were scaled by the other half's temperature."""
    first, second = (scale(probabilities, t) for t in facts["temperatures"])
    found = np.isclose(scaled, second).all(axis=1)
    assert (found != np.isclose(scaled, first).all(axis=1)).all()
    return found


def answered(probabilities, labels) -> Predictions:
    losses = -np.log(probabilities[np.arange(len(labels)), labels])
    return Predictions(tuple(map(str, range(len(labels)))), labels, probabilities, losses)


@pytest.mark.parametrize("temperature", [0.5, 1.7, *TEMPERATURES])
def test_answers_at_a_temperature_are_the_same_with_another_confidence(temperature):
    plain = answered(*answers_at(2.0, n=500))
    found = at_temperature(plain, temperature, 0.0)
    np.testing.assert_array_equal(found.predicted, plain.predicted)
    powers = plain.probabilities.astype(float) ** (1 / temperature)
    expected = powers / powers.sum(1, keepdims=True)
    np.testing.assert_allclose(found.probabilities, expected, atol=1e-250)
    picked = found.probabilities[np.arange(500), plain.labels]
    likely = picked > 1e-300
    np.testing.assert_allclose(found.losses[likely], -np.log(picked[likely]), atol=1e-12)
    assert np.isfinite(found.losses).all()
    assert (found.keys, found.labels.tolist()) == (plain.keys, plain.labels.tolist())


def test_answers_at_temperature_one_are_left_alone():
    plain = answered(*answers_at(2.0, n=20))
    assert at_temperature(plain, 1.0, 0.1) is plain


def test_neighbouring_probabilities_stay_in_their_order():
    """The next float32 is more probable by so little that, scaled, only float64 tells."""
    third = np.float32(0.3)
    probabilities = np.array([[third, np.nextafter(third, np.float32(1)), 0.4 - third]], np.float32)
    found = at_temperature(answered(probabilities, np.array([0])), TEMPERATURES[1], 0.0)
    assert found.predicted.tolist() == [1]


def test_no_image_is_scored_by_what_was_fitted_on_it():
    """Each half's temperature changes with the other half's labels, and not with its own."""
    probabilities, labels = answers_at(2.0, n=400)
    given, facts = cross_fitted(probabilities, labels, np.arange(400), seed=1)
    own = first_half(probabilities, given, facts)
    assert own.sum() == 200
    turned = np.where(own, (labels + 1) % 7, labels)
    other, others_facts = cross_fitted(probabilities, turned, np.arange(400), seed=1)
    np.testing.assert_array_equal(first_half(probabilities, other, others_facts), own)
    np.testing.assert_array_equal(other[own], given[own])
    assert (other[~own] != given[~own]).any()
    assert facts["temperatures"][1] == fit_temperature(probabilities[~own], labels[~own])


def test_copies_lie_in_one_half():
    probabilities, labels = answers_at(1.0, n=90)
    copies = np.arange(90) // 3
    half = first_half(probabilities, *cross_fitted(probabilities, labels, copies, seed=0))
    half = half.reshape(-1, 3)
    assert (half == half[:, :1]).all()
    assert half[:, 0].sum() == 15


def test_too_few_images_have_no_halves():
    probabilities, labels = answers_at(1.0, n=4)
    assert cross_fitted(probabilities[:1], labels[:1], np.zeros(1, int), seed=0) is None
    assert cross_fitted(probabilities, labels, np.zeros(4, int), seed=0) is None
    assert cross_fitted(probabilities[:2], labels[:2], np.arange(2), seed=0) is not None


def test_certain_answers_stay_finite():
    probabilities = np.eye(7, dtype=np.float32)[[0, 1, 2, 3] * 5]
    right, wrong = np.array([0, 1, 2, 3] * 5), np.array([1, 2, 3, 4] * 5)
    assert fit_temperature(probabilities, right) < 1
    assert fit_temperature(probabilities, wrong) == pytest.approx(TEMPERATURES[1], rel=1e-3)
    assert np.isfinite(scale(probabilities, TEMPERATURES[0])).all()
    assert np.isfinite(mean_loss(probabilities, wrong))


def test_what_smoothed_labels_taught_is_taken_off_again():
    """Answers of a model that learned (1 - s) p + s / K: no temperature mends them."""
    honest, labels = answers_at(1.0)
    taught = 0.9 * honest + 0.1 / honest.shape[1]
    shares = unsmoothed(taught, 0.1)
    np.testing.assert_allclose(shares / shares.sum(1, keepdims=True), honest, atol=1e-3)
    assert unsmoothed(honest, 0.0) is honest

    copies = np.arange(len(labels))
    with_it, facts = cross_fitted(taught, labels, copies, seed=0, smoothing=0.1)
    without, _ = cross_fitted(taught, labels, copies, seed=0)
    assert facts["temperature"] == pytest.approx(1.0, rel=0.06)
    assert mean_loss(with_it, labels) < mean_loss(without, labels)
    best = np.argmax(with_it, axis=1)
    np.testing.assert_array_equal(best, np.argmax(taught, axis=1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_model_file_calibrates_logits_as_a_report_did_probabilities(smoothing):
    logits = np.random.default_rng(0).normal(0, 3, (50, 7)).astype(np.float32)
    found = softmax(calibrated(logits, made_about(1.5, smoothing)), axis=1)
    expected = scale(unsmoothed(softmax(logits, axis=1), smoothing), 1.5)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert calibrated(logits, made_about(None, smoothing)) is logits


def made_about(temperature, smoothing):
    about = made_file(made_model(head="fer")).about
    return dataclasses.replace(about, temperature=temperature, label_smoothing=smoothing)
