"""The EfficientNet family: published parameter counts, shapes, and Keras' semantics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from support import Counts, slow_but, small_config

from fer_jax.models.classifier import (
    Classifier,
    FerHead,
    ImagenetHead,
    smallest_image_size,
    variable_shapes,
)
from fer_jax.models.efficientnet import (
    VARIANTS,
    EfficientNet,
    Style,
    block_table,
    round_filters,
    scale_residuals,
)
from fer_jax.train import make_trainer

STYLE = Style("same", 1e-3, 0.99, jnp.float32)
UNSCALED = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
PUBLISHED = {
    "b0": 5_288_548,
    "b1": 7_794_184,
    "b2": 9_109_994,
    "b3": 12_233_232,
    "b4": 19_341_616,
    "b5": 30_389_784,
    "b6": 43_040_704,
    "b7": 66_347_960,
    "lite0": 4_652_008,
    "lite1": 5_416_680,
    "lite2": 6_092_072,
    "lite3": 8_197_096,
    "lite4": 13_006_568,
}


def fer_model(variant="mini", style=STYLE, padding="VALID", drop_connect=0.2, stem_stride=2):
    head = FerHead(7, 128, 128, 0.3, padding, style.dtype)
    return Classifier(EfficientNet(variant, style, drop_connect, stem_stride), head, *UNSCALED)


def shapes(model, size=96):
    images = jnp.zeros((1, size, size, 3), jnp.uint8)
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images, train=False))


def count(tree):
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def test_no_variant_is_left_untested():
    assert set(PUBLISHED) | {"mini", "tiny"} == set(VARIANTS)


@pytest.mark.parametrize("variant", slow_but(("b0", "lite2"), PUBLISHED))
def test_parameters_with_the_imagenet_head_are_as_published(variant):
    model = Classifier(EfficientNet(variant, STYLE, 0.2, 2), ImagenetHead(1000, 0.2), *UNSCALED)
    variables = shapes(model)
    assert count(variables["params"]) == PUBLISHED[variant]
    assert_the_tables_say_so(model, variables)


def assert_the_tables_say_so(model, variables):
    """What files are checked by is Flax's own: names, and shapes of float32."""
    flat = flatten_dict(variables, sep="/")
    assert variable_shapes(model) == {name: leaf.shape for name, leaf in flat.items()}
    assert {leaf.dtype for leaf in flat.values()} == {jnp.dtype("float32")}


def test_b2_with_the_seeds_head_has_the_seeds_parameters():
    model = fer_model("b2")
    variables = shapes(model)
    assert count(variables["params"]) == 9_340_553
    assert count(variables["batch_stats"]) == 67_568
    assert_the_tables_say_so(model, variables)


def test_the_tables_hold_for_small_and_headless_models():
    for model in (fer_model("tiny"), fer_model("tiny").clone(head=None)):
        assert_the_tables_say_so(model, shapes(model))


def test_the_smallest_size_is_the_smallest_that_gives_the_head_a_window():
    assert (smallest_image_size("VALID", 2), smallest_image_size("VALID", 1)) == (65, 33)
    assert (smallest_image_size("SAME", 2), smallest_image_size("SAME", 1)) == (1, 1)


@pytest.mark.parametrize(
    ("padding", "size", "stride", "side"),
    [
        ("same", 64, 2, 2),
        ("same", 65, 2, 3),
        ("symmetric", 97, 2, 4),
        ("same", 32, 1, 2),
        ("symmetric", 33, 1, 3),
        ("same", 49, 1, 4),
    ],
)
def test_feature_map_has_the_promised_size(padding, size, stride, side):
    backbone = EfficientNet("tiny", Style(padding, 1e-3, 0.99, jnp.float32), 0.0, stride)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    out, _ = jax.eval_shape(
        lambda x: backbone.init_with_output(jax.random.key(0), x, False), images
    )
    assert out.shape[:3] == (2, side, side)


def test_the_stems_stride_changes_no_parameter():
    of_stride = [variable_shapes(fer_model(stem_stride=stride)) for stride in (1, 2)]
    assert of_stride[0] == of_stride[1]


def test_a_stem_of_stride_1_sees_every_position(mini):
    """At every second position, and with the same kernel, it answers as a stem of stride 2."""
    _, variables, images, _ = mini
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    answers = {}
    for stride in (1, 2):
        model = fer_model(style=Style("symmetric", 1e-3, 0.99, jnp.float32), stem_stride=stride)
        _, seen = model.backbone.apply(
            backbone,
            images / np.float32(255),
            False,
            capture_intermediates=lambda module, _: module.name == "stem",
            mutable=["intermediates"],
        )
        (answers[stride],) = seen["intermediates"]["stem"]["__call__"]
    assert answers[1].shape == (4, 32, 32, answers[2].shape[-1])
    np.testing.assert_allclose(answers[1][:, ::2, ::2], answers[2], atol=1e-5)


def test_block_table_of_b2():
    blocks = block_table("b2", 0.2)
    assert len(blocks) == 23
    assert [b.name for b in blocks[:4]] == ["block1a", "block1b", "block2a", "block2b"]
    assert blocks[-1].drop_rate == pytest.approx(0.2 * 22 / 23)
    assert [b.filters_out for b in blocks if b.name.endswith("a")] == [
        16, 24, 48, 88, 120, 208, 352,
    ]  # fmt: skip


