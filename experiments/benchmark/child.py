"""The process of one contestant: builds it, then takes turns as its parent asks, line by line.

PyTorch, TensorFlow and JAX keep threads that would fight in one process; here the contestant whose
turn it is not waits for its standard input.
"""

import importlib
import json
import os
import sys
import time
from typing import Any, Protocol, TextIO

from experiments.benchmark.memory import peak_mib
from experiments.benchmark.settings import Settings
from fer_jax.errors import one_line


class Contestant(Protocol):
    """What a room's `make(task, settings, options)` returns."""

    examples: int  # images in one call
    # Calls before each turn that do not count: they take what was made ahead of it, and get back
    # the memory that a virtual machine returned to its host while another had its turn.
    untimed: int

    def about(self) -> dict[str, Any]:
        """`platform` (cpu, gpu), `device`, `versions`, `threads`."""
        ...

    def answer(self) -> dict[str, Any]:
        """What must be equal before anything is timed: numbers and lists of them."""
        ...

    def run(self, calls: int) -> None:
        """So many steps, inferences or batches; returns when all is computed."""
        ...

    def extras(self) -> dict[str, float]:
        """What else was measured in the last turn."""
        ...


def main() -> None:
    """The room and task of the first argument, JSON; then one JSON line per question."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print is no answer
    sys.stdout = sys.stderr  # in one order, so that the last words come last
    order = json.loads(sys.argv[1])
    try:
        room = importlib.import_module(order["room"])
        contestant = room.make(order["task"], Settings(**order["settings"]), order["options"])
        say(answers, {"about": contestant.about(), "examples": contestant.examples})
        for line in sys.stdin:
            say(answers, reply(contestant, json.loads(line)))
    except Exception as error:  # whatever a library raises is the reason why this one is not run
        say(answers, {"error": f"{type(error).__name__}: {one_line(error)}"})
        raise


def reply(contestant: Contestant, question: dict[str, Any]) -> dict[str, Any]:
    """The answer to `answer`, to `turn` of so many calls, to `memory`, or to `bytes` of a call."""
    if question["do"] == "answer":
        return {"answer": contestant.answer()}
    if question["do"] == "memory":
        return {"memory": {"peak_mib": peak_mib(), **device_memory(contestant)}}
    if question["do"] == "bytes":
        return {"bytes": told(contestant, "bytes_per_call")}
    contestant.run(contestant.untimed)
    start = time.perf_counter()
    contestant.run(question["calls"])
    return {"seconds": time.perf_counter() - start, "extras": contestant.extras()}


def device_memory(contestant: Contestant) -> dict[str, float]:
    """Of an accelerator, where the contestant can tell."""
    peak = told(contestant, "device_peak_mib")
    return {} if peak is None else {"device_peak_mib": peak}


def told(contestant: Contestant, name: str) -> float | None:
    """What only some contestants can tell."""
    tell = getattr(contestant, name, None)
    return tell() if tell else None


def say(stream: TextIO, message: dict[str, Any]) -> None:
    """One line of JSON."""
    print(json.dumps(message), file=stream, flush=True)


if __name__ == "__main__":
    main()
