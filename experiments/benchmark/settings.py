"""What every contestant is told, and the config that all of them follow."""

import dataclasses
import pathlib

from fer_jax import train
from fer_jax.config import fill, load_config

ROOT = pathlib.Path(__file__).resolve().parents[2]
AUGMENTATION = {  # everything on, as pipelines are timed
    "flip": True,
    "rotation": 0.05,
    "zoom": 0.1,
    "translation": 0.05,
    "brightness": 0.1,
    "contrast": 0.2,
    "erasing": 0.25,
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """One benchmark: ready for JSON, since each contestant is a process of its own."""

    config: str  # a Python file with get_config()
    variant: str
    size: int  # pixels
    batch: int
    dtype: str  # in which contestants are timed; they are compared in float32 first
    threads: int
    folder: str  # where weights and images lie that all contestants read
    data: str = ""  # a data set's path, or images made in memory

    def file(self, name: str) -> pathlib.Path:
        """A file that contestants share."""
        return pathlib.Path(self.folder) / name


def config_of(settings: Settings, dropout: bool = True, dtype: str | None = None) -> train.Config:
    """The config with the model and sizes of `settings`, a constant rate, and a plain loss."""
    config = load_config(settings.config, pathlib.Path(settings.config).name)
    config.model.variant = settings.variant
    config.model.dtype = dtype or settings.dtype
    config.model.drop_connect = 0.0
    config.model.dropout *= dropout
    config.data.image_size = settings.size
    config.train.batch_size = config.evaluation.batch_size = settings.batch
    config.schedule.name, config.schedule.warmup_steps = "constant", 0
    config.loss.class_weights, config.loss.label_smoothing = "none", 0.0  # as the peers compute it
    config.augment.update(AUGMENTATION)
    return fill(train.Config, config)
