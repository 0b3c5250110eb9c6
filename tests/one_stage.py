"""A front door whose backbone has one stage, which compiles in a moment: one_stage.py DOOR FLAGS."""

import runpy
import sys

from fer_jax.models import efficientnet

if __name__ == "__main__":
    efficientnet.STAGES = efficientnet.STAGES[:1]
    runpy.run_module(f"fer_jax.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
