"""Expected calibration error on constructed cases and against a naive loop."""

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from fer_jax.evaluation.calibration import expected_calibration_error, reliability


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
    assert np.flatnonzero(table.count).tolist() == [8, 9, 14]
    assert len(table.count) == 15
    np.testing.assert_allclose(table.edges, np.arange(16) / 15)


def test_rows_are_plain_and_empty_bins_are_none():
    probabilities, labels = two_class([0.84, 0.84], [1, 0])
    rows = reliability(probabilities, labels).rows()
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
    assert reliability(probabilities, np.zeros(1, int)).count[-1] == 1
