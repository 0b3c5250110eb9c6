"""The model for inference answers as the one that was trained, to rounding."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from made_models import PUBLISHED, UNIT, made_images, made_model, trained_variables

from fer_jax.models import efficientnet, folded


@pytest.fixture(scope="module", autouse=True)
def small():
    """Two stages: every kind of layer, with and without a residual, expansion and stride."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(efficientnet, "STAGES", efficientnet.STAGES[:2])
        yield


@pytest.mark.parametrize(
    ("variant", "head", "padding", "scaling", "stem_stride"),
    [
        pytest.param("tiny", "fer", "same", PUBLISHED, 2, marks=pytest.mark.slow),
        ("tiny", "fer same", "symmetric", ((0.1, 0.5, 0.9), (0.9, 0.5, 0.25)), 1),
        ("lite0", "imagenet", "symmetric", PUBLISHED, 2),
        pytest.param("tiny", "none", "same", UNIT, 2, marks=pytest.mark.slow),
    ],
)
def test_it_answers_as_the_trained_model(variant, head, padding, scaling, stem_stride):
    model = made_model(variant, head, padding, 1e-3, scaling, stem_stride)
    variables, images = trained_variables(model), made_images(4, 33)
    expected = jax.jit(functools.partial(model.apply, train=False))(variables, images)
    whole, ready = folded.fold(model, variables), folded.ready(model, variables)
    assert not [name for name in whole if "_bn" in name]
    for arrays, plain in ((ready, False), (whole, False), (whole, True)):
        infer = jax.jit(functools.partial(folded.logits, model, plain=plain))
        answers = infer(arrays, images)
        assert answers.shape == expected.shape
        np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_each_image_has_an_answer_of_its_own_and_grey_is_spread():
    model = made_model("tiny", "imagenet", scaling=PUBLISHED)
    arrays, images = folded.fold(model, trained_variables(model)), made_images(2, 32)
    infer = jax.jit(functools.partial(folded.logits, model))
    answers = infer(arrays, images)
    assert np.abs(answers[0] - answers[1]).max() > 0.01 * np.abs(answers).max()
    grey = infer(arrays, images[..., :1])
    spread = np.repeat(images[..., :1], 3, axis=3)
    np.testing.assert_allclose(grey, infer(arrays, spread), rtol=0, atol=1e-5)
    with pytest.raises(TypeError, match="uint8"):
        infer(arrays, jnp.float32(images))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="kernels come apart on CPUs alone")
def test_no_call_copies_the_head_s_kernel():
    model = made_model("tiny", "fer")
    variables, image = trained_variables(model), made_images(1, 96)
    whole, ready = folded.fold(model, variables), folded.ready(model, variables)

    def temporary(arrays):
        program = jax.jit(functools.partial(folded.logits, model)).lower(arrays, image).compile()
        return program.memory_analysis().temp_size_in_bytes

    kernel = whole["head/conv/kernel"]
    assert len(jax.tree.leaves(ready)) == len(whole) + 8  # its nine taps alone
    assert temporary(ready) < temporary(whole) - kernel.nbytes / 2
