"""PyTorch's state dicts in .safetensors and .pth: read without unpickling code, and written."""

import importlib
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 from here on
import numpy as np
import safetensors
from safetensors.numpy import save_file

from fer_jax.errors import UserError, one_line

NESTED = ("state_dict_ema", "model_ema", "state_dict", "model")  # where training scripts put it
PREFIXES = ("module.", "_orig_mod.")  # left by DistributedDataParallel and torch.compile
UNUSED = "num_batches_tracked"
KINDS = ("F16", "BF16", "F32", "F64", "I64")  # the last of the unused
LARGEST = 2**28  # values in all tensors, B7 having 66 million: one stored value can pose as many
RESAVE = (
    "open it where you trust it and save its state dict alone: "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)


def read_torch(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Parameter and buffer names to arrays, bfloat16 widened; UserError in one line otherwise."""
    arrays = _read_pth(path) if path.suffix in (".pth", ".pt", ".bin") else _read_safetensors(path)
    plain = {_plain(name): array for name, array in arrays.items() if not name.endswith(UNUSED)}
    if len(plain) < sum(not name.endswith(UNUSED) for name in arrays):
        raise UserError(f"{path} holds names that differ only by {' or '.join(PREFIXES)}")
    return plain


def write_torch(
    path: pathlib.Path, arrays: Mapping[str, np.ndarray], header: dict[str, str]
) -> None:
    """A state dict as safetensors, with BatchNorm's counters, which `load_state_dict` asks for."""
    counters = {
        f"{name.removesuffix('running_mean')}{UNUSED}": np.zeros((), np.int64)
        for name in arrays
        if name.endswith("running_mean")
    }
    save_file({**arrays, **counters}, path, metadata=header)


def _plain(name: str) -> str:
    while name.startswith(PREFIXES):
        name = name.partition(".")[2]
    return name


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with safetensors.safe_open(path, framework="numpy") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            strange = [name for name, kind in kinds.items() if kind not in KINDS]
            if strange:
                raise UserError(f"{path}: {strange[0]} is of {kinds[strange[0]]}, not of floats")
            return {name: _widen(file.get_tensor(name)) for name in kinds}
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {path} as safetensors: {one_line(error)}") from error


def _widen(array: np.ndarray) -> np.ndarray:
    return array if array.dtype.kind in "fi" else np.asarray(array, np.float32)  # bfloat16


def _read_pth(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise UserError(
            f"{path.suffix} files need PyTorch: pip install 'fer_jax[torch]', "
            "or save the model as .safetensors"
        ) from error
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} holds more than tensors, and reading it would run its code: {RESAVE}"
        ) from error
    except Exception as error:  # whatever PyTorch makes of a broken file
        raise UserError(f"cannot read {path} as a PyTorch file: {one_line(error)}") from error
    return _arrays(path, _state_dict(path, content))


def _state_dict(path: pathlib.Path, content: Any) -> Mapping[str, Any]:
    if isinstance(content, Mapping):
        for key in NESTED:
            if isinstance(content.get(key), Mapping):
                return content[key]
        return content
    raise UserError(f"{path} holds a {type(content).__name__}, not a state dict: {RESAVE}")


def _arrays(path: pathlib.Path, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    others = [name for name, tensor in tensors.items() if not hasattr(tensor, "detach")]
    if others or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{path} holds more than tensors by their names: {RESAVE}")
    if sum(tensor.numel() for tensor in tensors.values()) > LARGEST:
        raise UserError(f"{path} says it holds more than {LARGEST:,} values")
    try:
        return {name: _array(tensor.detach()) for name, tensor in tensors.items()}
    except (TypeError, RuntimeError) as error:  # sparse, quantised, on no device
        reason = one_line(error)
        raise UserError(f"{path} holds tensors without plain values: {reason}") from error


def _array(tensor: Any) -> np.ndarray:
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
