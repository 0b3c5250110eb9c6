"""The studies: named variants of a recipe, each a few overrides of one config."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class Study:
    """A question put to several variants; the first one is what the others are compared with."""

    question: str
    config: str
    """The file in configs/ that all variants change."""
    variants: Mapping[str, Overrides]
    needs: tuple[str, ...] = ()
    """Keys of files that only the user can name: --set=KEY=FILE."""


UNMOVED = {"augment.rotation": 0.0, "augment.zoom": 0.0, "augment.translation": 0.0}
SCRATCH = "b2_scratch.py"

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        "augmentation": Study(
            "What does moving, cropping and erasing the images give?",
            SCRATCH,
            {
                "recipe": {},
                "none": {**UNMOVED, "augment.flip": False},
                "flips": UNMOVED,
                "stronger": {"augment.rotation": 0.05, "augment.zoom": 0.1},
                "random crops": {**UNMOVED, "augment.crop_area": 0.6},
                "erasing": {"augment.erasing": 0.25},
                "light": {"augment.brightness": 0.1, "augment.contrast": 0.2},
            },
        ),
        "resolution": Study(
            "What do larger inputs and larger feature maps give, and what do they cost?",
            SCRATCH,
            {
                "96 px": {},
                "64 px": {"data.image_size": 64},
                "128 px": {"data.image_size": 128},
                "48 px, stem of stride 1": {"data.image_size": 48, "model.stem_stride": 1},
                "96 px, stem of stride 1": {"model.stem_stride": 1},
                "64 px, then 96": {"train.sizes": (64, 96)},
            },
        ),
        "optimizer": Study(
            "Which optimizer and which schedule?",
            SCRATCH,
            {
                "Adam, cosine": {},
                "Adam, constant": {"schedule.name": "constant"},
                "AdamW": {"optimizer.name": "adamw", "optimizer.weight_decay": 0.05},
                "SGD": {
                    "optimizer.name": "sgd",
                    "optimizer.learning_rate": 0.1,
                    "optimizer.weight_decay": 5e-4,
                },
                "SAM": {"optimizer.sam_rho": 0.05},
            },
        ),
        "start": Study(
            "What brings a run out of answering by class frequency sooner?",
            SCRATCH,
            {
                "recipe": {},
                "residuals as drawn": {"init.residual_scale": 1.0},
                "batches of 64": {"train.batch_size": 64},
                "both": {"init.residual_scale": 1.0, "train.batch_size": 64},
                "no warm-up": {"schedule.warmup_steps": 0},
            },
        ),
        "class_weights": Study(
            "What do class weights cost in accuracy and give in macro-F1?",
            SCRATCH,
            {
                "none": {},
                "balanced": {"loss.class_weights": "balanced"},
                "max_ratio": {"loss.class_weights": "max_ratio"},
                "logit adjustment": {"loss.logit_adjustment": 1.0},
            },
        ),
        "soft_labels": Study(
            "Smoothing, mixup and CutMix",
            SCRATCH,
            {
                "smoothing 0.1": {},
                "hard": {"loss.label_smoothing": 0.0},
                "mixup": {"loss.label_smoothing": 0.0, "mixing.mixup": 0.2},
                "CutMix": {"loss.label_smoothing": 0.0, "mixing.cutmix": 1.0},
                "mixup and CutMix": {"mixing.mixup": 0.2, "mixing.cutmix": 1.0},
            },
        ),
        "ema": Study(
            "Does an average of the parameters help?",
            SCRATCH,
            {
                "none": {},
                "0.99": {"train.ema_decay": 0.99},
                "0.999": {"train.ema_decay": 0.999},
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
        "ferplus": Study(
            "Do ten people's votes teach more than one label?",
            SCRATCH,
            {
                "labels": {"data.targets": ""},
                "votes": {},
                "both": {"loss.targets_weight": 0.5},
            },
            needs=("data.targets",),
        ),
        "pretraining": Study(
            "What do ImageNet weights give?",
            "b2_imagenet.py",
            {
                "ImageNet": {},
                "not frozen": {"init.frozen_epochs": 0},
                "one rate for all layers": {"init.layer_decay": 1.0},
                "random": {"init.weights": "", "init.frozen_epochs": 0, "init.layer_decay": 1.0},
            },
            needs=("init.weights",),
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
                "no class weights, statistics that follow": {
                    "loss.class_weights": "none",
                    "model.bn_momentum": 0.9,
                },
            },
        ),
    }
)
