"""A front door with a backbone of one stage, soon compiled: one_stage.py DOOR FLAGS."""

import runpy
import sys

from fer_jax.models import efficientnet

if __name__ == "__main__":
    efficientnet.STAGES = efficientnet.STAGES[:1]
    runpy.run_module(f"fer_jax.{sys.argv.pop(1)}", run_name="__main__", alter_sys=True)
