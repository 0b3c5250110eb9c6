"""Models are compared on the same images: exact p, paired intervals, spread over seeds."""

import json

import numpy as np
import pytest
from scipy.stats import binom
from support import call, run

from fer_jax.errors import UserError
from fer_jax.evaluation import comparison
from fer_jax.evaluation.predictions import Predictions


def answers(correct, keys=None, labels=None) -> Predictions:
    """Predictions of two classes, right where `correct`."""
    n = len(correct)
    labels = np.arange(n) % 2 if labels is None else labels
    predicted = np.where(correct, labels, 1 - labels)
    probabilities = np.where(predicted[:, None] == np.arange(2), 0.9, 0.1).astype(np.float32)
    keys = [f"k{i:05d}" for i in range(n)] if keys is None else keys
    losses = -np.log(probabilities[np.arange(n), labels])
    return Predictions(tuple(keys), labels.astype(np.int32), probabilities, losses)


def drawn(n, accuracy, seed) -> np.ndarray:
    return np.random.default_rng(seed).random(n) < accuracy


def compared(**models):
    return comparison.compare(models, dict.fromkeys(models), samples=4000, seed=0)


def test_mcnemar_by_hand():
    """5 images only the first has right, 1 only the second: 2 P(X <= 1), X binomial (6, 1/2)."""
    first = np.array([1] * 10 + [1] * 5 + [0] * 1 + [0] * 4, bool)
    second = np.array([1] * 10 + [0] * 5 + [1] * 1 + [0] * 4, bool)
    assert comparison.mcnemar(first, second) == pytest.approx(2 * (1 + 6) / 2**6)
    assert comparison.mcnemar(second, first) == comparison.mcnemar(first, second)
    assert comparison.mcnemar(first, first) == 1.0


def test_mcnemar_of_many_agrees_with_the_binomial_tail():
    first, second = drawn(3000, 0.7, 0), drawn(3000, 0.67, 1)
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    expected = min(1.0, 2 * binom.cdf(min(b, c), b + c, 0.5))
    assert comparison.mcnemar(first, second) == pytest.approx(expected)


def test_a_pair_by_hand():
    first = np.array([[1, 1, 1, 0, 0, 0, 1, 1, 0, 0]], bool)
    second = np.array([[1, 1, 1, 1, 1, 1, 0, 1, 0, 0]], bool)
    result = compared(a=first, b=second)
    (pair,) = result["pairs"]
    assert (pair["first"], pair["second"]) == ("a", "b")
    assert pair["difference"] == pytest.approx(0.2)
    assert (pair["only_first_right"], pair["only_second_right"]) == (1, 3)
    assert pair["mcnemar_p"] == pytest.approx(2 * 5 / 16)
    assert [row["accuracy"] for row in result["models"]] == [0.5, 0.7]
    assert result["models"][0]["standard_deviation"] is None
    json.dumps(result, allow_nan=False)


def test_the_interval_of_a_difference_is_paired():
    """Two models that differ in 20 of 2,000 images: what they share does not widen it."""
    first = drawn(2000, 0.6, 0)
    second = first.copy()
    second[np.flatnonzero(~first)[:20]] = True
    low, high = compared(a=first[None], b=second[None])["pairs"][0]["difference_95_interval"]
    deviation = np.sqrt(0.01 * 0.99 / 2000)
    assert low == pytest.approx(0.01 - 1.96 * deviation, abs=0.001)
    assert high == pytest.approx(0.01 + 1.96 * deviation, abs=0.001)
    apart = compared(a=first[None], b=second[np.random.default_rng(1).permutation(2000)][None])
    wide = apart["pairs"][0]["difference_95_interval"]
    assert wide[1] - wide[0] > 3 * (high - low)


def test_a_single_models_interval_is_the_binomials():
    run_ = drawn(3589, 0.7, 3)
    low, high = compared(a=run_[None])["models"][0]["accuracy_95_interval"]
    deviation = np.sqrt(run_.mean() * (1 - run_.mean()) / 3589)
    assert low == pytest.approx(run_.mean() - 1.96 * deviation, abs=0.001)
    assert high == pytest.approx(run_.mean() + 1.96 * deviation, abs=0.001)


