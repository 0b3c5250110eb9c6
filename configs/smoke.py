"""A tiny EfficientNet on drawn faces: shows in minutes, on any machine, that everything works.

python -m fer_jax.main --config=configs/smoke.py
Expected: at least 95 % validation accuracy.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(__file__, "b2_scratch.py")
    config.data.path = "synthetic"
    config.data.image_size = 72
    config.augment.rotation = 0.02  # the faces are drawn turned, shifted and sized at random
    config.augment.zoom = 0.05
    config.augment.translation = 0.0
    config.loss.label_smoothing = 0.0
    config.model.variant = "tiny"
    config.model.drop_connect = 0.0
    config.model.dropout = 0.1
    config.optimizer.learning_rate = 3e-3
    config.schedule.warmup_steps = 50
    config.train.epochs = 6
    config.train.batch_size = 32
    return config
