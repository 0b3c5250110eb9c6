"""Where each of our variables lies in Keras', timm's and torchvision's EfficientNets: tables."""

from collections.abc import Iterator

from fer_jax.errors import UserError
from fer_jax.models.classifier import Classifier, FerHead, ImagenetHead
from fer_jax.models.efficientnet import Block, block_table

COLUMNS = ("keras", "timm", "torchvision")
FER_HEAD = "fer_head"  # ours in every framework: the seed's three layers have no published names

# Per module: ours, then one name per column. {block} is ours and Keras' ("block2a"), {stage} and
# {index} count from 0 (stage 1, index 0), {feature} is torchvision's stage, which the stem shifts.
ENDS = (
    ("backbone/stem", "stem_conv", "conv_stem", "features.0.0"),
    ("backbone/stem_bn", "stem_bn", "bn1", "features.0.1"),
    ("backbone/top", "top_conv", "conv_head", "features.8.0"),
    ("backbone/top_bn", "top_bn", "bn2", "features.8.1"),
)
IMAGENET_HEAD = (("head/logits", "predictions", "classifier", "classifier.1"),)
SEED_HEAD = (
    ("head/conv", f"{FER_HEAD}_conv", f"{FER_HEAD}.conv", f"{FER_HEAD}.conv"),
    ("head/hidden", f"{FER_HEAD}_hidden", f"{FER_HEAD}.hidden", f"{FER_HEAD}.hidden"),
    ("head/logits", f"{FER_HEAD}_logits", f"{FER_HEAD}.logits", f"{FER_HEAD}.logits"),
)
BLOCK = (
    ("expand", "{block}_expand_conv", ".conv_pw", ".block.0.0"),
    ("expand_bn", "{block}_expand_bn", ".bn1", ".block.0.1"),
    ("depthwise", "{block}_dwconv", ".conv_dw", ".block.1.0"),
    ("depthwise_bn", "{block}_bn", ".bn2", ".block.1.1"),
    ("squeeze_excite/reduce", "{block}_se_reduce", ".se.conv_reduce", ".block.2.fc1"),
    ("squeeze_excite/expand", "{block}_se_expand", ".se.conv_expand", ".block.2.fc2"),
    ("project", "{block}_project_conv", ".conv_pwl", ".block.3.0"),
    ("project_bn", "{block}_project_bn", ".bn3", ".block.3.1"),
)
BLOCK_WITHOUT_EXPANSION = (
    ("depthwise", "{block}_dwconv", ".conv_dw", ".block.0.0"),
    ("depthwise_bn", "{block}_bn", ".bn1", ".block.0.1"),
    ("squeeze_excite/reduce", "{block}_se_reduce", ".se.conv_reduce", ".block.1.fc1"),
    ("squeeze_excite/expand", "{block}_se_expand", ".se.conv_expand", ".block.1.fc2"),
    ("project", "{block}_project_conv", ".conv_pw", ".block.2.0"),
    ("project_bn", "{block}_project_bn", ".bn2", ".block.2.1"),
)
BLOCK_PREFIXES = ("", "blocks.{stage}.{index}", "features.{feature}.{index}")

# Per variable of a module: collection and name here, then Keras' and PyTorch's.
WEIGHTS = (("params/{}/kernel", "kernel", "weight"), ("params/{}/bias", "bias", "bias"))
NORMALIZATION = (
    ("params/{}/scale", "gamma", "weight"),
    ("params/{}/bias", "beta", "bias"),
    ("batch_stats/{}/mean", "moving_mean", "running_mean"),
    ("batch_stats/{}/var", "moving_variance", "running_var"),
)


def foreign_names(model: Classifier, column: str) -> dict[str, str]:
    """Our variable -> its name in `column`, such as `block2a_bn/gamma` or `bn1.running_var`."""
    pairs = dict(_variables(model, column))
    doubled = len(pairs) - len(set(pairs.values()))
    if doubled:
        raise UserError(f"{doubled} names of {column} stand for two variables each")
    return pairs


def _variables(model: Classifier, column: str) -> Iterator[tuple[str, str]]:
    separator, leaf = ("/", 1) if column == "keras" else (".", 2)
    for module, foreign in _modules(model, COLUMNS.index(column)):
        for row in NORMALIZATION if module.endswith("_bn") else WEIGHTS:
            if row[1] == "bias" and not _has_bias(module):
                continue
            yield row[0].format(module), f"{foreign}{separator}{row[leaf]}"


def _modules(model: Classifier, column: int) -> Iterator[tuple[str, str]]:
    head = {ImagenetHead: IMAGENET_HEAD, FerHead: SEED_HEAD}.get(type(model.head), ())
    for row in ENDS + head:
        yield row[0], row[1 + column]
    for block in block_table(model.backbone.variant, drop_connect=0.0):
        yield from _block(block, column)


def _block(block: Block, column: int) -> Iterator[tuple[str, str]]:
    stage, index = int(block.name[5]), ord(block.name[6:]) - ord("a")
    where = {"block": block.name, "stage": stage - 1, "feature": stage, "index": index}
    for row in BLOCK if block.expansion != 1 else BLOCK_WITHOUT_EXPANSION:
        foreign = f"{BLOCK_PREFIXES[column]}{row[1 + column]}".format(**where)
        yield f"backbone/{block.name}/{row[0]}", foreign


def _has_bias(module: str) -> bool:
    return "squeeze_excite" in module or module.startswith("head/")