def test_the_bootstrap_by_patterns_is_that_of_images():
    correct = np.stack([drawn(300, 0.7, seed) for seed in range(3)])
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, 300, (4000, 300))
    naive = correct[:, chosen].mean(axis=2).T
    quick = comparison.bootstrap_accuracies(correct, 4000, np.random.default_rng(1))
    assert quick.shape == (4000, 3)
    np.testing.assert_allclose(quick.mean(0), correct.mean(1), atol=0.002)
    np.testing.assert_allclose(np.cov(quick.T), np.cov(naive.T), atol=6e-5)


def test_seeds_have_mean_spread_and_a_wider_interval():
    runs = np.stack([drawn(1000, accuracy, 0) for accuracy in (0.60, 0.66, 0.72)])
    (row,) = compared(recipe=runs)["models"]
    each = runs.mean(axis=1)
    assert row["runs"] == 3
    assert row["accuracies"] == each.tolist()
    assert row["accuracy"] == pytest.approx(each.mean())
    assert row["standard_deviation"] == pytest.approx(
        np.sqrt(((each - each.mean()) ** 2).sum() / 2)
    )
    (alone,) = compared(recipe=runs[1:2])["models"]
    width, narrow = (np.ptp(r["accuracy_95_interval"]) for r in (row, alone))
    assert width > 1.2 * narrow


def test_recipes_of_several_seeds_have_a_difference_but_no_paired_test():
    one = np.stack([drawn(1000, 0.6, seed) for seed in range(2)])
    other = np.stack([drawn(1000, 0.8, seed) for seed in range(3)])
    (pair,) = compared(a=one, b=other)["pairs"]
    assert pair["difference"] == pytest.approx(other.mean() - one.mean())
    assert pair["difference_95_interval"][0] > 0.1
    assert pair["mcnemar_p"] is pair["only_first_right"] is None


def test_answers_are_paired_by_key_whatever_their_order():
    correct = drawn(20, 0.5, 0)
    given = answers(correct)
    order = np.random.default_rng(0).permutation(20)
    shuffled = answers(correct[order], [given.keys[i] for i in order], given.labels[order])
    found = comparison.correct_answers({"a": given, "b": shuffled})
    np.testing.assert_array_equal(found["a"], found["b"])
    np.testing.assert_array_equal(found["a"], correct)


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (answers(np.ones(9, bool)), ["not of the same images", "1 keys", "'k00009'"]),
        (answers(np.ones(10, bool), [f"x{i}" for i in range(10)]), ["20 keys", "same split"]),
        (
            answers(np.ones(10, bool), labels=np.array([1, *(np.arange(1, 10) % 2)])),
            ["1 keys", "have other labels", "'k00000'"],
        ),
        (answers(np.ones(10, bool), ["k"] * 10), ["a key twice"]),
        (answers(np.ones(0, bool)), ["no predictions"]),
    ],
)
def test_other_images_are_refused(other, words):
    with pytest.raises(UserError) as caught:
        comparison.correct_answers({"a.npz": answers(np.ones(10, bool)), "b.npz": other})
    assert "b.npz" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.fixture
def reports(tmp_path):
    """Three reports' folders of 400 images; only their predictions."""
    for name, accuracy in (("a", 0.5), ("b", 0.7), ("c", 0.72)):
        (tmp_path / name).mkdir()
        answers(drawn(400, accuracy, 5)).save(tmp_path / name / "predictions.npz")
    return tmp_path


