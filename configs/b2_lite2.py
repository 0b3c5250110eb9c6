r"""EfficientNet-B2 on FER2013 from ImageNet weights of its relative Lite2: the flagship.

make pretrained
python -m fer_jax.main --config=configs/b2_lite2.py --config.data.path=PATH
Expected: not measured yet.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(__file__, "b2_scratch.py")
    config.init.weights = "weights/imagenet_lite2.safetensors"
    config.init.partial = True  # gates open, blocks 1b and 7b as identities, the head drawn
    config.model.input_mean = (127 / 255,) * 3  # as the weights were trained
    config.model.input_std = (128 / 255,) * 3
    config.model.drop_connect = 0.1
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.01
    config.augment.rotation = 0.03
    config.augment.zoom = 0.1
    config.train.epochs = 3
    config.schedule.warmup_steps = 150
    return config
