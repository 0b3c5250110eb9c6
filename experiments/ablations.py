"""The studies: named variants of a recipe, each a few overrides of one config."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """A question put to several variants; the first one is what the others are compared with.

    One that is named by a value sets it, whatever the config or --set say.
    """

    question: str
    config: str
    """The file in configs/ that all variants change."""
    variants: Mapping[str, Overrides]
    needs: tuple[str, ...] = ()
    """Keys of files that only the user can name, --set=KEY=FILE, for the variants that say FILE."""


UNMOVED = {"augment.rotation": 0.0, "augment.zoom": 0.0, "augment.translation": 0.0}
PLAIN = {"augment.brightness": 0.0, "augment.contrast": 0.0, "augment.erasing": 0.0}
FILE = "FILE"
SCRATCH, TRANSFER = "b2_scratch.py", "b2_lite2.py"

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "start": Study(
            "What do ImageNet weights give, in B2 from its relative and in Lite2 whole?",
            TRANSFER,
            {
                "B2 from Lite2": {},
                "Lite2": {"model.variant": "lite2", "init.partial": False},
                "random B2": {"init.weights": "", "init.partial": False},
                "head alone in the first epoch": {"init.frozen_epochs": 1},
            },
        ),
        "rate": Study(
            "Which learning rate, and should lower layers learn more slowly?",
            TRANSFER,
            {
                "recipe": {},
                "7.5e-4": {"optimizer.learning_rate": 7.5e-4},
                "3e-3": {"optimizer.learning_rate": 3e-3},
                "layer decay 0.8": {"init.layer_decay": 0.8},
                "SAM": {"optimizer.sam_rho": 0.05},
            },
        ),
        "batch": Study(
            "How large a batch, and how fast should BatchNorm's statistics follow?",
            TRANSFER,
            {
                "64": {"train.batch_size": 64},
                "32": {"train.batch_size": 32},
                "128": {"train.batch_size": 128},
                "64, momentum 0.99": {"train.batch_size": 64, "model.bn_momentum": 0.99},
            },
        ),
        "augmentation": Study(
            "What does moving, cropping, toning and erasing the images give?",
            TRANSFER,
            {
                "recipe": {},
                "flips": {**UNMOVED, **PLAIN},
                "moved alone": PLAIN,
                "random crops": {**UNMOVED, "augment.crop_area": 0.6},
            },
        ),
        "class_weights": Study(
            "What do class weights cost in accuracy and give in macro-F1?",
            TRANSFER,
            {
                "none": {},
                "balanced": {"loss.class_weights": "balanced"},
                "logit adjustment": {"loss.logit_adjustment": 1.0},
            },
        ),
        "soft_labels": Study(
            "Smoothing, mixup and CutMix",
            TRANSFER,
            {
                "smoothing 0.1": {},
                "hard": {"loss.label_smoothing": 0.0},
                "mixup": {"mixing.mixup": 0.2},
                "CutMix": {"mixing.cutmix": 1.0},
            },
        ),
        "ema": Study(
            "Does an average of the parameters help?",
            TRANSFER,
            {
                "0.998": {"train.ema_decay": 0.998},
                "0.99": {"train.ema_decay": 0.99},
                "none": {"train.ema_decay": 0.0},
            },
        ),
        "ferplus": Study(
            "Do ten people's votes teach more than one label?",
            TRANSFER,
            {
                "labels": {},
                "votes": {"data.targets": FILE},
                "both": {"data.targets": FILE, "loss.targets_weight": 0.5},
            },
            needs=("data.targets",),
        ),
        "size": Study(
            "What do larger inputs give, and what do they cost?",
            TRANSFER,
            {
                "64 px": {"data.image_size": 64},
                "96 px": {"data.image_size": 96},
                "112 px": {"data.image_size": 112},
            },
        ),
        "stem": Study(
            "What do larger feature maps give from random initialisation, and what do they cost?",
            SCRATCH,
            {
                "96 px": {},
                "48 px and a stem of stride 1": {"data.image_size": 48, "model.stem_stride": 1},
                "64 px then 96": {"train.sizes": (64, 96)},
            },
        ),
        "optimizer": Study(
            "Which optimizer and which schedule, from random initialisation?",
            SCRATCH,
            {
                "Adam with a cosine": {},
                "Adam at one rate": {"schedule.name": "constant"},
                "AdamW": {"optimizer.name": "adamw", "optimizer.weight_decay": 0.05},
                "SGD": {
                    "optimizer.name": "sgd",
                    "optimizer.learning_rate": 0.1,
                    "optimizer.weight_decay": 5e-4,
                },
            },
        ),
        "random_start": Study(
            "What brings a run from random initialisation out of answering by class frequency?",
            SCRATCH,
            {
                "recipe": {},
                "residuals as drawn": {"init.residual_scale": 1.0},
                "batches of 64": {"train.batch_size": 64},
                "both": {"init.residual_scale": 1.0, "train.batch_size": 64},
                "no warm-up": {"schedule.warmup_steps": 0},
            },
        ),
        "stochastic_depth": Study(
            "Does stochastic depth help a run from random initialisation?",
            SCRATCH,
            {
                "none": {},
                "0.1": {"model.drop_connect": 0.1},
                "0.2": {"model.drop_connect": 0.2},
            },
        ),
        "collapse": Study(
            "Which choice of the notebook makes a model that fits its training data answer one "
            "class in inference?",
            "b2.py",
            {
                "notebook": {},
                "input scaled twice": {"model.input_std": (255.0, 255.0, 255.0)},
                "statistics that follow": {"model.bn_momentum": 0.9},
                "no class weights": {"loss.class_weights": "none"},
                "both of these": {
                    "loss.class_weights": "none",
                    "model.bn_momentum": 0.9,
                },
            },
        ),
    }
)
