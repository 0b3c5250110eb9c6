"""The audit of the real data: known counts of copies, names that agree."""

import json
from dataclasses import replace

import numpy as np
import pytest
from made_data import SKIP, opened
from support import call

from fer_jax.auditing import conventions
from fer_jax.auditing.copies import gather


@pytest.mark.timeout(900)
def test_training_and_public_test(fer2013, tmp_path):
    outcome = call("audit", [f"--data={fer2013}", f"--output={tmp_path / 'a'}"])
    assert outcome.status == 0, outcome.err
    found = json.loads((tmp_path / "a" / "audit.json").read_text())
    leaks = {kind: splits["validation"] for kind, splits in found["leaks"].items()}
    assert (leaks["exact"], leaks["near"]) == (280, 633)
    assert "EXCHANGED" not in outcome.out
    assert len(found["conflicts"]) > 200


def test_exchanged_folders(fer2013):
    pool = gather(opened(fer2013, replace(SKIP, cache_mib=256)))
    train, validation = (np.flatnonzero(pool.splits == split) for split in ("train", "validation"))
    learned = pool.images[train[::3]], pool.labels[train[::3]]
    for cycle in ((), (0, 1), (0, 5), (4, 5, 6)):
        names = np.arange(7)
        names[list(cycle)] = [*cycle[1:], *cycle[:1]]
        asked = pool.images[validation], names[pool.labels[validation]]
        found = conventions.compare(*learned, *asked)
        assert found["exchanged"] == bool(cycle)
        assert len(found["looks_like"]) == len(cycle)
