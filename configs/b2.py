"""EfficientNet-B2 on FER2013 by the recipe of the Keras notebook that this project replaces.

python -m fer_jax.main --config=configs/b2.py --config.data.path=PATH
Expected: 24.94 % on PublicTest (seed 0), one answer for every image: from random initialisation the
recipe's class weights of up to 16.5 keep it from learning. `b2_scratch.py` learns.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    config = ConfigDict()
    config.seed = 0

    config.data = ConfigDict()
    config.data.path = ""  # FER2013 in any known layout, a prepared directory, or "synthetic"
    config.data.targets = ""  # .npz of probabilities by key, to learn from beside the labels
    config.data.image_size = 96
    config.data.label_order = ""  # "angry,...": what 0, 1, ... mean; "1:angry,...": of 1, 2, ...
    config.data.map = ""  # "contempt:none,joy:happy": classes to leave out, other names of classes
    config.data.on_corrupt = "stop"  # or "skip": list what cannot be read and go on
    config.data.validation_fraction = 0.1  # of train, only where the data has no validation part
    config.data.split_seed = 0
    config.data.max_pixels = 16_777_216  # per image; larger ones are refused unread
    config.data.cache_mib = 2048  # decoded pixels kept in memory; beyond, decoded when needed
    config.data.exclude = ""  # a list of keys, as the audit writes them, to leave out of train
    config.data.workers = 0  # Grain processes; 0 augments in this process

    config.augment = ConfigDict()
    config.augment.flip = True
    config.augment.rotation = 0.05  # our choice: of a full turn, either way
    config.augment.zoom = 0.1  # our choice: positive zooms out, as in Keras
    config.augment.translation = 0.0
    config.augment.brightness = 0.0
    config.augment.contrast = 0.0
    config.augment.erasing = 0.0
    config.augment.crop_area = 1.0  # smallest share of the area that a random crop shows; 1 is off

    config.model = ConfigDict()
    config.model.variant = "b2"
    config.model.stem_stride = 2  # 1: feature maps of twice the side, at four times the work
    config.model.padding = "same"  # or "symmetric", as in torchvision
    config.model.bn_epsilon = 1e-3
    config.model.bn_momentum = 0.99
    config.model.drop_connect = 0.2
    config.model.input_mean = (0.0, 0.0, 0.0)  # on the scale 0..1, as Keras without weights
    config.model.input_std = (1.0, 1.0, 1.0)
    config.model.head_padding = "VALID"
    config.model.head_filters = 128
    config.model.hidden = 128
    config.model.dropout = 0.3
    config.model.dtype = "float32"  # or "bfloat16"; parameters and statistics stay float32

    config.init = ConfigDict()
    config.init.weights = ""  # a model file whose backbone to start from; fer_jax.convert makes it
    config.init.partial = False  # True: what a relative has of the same names; the rest is drawn
    config.init.frozen_epochs = 0  # so long only the head learns
    config.init.layer_decay = 1.0  # learning rate per layer from the head down, 1 for all the same
    config.init.residual_scale = 1.0  # of random weights; 0: residual blocks start as identities

    config.optimizer = ConfigDict()
    config.optimizer.name = "adam"  # or "adamw", "sgd"
    config.optimizer.learning_rate = 1e-3
    config.optimizer.momentum = 0.9  # Adam's b1, SGD's (Nesterov) momentum
    config.optimizer.b2 = 0.999
    config.optimizer.epsilon = 1e-7  # our choice: Keras' default
    config.optimizer.weight_decay = 0.0  # on kernels only
    config.optimizer.clip_norm = 0.0  # 0 does not clip
    config.optimizer.sam_rho = 0.0  # distance at which SAM takes the gradient; 0 is off

    config.schedule = ConfigDict()
    config.schedule.name = "constant"  # or "cosine", "linear"
    config.schedule.warmup_steps = 0
    config.schedule.final_fraction = 0.0  # of the learning rate, at the end of cosine and linear

    config.loss = ConfigDict()
    config.loss.class_weights = "max_ratio"  # largest class count / class count; "balanced", "none"
    config.loss.label_smoothing = 0.0
    config.loss.logit_adjustment = 0.0  # tau, which lifts rare classes in inference; 0 is off
    config.loss.targets_weight = 1.0  # share of the soft target against the label

    config.mixing = ConfigDict()
    config.mixing.mixup = 0.0  # alpha of Beta(alpha, alpha); 0 is off
    config.mixing.cutmix = 0.0  # the same; with both on, one of them is drawn for each batch

    config.train = ConfigDict()
    config.train.epochs = 8
    config.train.batch_size = 64  # over all devices and processes
    config.train.sizes = ()  # (64, 96): image sides, each for an equal part of the steps
    config.train.ema_decay = 0.0  # 0 keeps no average of parameters and statistics

    config.evaluation = ConfigDict()
    config.evaluation.batch_size = 64
    config.evaluation.bootstrap_samples = 2000

    config.checkpoint = ConfigDict()
    config.checkpoint.select_by = "accuracy"  # of validation; or macro_f1, balanced_accuracy, loss
    config.checkpoint.every_steps = 200  # beside each epoch's end

    config.log = ConfigDict()
    config.log.every_steps = 20
    config.log.tensorboard = True
    return config
