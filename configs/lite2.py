r"""EfficientNet-Lite2 on FER2013 from its own ImageNet weights: no gates, ReLU6, easy to quantise.

make pretrained
python -m fer_jax.main --config=configs/lite2.py --config.data.path=PATH
Expected: 69.63 % on PublicTest with 12 epochs for the 18 here (--config.train.epochs=12), one seed,
float32, about 1.6 hours of two CPU cores. Every value is the flagship's (b2_lite2.py).
"""

from ml_collections import ConfigDict

from fer_jax.config import load_config


def get_config() -> ConfigDict:
    config = load_config(__file__, "b2_lite2.py")
    config.model.variant = "lite2"
    config.init.partial = False  # the whole backbone fits
    return config
