"""The files that Keras publishes: names, checksums, one of each."""

import ast
import importlib.util
import re
from pathlib import Path

import pytest
from served import NEW, OLD, file

from fer_jax.conversion import download
from fer_jax.conversion.download import fetch_keras
from fer_jax.errors import UserError

VARIANTS = [f"b{i}" for i in range(8)]


def test_the_table(tmp_path, monkeypatch):
    """Each file once, under an address and a checksum of its own."""
    asked = []
    monkeypatch.setattr(download, "in_one_step", lambda path, write: asked.append(write.args))
    files = [fetch_keras(variant, top, tmp_path) for variant in VARIANTS for top in (True, False)]
    assert list(download.KERAS_MD5) == VARIANTS
    assert len({md5 for _, md5 in asked}) == len({url for url, _ in asked}) == 16
    for (url, checksum), path in zip(asked, files, strict=True):
        assert re.fullmatch(r"[0-9a-f]{32}", checksum)
        assert url == f"https://storage.googleapis.com/keras-applications/{path.name}"
        assert re.fullmatch(r"efficientnetb[0-7](_notop)?\.h5", path.name)


def test_the_table_is_that_of_keras():
    spec = importlib.util.find_spec("keras")
    if spec is None:
        pytest.skip("keras is not installed")
    path = Path(spec.submodule_search_locations[0]) / "src" / "applications" / "efficientnet.py"
    values = {
        node.targets[0].id: node.value
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
    }
    assert ast.literal_eval(values["WEIGHTS_HASHES"]) == download.KERAS_MD5
    assert ast.literal_eval(values["BASE_WEIGHTS_PATH"]) == download.KERAS_ADDRESS


def test_a_keras_file_comes_to_lie_in_the_cache(server, tmp_path):
    server.script = [file(OLD), file(NEW)]
    names = "efficientnetb2.h5", "efficientnetb2_notop.h5"
    assert [fetch_keras("b2", top, tmp_path).name for top in (True, False)] == list(names)
    assert [(tmp_path / name).read_bytes() for name in names] == [OLD, NEW]
    assert server.seen == [f"/{name}" for name in names]


@pytest.mark.parametrize("variant", ["b8", "tiny", ""])
def test_a_variant_that_keras_does_not_publish(variant, tmp_path):
    with pytest.raises(UserError, match="choose of b0, b1"):
        fetch_keras(variant, True, tmp_path)
