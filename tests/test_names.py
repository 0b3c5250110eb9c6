"""The tables of names: every variant and library, nothing twice, their own names."""

import json
from pathlib import Path

import numpy as np
import pytest
from made_models import made_model
from support import slow_but

from fer_jax.conversion import names
from fer_jax.models import efficientnet
from fer_jax.models.classifier import variable_shapes

GOLDEN = Path(__file__).resolve().parent / "golden"
VARIANTS = ("tiny", "b0", "b1", "b2", "b3", "b4", "b5", "b6", "b7", "lite0", "lite1", "lite2")
VARIANTS += ("lite3", "lite4", "mini")


@pytest.fixture(scope="module")
def of_b0():
    return variable_shapes(made_model("b0"))


def variables_of(variant, of_b0):
    """As B0's: a block of any variant has what B0's first block has, or its second."""
    names_of = {1: "/block1a/", 6: "/block2a/"}
    expected = {name for name in of_b0 if "/block" not in name}
    for block in efficientnet.block_table(variant, 0.0):
        like = names_of[block.expansion]
        expected |= {n.replace(like, f"/{block.name}/") for n in of_b0 if like in n}
    lite = variant.startswith("lite")
    return {name for name in expected if not (lite and "squeeze_excite" in name)}


def test_variants_have_the_variables_of_their_blocks(of_b0):
    assert variables_of("b0", of_b0) == of_b0.keys()
    assert variables_of("tiny", of_b0) == variable_shapes(made_model("tiny")).keys()


@pytest.mark.parametrize("variant", slow_but(("mini", "b2", "lite2"), VARIANTS))
def test_every_variable_has_its_own_name_in_every_library(variant, of_b0):
    for column in names.COLUMNS:
        foreign = names.foreign_names(made_model(variant), column)
        assert foreign.keys() == variables_of(variant, of_b0)
        assert len(set(foreign.values())) == len(foreign)


def test_no_variant_is_left_untested():
    assert set(VARIANTS) == set(efficientnet.VARIANTS)


@pytest.mark.parametrize("column", names.COLUMNS)
def test_names_and_shapes_are_those_of_the_library_itself(column, of_b0):
    """The golden files list what Keras, timm and torchvision called theirs when they ran."""
    table = json.loads((GOLDEN / f"parity-{column}-b0.json").read_text())
    theirs = {
        name: tuple(shape)
        for name, (shape, _) in table.items()
        if not name.startswith("normalization/") and not name.endswith("num_batches_tracked")
    }
    model = made_model("b0", head="imagenet")
    shapes = {name: shape for name, shape in of_b0.items() if "/head/" not in name}
    shapes["params/head/logits/kernel"] = (1280, 1000)
    shapes["params/head/logits/bias"] = (1000,)
    foreign = names.foreign_names(model, column)
    ours = {
        foreign[n]: names._to_foreign(n, np.zeros(shape), column).shape
        for n, shape in shapes.items()
    }
    assert ours == theirs
