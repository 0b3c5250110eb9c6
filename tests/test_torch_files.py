"""PyTorch's own files: state dicts are read, code is never run, its absence is one line."""

import os
import pickle

import numpy as np
import pytest
import safetensors.numpy

from fer_jax import errors
from fer_jax.conversion.torch_files import read_torch, write_torch
from fer_jax.errors import UserError

WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3) / 7


def refusal(path):
    with pytest.raises(UserError) as caught:
        read_torch(path)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 700
    return line


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "m.safetensors"
    arrays = {"bn.running_mean": WEIGHT[0], "conv.weight": WEIGHT}
    write_torch(path, arrays, {"architecture": "x"})
    assert safetensors.numpy.load_file(path)["bn.num_batches_tracked"].dtype == np.int64
    assert read_torch(path).metadata == {"architecture": "x"}
    found = read_torch(path).arrays()
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize("start", [b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j"])
@pytest.mark.parametrize("suffix", [".pth", ".pth.tar", ".safetensors"])
def test_without_pytorch_one_line_says_what_to_do(suffix, start, tmp_path, monkeypatch):
    """Told by its first bytes, whatever it is called."""
    (tmp_path / f"m{suffix}").write_bytes(start + bytes(50))

    def absent(name, *arguments):
        raise ImportError(name)

    monkeypatch.setattr(errors.importlib, "import_module", absent)
    line = refusal(tmp_path / f"m{suffix}")
    assert "pip install 'fer_jax[torch]'" in line
    assert ".safetensors" in line


def test_pytorch_is_not_imported_for_safetensors(tmp_path, monkeypatch):
    safetensors.numpy.save_file({"w": WEIGHT}, tmp_path / "m.safetensors")
    monkeypatch.setattr(errors.importlib, "import_module", None)
    assert read_torch(tmp_path / "m.safetensors").tensors.keys() == {"w"}


@pytest.mark.parametrize("data", [b"", b"\x80\x04.", b"{}" * 50])
def test_broken_safetensors_are_refused(data, tmp_path):
    path = tmp_path / "m.safetensors"
    path.write_bytes(data)
    assert str(path) in refusal(path)


def test_a_folder_and_no_file_are_refused(tmp_path):
    refusal(tmp_path)
    refusal(tmp_path / "none.safetensors")


# ---- with PyTorch ------------------------------------------------------------------------------


@pytest.fixture
def torch():
    return pytest.importorskip("torch", reason="no PyTorch: pip install 'fer_jax[torch]'")


class Shell:
    """Whoever unpickles it runs a command."""

    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("place", [None, "state_dict", "model", "state_dict_ema", "any name"])
def test_a_state_dict_is_read(place, torch, tmp_path):
    state = {
        "w": torch.tensor(WEIGHT),
        "half": torch.tensor(WEIGHT).to(torch.bfloat16),
        "bn.num_batches_tracked": torch.tensor(3),
    }
    training = {"epoch": 3, "optimizer": {"state": {0: {"w": state["w"]}}, "param_groups": []}}
    content = state if place is None else {**training, place: state}
    torch.save(content, tmp_path / "m.pth.tar")
    found = read_torch(tmp_path / "m.pth.tar").arrays()
    assert found.keys() == {"w", "half"}
    np.testing.assert_array_equal(found["w"], WEIGHT)
    assert found["half"].dtype == np.float32
    np.testing.assert_allclose(found["half"], WEIGHT, rtol=1e-2)


def test_of_two_state_dicts_none_is_guessed(torch, tmp_path):
    state = {"w": torch.tensor(WEIGHT)}
    torch.save({"teacher": state, "student": state}, tmp_path / "m.pth")
    line = refusal(tmp_path / "m.pth")
    assert "teacher, student" in line
    torch.save({"teacher": state, "model": state}, tmp_path / "m.pth")
    assert read_torch(tmp_path / "m.pth").tensors.keys() == {"w"}


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_with_code_is_refused_and_not_run(zipped, torch, tmp_path):
    mark = tmp_path / "executed"
    content = {"w": torch.tensor(WEIGHT), "extra": Shell(f"touch {mark}")}
    torch.save(content, tmp_path / "m.pth", _use_new_zipfile_serialization=zipped)
    line = refusal(tmp_path / "m.pth")
    assert "would run its code" in line
    assert not mark.exists()
    torch.load(tmp_path / "m.pth", weights_only=False)  # the file is as dangerous as it looks
    assert mark.exists()


def test_a_bare_pickle_with_code_is_refused_and_not_run(torch, tmp_path):
    mark = tmp_path / "executed"
    (tmp_path / "m.pth").write_bytes(pickle.dumps(Shell(f"touch {mark}")))
    refusal(tmp_path / "m.pth")
    assert not mark.exists()


def test_a_whole_module_is_refused_with_how_to_save_it(torch, tmp_path):
    torch.save(torch.nn.Linear(2, 3), tmp_path / "m.pth")
    line = refusal(tmp_path / "m.pth")
    assert "save_file(model.state_dict()" in line


def test_tensors_without_plain_values_are_refused(torch, tmp_path):
    strange = [
        torch.zeros(3, device="meta"),
        torch.eye(3).to_sparse(),
        torch.zeros(1, dtype=torch.float16).expand(2**40),
        "text",
    ]
    for tensor in strange:
        torch.save({"w": tensor}, tmp_path / "m.pth")
        refusal(tmp_path / "m.pth")
    for content in (torch.zeros(3), [torch.zeros(3)], {3: torch.zeros(3)}, None):
        torch.save(content, tmp_path / "m.pth")
        refusal(tmp_path / "m.pth")


def test_damaged_pth_files_are_refused(torch, tmp_path):
    path = tmp_path / "m.pth"
    torch.save({"w": torch.tensor(WEIGHT)}, path)
    data = path.read_bytes()
    for broken in (
        b"",
        data[:100],
        data[: len(data) // 2],
        data[:-1],
        b"PK" + bytes(50),
        b"x" * 99,
    ):
        path.write_bytes(broken)
        assert str(path) in refusal(path)