def test_the_door_prints_and_writes_one_result(reports):
    a, b = reports / "a", reports / "b" / "predictions.npz"
    outcome = call("compare", [a, b, f"--output={reports / 'new' / 'out'}"])
    assert outcome.status == 0, outcome.err
    written = json.loads((reports / "new" / "out" / "comparison.json").read_text())
    (pair,) = written["pairs"]
    assert written["n"] == 400
    assert [row["name"] for row in written["models"]] == [str(a), str(b)]
    assert pair["mcnemar_p"] < 1e-6
    text = (reports / "new" / "out" / "comparison.md").read_text()
    for shown in (f"{100 * pair['difference']:+.2f}", f"{pair['mcnemar_p']:.3g}", "400 images"):
        assert shown in text
        assert shown in outcome.out
    assert "several pairs" not in text


def test_the_door_takes_seeds(reports):
    paths = [reports / name for name in "abc"]
    outcome = call("compare", [*paths, "--seeds", f"--output={reports / 'out'}"])
    assert outcome.status == 0, outcome.err
    (row,) = json.loads((reports / "out" / "comparison.json").read_text())["models"]
    assert row["runs"] == 3
    assert f"{100 * row['standard_deviation']:.2f}" in outcome.out
    grouped = call("compare", [f"{paths[1]},{paths[2]}", paths[0], f"--output={reports / 'two'}"])
    assert grouped.status == 0, grouped.err
    rows = json.loads((reports / "two" / "comparison.json").read_text())["models"]
    assert [row["runs"] for row in rows] == [2, 1]


def test_three_models_make_three_pairs_and_a_warning(reports):
    outcome = call("compare", [reports / name for name in "abc"])
    assert outcome.status == 0, outcome.err
    assert outcome.out.count(" minus ") == 3
    assert "several pairs" in outcome.out


def test_plain_and_augmented_runs_are_told_apart(reports):
    for name, way in (("a", "plain"), ("b", "plain"), ("c", "test-time augmentation flip")):
        (reports / name / "report.json").write_text(json.dumps({"answers": way}))
    a, b, c = (reports / name for name in "abc")
    line = call("compare", [a, f"{b},{c}"]).refusal()
    assert "(plain)" in line
    assert "(test-time augmentation flip)" in line
    outcome = call("compare", [f"{a},{b}", c])
    assert outcome.status == 0, outcome.err
    rows = [line.split("|")[2].strip() for line in outcome.out.splitlines()[2:4]]
    assert rows == ["plain", "test-time augmentation flip"]
    (reports / "b" / "report.json").unlink()
    assert "(no report)" in call("compare", [f"{a},{b}", c]).refusal()


def test_reports_of_others_may_hold_anything(reports):
    (reports / "a" / "report.json").write_text('{"answers": ["plain"]}')
    outcome = call("compare", [reports / "a", reports / "b"])
    assert outcome.status == 0, outcome.err
    given = answers(drawn(400, 0.5, 5))
    named = np.array(given.keys)[:, None]
    arrays = {"label": given.labels, "probabilities": given.probabilities, "loss": given.losses}
    np.savez(reports / "b" / "predictions.npz", key=named, **arrays)
    assert "key is no list of texts" in call("compare", [reports / "a", reports / "b"]).refusal()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["two or more"]),
        (["a"], ["two or more"]),
        (["a", "a"], ["a is given twice"]),
        (["a", "b", "a/"], ["a/ is given twice"]),
        (["a", "b", "b/../a/predictions.npz"], ["a/predictions.npz is given twice"]),
        (["a", "none.npz"], ["cannot read predictions", "none.npz"]),
        (["a", "b", "--bootstrap_samples=0"], ["bootstrap_samples"]),
        (["a", "b", "--output=a/predictions.npz"], ["cannot write", "predictions.npz"]),
    ],
)
def test_the_door_refuses_in_one_line(reports, monkeypatch, arguments, words):
    monkeypatch.chdir(reports)
    line = call("compare", arguments).refusal()
    assert all(word in line for word in words), line


@pytest.mark.slow
def test_as_a_process_it_takes_arguments(reports):
    outcome = run("compare", [reports / "a", reports / "b"])
    assert outcome.status == 0, outcome.err
    assert "McNemar p" in outcome.out
    assert not outcome.err
