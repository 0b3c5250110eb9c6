"""Training from a relative's weights: what fits is taken, the rest does no harm, all is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from made_models import made_file, made_model

from fer_jax import model_file
from fer_jax.errors import UserError
from fer_jax.models.classifier import variable_shapes
from fer_jax.models.efficientnet import MBConv, Style, block_table
from fer_jax.training import state, warm_start

B2, LITE2 = made_model("b2"), made_model("lite2", head="imagenet")
ENDS = ("top/kernel", "top_bn/scale", "top_bn/bias", "top_bn/mean", "top_bn/var")


@pytest.fixture(scope="module")
def lite2(tmp_path_factory):
    """A file of Lite2 with the head of ImageNet, and its arrays by name."""
    path, file = tmp_path_factory.mktemp("lite2") / "lite2.safetensors", made_file(LITE2)
    model_file.save(path, file)
    return path, flatten_dict(file.variables, sep="/")


@pytest.fixture(scope="module")
def shapes():
    return variable_shapes(B2)


@pytest.fixture(scope="module")
def start(lite2):
    return warm_start.load(lite2[0], B2, partial=True)


def test_what_has_the_same_name_and_shape_is_taken(lite2, start, shapes):
    found = flatten_dict(start.variables, sep="/")
    same = [name for name, array in lite2[1].items() if shapes.get(name) == array.shape]
    assert len(same) == 315
    for name in same:
        np.testing.assert_array_equal(found[name], lite2[1][name])
    assert not any("head" in name for name in found)


def test_of_the_wider_top_the_first_channels_are_taken(start, shapes):
    found = flatten_dict(start.variables, sep="/")
    narrow = {name for name in found if found[name].shape != shapes[name]}
    assert {name.split("/", 2)[2] for name in narrow} == set(ENDS)
    drawn = {"params": {"top": {"kernel": jnp.ones((2, 5))}}}
    given = {"params": {"top": {"kernel": np.full((2, 3), 7.0)}}}
    merged = state._started(drawn, given)["params"]["top"]["kernel"]
    np.testing.assert_array_equal(merged, [[7, 7, 7, 1, 1]] * 2)


def test_gates_open_and_missing_blocks_pass_their_input_on(start):
    found = flatten_dict(start.variables, sep="/")
    gates = {name for name in found if "squeeze_excite" in name}
    assert len(gates) == 2 * len(block_table("b2", 0.0))
    for name in gates:
        np.testing.assert_array_equal(found[name], 0.0 if name.endswith("kernel") else 4.0)
    still = {name.split("/")[2] for name, array in found.items() if not np.any(array)} - {"top"}
    assert {"block1b", "block7b"} == {
        block for block in still if f"params/backbone/{block}/depthwise/kernel" not in found
    }


def test_a_missing_block_is_an_identity():
    block = next(block for block in block_table("b2", 0.0) if block.name == "block1b")
    module = MBConv(block, Style("same", 1e-3, 0.99, jnp.float32))
    x = jax.random.normal(jax.random.key(1), (1, 4, 4, block.filters_in))
    variables = module.init(jax.random.key(0), x, False)
    params = {**variables["params"]}
    params["project_bn"] = {**params["project_bn"], "scale": jnp.zeros(block.filters_out)}
    np.testing.assert_array_equal(module.apply({**variables, "params": params}, x, False), x)


def test_both_sides_are_listed(lite2, start):
    lines = start.text.splitlines()
    assert lines[0] == f"init: of {lite2[0]} (made lite2) 315 of 443 arrays"
    assert lines[1:4] == [
        "  taken in part: arrays 4 of top_bn, 1 of top",
        "  gates opened: arrays "
        + ", ".join(f"2 of {block.name}" for block in BLOCKS[:6])
        + " and of 17 more",
        "  identities: arrays 1 of block1b, 1 of block7b",
    ]
    assert lines[4].startswith("  drawn: arrays ")
    assert "6 of head" in lines[4]
    assert lines[5:] == ["  left over: arrays 2 of head"]


BLOCKS = block_table("b2", 0.0)


def test_a_model_of_our_classes_gives_its_head_too(tmp_path):
    path, file = tmp_path / "fer.safetensors", made_file(made_model("mini"))
    model_file.save(path, file)
    loaded = warm_start.load(path, made_model("mini"), partial=True)
    assert flatten_dict(loaded.variables).keys() == flatten_dict(file.variables).keys()


def test_other_classes_or_another_order_keep_their_head(tmp_path):
    path, file = tmp_path / "fer.safetensors", made_file(made_model("mini"))
    labels = list(reversed(file.about.labels))
    model_file.save(path, made_file(made_model("mini"), labels=labels))
    found = flatten_dict(warm_start.load(path, made_model("mini"), partial=True).variables, sep="/")
    assert not any("head" in name for name in found)


def test_without_the_switch_a_relative_is_refused(lite2):
    with pytest.raises(UserError, match=r"init\.partial=True takes what fits .*variant=lite2"):
        warm_start.load(lite2[0], B2, partial=False)


def test_another_scaling_is_refused_of_a_relative_too(lite2):
    scaled = made_model("b2", scaling=((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(UserError, match=r"--config\.model\.input_mean=0,0,0"):
        warm_start.load(lite2[0], scaled, partial=True)
