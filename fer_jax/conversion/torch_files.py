"""PyTorch's state dicts in .safetensors and .pth: read without unpickling code, and written."""

import dataclasses
import pathlib
import pickle
from collections.abc import Mapping
from typing import Any

import ml_dtypes  # noqa: F401  NumPy knows bfloat16 from here on
import numpy as np
import safetensors
from safetensors.numpy import save_file

from fer_jax.errors import UserError, one_line, optional

PREFERRED = ("state_dict_ema", "model_ema", "state_dict", "model")  # where scripts put weights
UNUSED = "num_batches_tracked"
KINDS = ("F16", "BF16", "F32", "F64", "I64")  # the last of the unused
LARGEST = 2**28  # values in all tensors, B7 having 66 million: one stored value can pose as many
RESAVE = (
    "open it where you trust it and save its state dict alone: "
    "safetensors.torch.save_file(model.state_dict(), 'model.safetensors')"
)


@dataclasses.dataclass(frozen=True)
class TorchFile:
    """A state dict, bfloat16 widened, and the texts in a safetensors' metadata."""

    tensors: dict[str, np.ndarray]
    metadata: dict[str, str]

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters and buffers that count by their names."""
        return {name: a for name, a in self.tensors.items() if not name.endswith(UNUSED)}


def read_torch(path: pathlib.Path) -> TorchFile:
    """Read a file by what lies in it; UserError in one line for what is no state dict."""
    try:
        with path.open("rb") as file:
            start = file.read(9)  # of safetensors: the length of the header, and its {
        if start[8:] != b"{" and start.startswith((b"PK", b"\x80")):  # a zip, or a bare pickle
            return TorchFile(_read_pth(path), {})
        return _read_safetensors(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise UserError(f"cannot read {path} as safetensors: {one_line(error)}") from error


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


def _read_safetensors(path: pathlib.Path) -> TorchFile:
    with safetensors.safe_open(path, framework="numpy") as file:
        kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        strange = [name for name, kind in kinds.items() if kind not in KINDS]
        if strange:
            raise UserError(f"{path}: {strange[0]} is of {kinds[strange[0]]}, not of floats")
        arrays = {name: file.get_tensor(name) for name in kinds}
        wide = {n: a if a.dtype.kind in "fi" else a.astype(np.float32) for n, a in arrays.items()}
        return TorchFile(wide, file.metadata() or {})


def _read_pth(path: pathlib.Path) -> dict[str, np.ndarray]:
    torch = optional("torch", "torch", f"{path} is no .safetensors but PyTorch's own, which")
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
    """The state dict itself, or within what a training script saved with it."""
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict: {RESAVE}")
    within = {key: value for key, value in content.items() if _holds_tensors(value)}
    for key in (*PREFERRED, *(within if len(within) == 1 else ())):
        if key in within:
            return within[key]
    if within and not _holds_tensors(content):
        raise UserError(f"{path} holds state dicts {', '.join(map(str, within))}: {RESAVE}")
    return content


def _holds_tensors(value: Any) -> bool:
    return isinstance(value, Mapping) and any(hasattr(leaf, "detach") for leaf in value.values())


def _arrays(path: pathlib.Path, tensors: Mapping[str, Any]) -> dict[str, np.ndarray]:
    others = [name for name, tensor in tensors.items() if not hasattr(tensor, "detach")]
    if others or not all(isinstance(name, str) for name in tensors):
        raise UserError(f"{path} holds more than tensors by their names: {RESAVE}")
    if sum(tensor.numel() for tensor in tensors.values()) > LARGEST:
        raise UserError(f"{path} says it holds more than {LARGEST:,} values")
    try:
        return {
            name: (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()
            for name, tensor in tensors.items()
        }
    except (TypeError, RuntimeError) as error:  # sparse, quantised, on no device
        reason = one_line(error)
        raise UserError(f"{path} holds tensors without plain values: {reason}") from error
