"""One pass over a split: batches in, predictions out; every image counted once."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
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
