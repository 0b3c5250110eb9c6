"""One pass over a split: batches in, predictions out, every image counted once; means of such."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from fer_jax.data.sources import Records
from fer_jax.evaluation.predictions import Predictions

EvalStep = Callable[[Any, Any], tuple[jax.Array, jax.Array]]
LAG = 2  # batches in flight before results are fetched


def predict(
    eval_step: EvalStep, variables: Any, batches: Iterator[Any], records: Records, progress: bool
) -> Predictions:
    """Answers for all N records, from global batches in their order, the last one padded."""
    outputs: list[Any] = []
    pass_over = tqdm(batches, desc="evaluating", unit="batch", leave=False, disable=not progress)
    for number, batch in enumerate(pass_over):
        outputs.append(eval_step(variables, batch))
        if number >= LAG:
            outputs[number - LAG] = jax.device_get(outputs[number - LAG])
    probabilities, losses = (
        np.concatenate(part)[: len(records)] for part in zip(*jax.device_get(outputs), strict=True)
    )
    return Predictions(records.keys, records.labels, probabilities, losses)


def average(answers: Sequence[tuple[Any, Any]]) -> tuple[jax.Array, jax.Array]:
    """Mean of probabilities [B, K] over views or models, and the cross-entropies [B] of that mean.

    Of losses -log p the mean's is -log mean exp(-loss), which does not underflow.
    """
    probabilities, losses = (jnp.stack(part) for part in zip(*answers, strict=True))
    mean_losses = jnp.log(len(answers)) - jax.nn.logsumexp(-losses, axis=0)
    return jnp.mean(probabilities, axis=0), mean_losses


def ensemble(members: Sequence[Predictions]) -> Predictions:
    """The mean of the members' probabilities for the same records; of one member, its own."""
    first = members[0]
    if any(member.keys != first.keys for member in members):
        raise ValueError("members of an ensemble must answer the same images in the same order")
    if len(members) == 1:
        return first
    probabilities, losses = average([(one.probabilities, one.losses) for one in members])
    return Predictions(first.keys, first.labels, np.asarray(probabilities), np.asarray(losses))
