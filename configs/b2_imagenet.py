r"""EfficientNet-B2 on FER2013 from Keras' ImageNet weights: the head first, then all of it.

python -m fer_jax.convert --source=keras --variant=b2 --download \
    --output=weights/imagenet_b2.safetensors
python -m fer_jax.main --config=configs/b2_imagenet.py --config.data.path=PATH \
    --config.init.weights=weights/imagenet_b2.safetensors
Expected: not known; it was not run, for want of the ImageNet weights. Every value is a first guess.
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(__file__, "b2.py")
    config.model.input_mean = (0.485, 0.456, 0.406)  # as the weights were trained
    config.model.input_std = (0.229, 0.224, 0.225)
    config.init.frozen_epochs = 1
    config.init.layer_decay = 0.9  # the stem, 25 layers below the head, learns at 0.07 of the rate
    config.optimizer.name = "adamw"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.weight_decay = 0.01
    config.schedule.name = "cosine"
    config.schedule.warmup_steps = 900  # two epochs: the backbone starts at half of the rate
    config.loss.class_weights = "none"
    return config
