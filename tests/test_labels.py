"""Names and orders: a silent mix-up here is the classic bug of FER2013."""

import pytest

from fer_jax import labels
from fer_jax.errors import UserError


def test_the_projects_order_is_alphabetical():
    assert list(labels.LABELS) == sorted(labels.LABELS)
    assert labels.LABELS[1] == "disgust"


def test_csv_order_is_not_ours():
    assert [labels.index(name) for name in labels.FER2013_CSV_ORDER] == [0, 1, 2, 3, 5, 6, 4]


@pytest.mark.parametrize(
    ("alias", "name"),
    [("Happiness", "happy"), ("fearful", "fear"), (" ANGER ", "angry"), ("sadness", "sad")],
)
def test_aliases(alias, name):
    assert labels.canonical(alias) == name


def test_every_alias_leads_to_a_label():
    assert set(labels.ALIASES.values()) <= set(labels.LABELS)
    assert not set(labels.ALIASES) & set(labels.LABELS)


def test_an_unknown_class_names_the_nearest():
    with pytest.raises(UserError, match=r"unknown class 'hapy'; did you mean 'happy'"):
        labels.canonical("hapy")


def test_a_parsed_order_is_canonical():
    order = "neutral,happiness,surprise,sadness,anger,disgust,fear"
    assert labels.parse_order(order)[:2] == ("neutral", "happy")


@pytest.mark.parametrize("order", ["angry,disgust", "angry," * 7, ",".join(labels.LABELS) + ",sad"])
def test_an_order_names_each_class_once(order):
    with pytest.raises(UserError, match="exactly once"):
        labels.parse_order(order)