def test_round_filters_never_loses_more_than_a_tenth():
    assert [round_filters(f, 1.1) for f in (32, 1280)] == [32, 1408]
    assert all(round_filters(f, 0.25) >= 0.9 * 0.25 * f for f in range(8, 2000, 8))


@pytest.fixture(scope="module")
def mini():
    model = fer_model()
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    variables = jax.jit(lambda: model.init(jax.random.key(0), images, train=False))()
    apply = jax.jit(model.apply, static_argnames=("train", "mutable"))
    return model, variables, images, apply


def test_inference_uses_the_stored_statistics_image_by_image(mini):
    _, variables, images, apply = mini
    together = apply(variables, images, train=False)
    apart = np.concatenate([apply(variables, images[i : i + 1], train=False) for i in range(4)])
    np.testing.assert_allclose(together, apart, atol=1e-5 * np.abs(together).max())


def test_training_moves_the_statistics_by_momentum(mini):
    _, variables, images, apply = mini
    key = {"dropout": jax.random.key(1)}
    _, moved = apply(variables, images, train=True, mutable=("batch_stats",), rngs=key)
    before = variables["batch_stats"]["backbone"]["stem_bn"]
    after = moved["batch_stats"]["backbone"]["stem_bn"]
    kernel = variables["params"]["backbone"]["stem"]["kernel"]
    x = jax.lax.conv_general_dilated(
        images / np.float32(255), kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    for name, statistic in (("mean", np.mean(x, (0, 1, 2))), ("var", np.var(x, (0, 1, 2)))):
        expected = 0.99 * before[name] + 0.01 * statistic
        np.testing.assert_allclose(after[name], expected, rtol=1e-4, atol=1e-6)


def test_at_residual_scale_0_blocks_start_as_identities(mini):
    model, variables, images, _ = mini
    backbone = {name: tree["backbone"] for name, tree in variables.items()}
    params = scale_residuals(backbone["params"], "mini", 0.0)
    _, seen = model.backbone.apply(
        {**backbone, "params": params},
        images / np.float32(255),
        False,
        capture_intermediates=lambda module, _: module.name in ("stem_bn", "block1a"),
        mutable=["intermediates"],
    )
    before, after = (seen["intermediates"][name]["__call__"][0] for name in ("stem_bn", "block1a"))
    np.testing.assert_array_equal(before, after)
    scaled = {"block1a"}
    assert {name for name in params if params[name] is not backbone["params"][name]} == scaled


@pytest.mark.slow
def test_a_trainer_scales_the_residuals_of_random_weights():
    states = {}
    for scale in (1.0, 0.5):
        config = small_config("", init__residual_scale=scale)
        states[scale] = make_trainer(config, Counts((1,) * 7)).init()
    whole, half = (flatten_dict(states[scale].params, sep="/") for scale in (1.0, 0.5))
    changed = [name for name in whole if np.any(whole[name] != half[name])]
    assert changed == ["backbone/block1a/project_bn/scale"]
    assert np.all(half[changed[0]] == 0.5)


def test_dropout_and_stochastic_depth_act_in_training_only(mini):
    _, variables, images, apply = mini

    def train(seed):
        rngs = {"dropout": jax.random.key(seed)}
        return apply(variables, images, train=True, mutable=("batch_stats",), rngs=rngs)[0]

    assert not np.allclose(train(0), train(1))
    np.testing.assert_array_equal(train(0), train(0))


def test_pixels_are_scaled_once_inside(mini):
    model, variables, images, apply = mini
    with pytest.raises(TypeError, match="uint8"):
        model.apply(variables, images / 255, train=False)
    backbone = variables["params"]["backbone"], variables["batch_stats"]["backbone"]
    features = model.backbone.apply(
        {"params": backbone[0], "batch_stats": backbone[1]}, images / np.float32(255), False
    )
    logits = model.head.apply({"params": variables["params"]["head"]}, features, False)
    expected = np.asarray(logits)
    np.testing.assert_allclose(
        apply(variables, images, train=False), expected, atol=1e-4 * np.abs(expected).max()
    )


def test_a_grey_image_is_its_three_equal_channels(mini):
    _, variables, images, apply = mini
    grey = images[..., :1]
    np.testing.assert_array_equal(
        apply(variables, grey, train=False), apply(variables, grey.repeat(3, 3), train=False)
    )


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
    model = fer_model(style=Style("same", 1e-3, 0.99, jnp.bfloat16))
    images = jnp.zeros((2, 96, 96, 3), jnp.uint8)
    logits, variables = jax.eval_shape(
        lambda: model.init_with_output(jax.random.key(0), images, train=False)
    )
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {jnp.dtype("float32")}
    assert logits.dtype == jnp.float32
    features = jax.eval_shape(
        lambda x: model.backbone.init_with_output(jax.random.key(0), x, False)[0],
        jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.bfloat16),
    )
    assert features.dtype == jnp.bfloat16
