"""EfficientNet-B2 on FER2013, a long schedule for an accelerator: `b2_scratch.py`, regularised.

python -m fer_jax.main --config=configs/b2_long.py --config.data.path=PATH
python -m experiments.protocol --data=PATH     # this recipe over seeds, its ensemble, distillation
Expected: not run yet; 200 epochs would take 33 hours on two cores.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(__file__, "b2_scratch.py")
    config.train.epochs = 200
    config.train.batch_size = 128
    config.train.ema_decay = 0.999
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.1
    config.optimizer.weight_decay = 5e-4
    config.schedule.warmup_steps = 1000
    config.augment.rotation = 0.03  # 11 degrees either way
    config.augment.zoom = 0.2
    config.augment.translation = 0.1
    config.augment.brightness = 0.1
    config.augment.contrast = 0.2
    config.augment.erasing = 0.25
    config.mixing.mixup = 0.2
    config.model.drop_connect = 0.2
    config.model.dtype = "bfloat16"
    config.checkpoint.every_steps = 2000
    config.log.every_steps = 100
    return config
