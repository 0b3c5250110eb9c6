r"""EfficientNet-B2 on FER2013 from ImageNet weights of its relative Lite2: the flagship.

make pretrained
python -m fer_jax.main --config=configs/b2_lite2.py --config.data.path=PATH
Expected: 70.63 % on PublicTest, mean of seeds 0, 1 and 2 (71.08, 70.83, 69.99) by experiments.sweep
on an H200 in bfloat16, about 90 seconds each after compiling. Not run on a CPU.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(__file__, "b2_scratch.py")
    config.init.weights = "weights/imagenet_lite2.safetensors"
    config.init.partial = True  # open gates, identities for blocks 1b and 7b, a drawn head
    config.model.input_mean = (127 / 255,) * 3  # as the weights were trained
    config.model.input_std = (128 / 255,) * 3
    config.model.drop_connect = 0.2
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 1.5e-3
    config.optimizer.weight_decay = 0.02
    config.schedule.warmup_steps = 300
    config.augment.rotation = 0.03  # 11 degrees either way
    config.augment.zoom = 0.15
    config.augment.translation = 0.06
    config.augment.brightness = 0.1
    config.augment.contrast = 0.2
    config.augment.erasing = 0.25
    config.train.epochs = 18
    config.train.batch_size = 128
    config.train.ema_decay = 0.998
    config.evaluation.batch_size = 512
    return config
