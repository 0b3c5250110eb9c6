"""From a config to a trained state: step, losses, optimizers, mesh, checkpoints, logs, loop."""
