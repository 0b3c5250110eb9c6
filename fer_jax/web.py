"""The page that recognises in a browser: `python -m fer_jax.web --out=DIR`; without --out, served.

A folder for any static host: the page, the model as ONNX with weights of 8 bits, MTCNN's networks,
ONNX Runtime for browsers. Photographs never leave the browser.
"""

import contextlib
import functools
import hashlib
import http.server
import io
import json
import operator
import pathlib
import shutil
import signal
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence

from absl import flags

from fer_jax import cli
from fer_jax.errors import UserError, writing
from fer_jax.outputs import in_one_step, write_text

OUT = flags.DEFINE_string("out", "", "Folder to write; if not given, the page is served.")
PORT = flags.DEFINE_integer("port", 8000, "Of 127.0.0.1, where it is served.", 0, 65535)
MODEL = flags.DEFINE_string("model", None, "Model file or run's folder; if not given, the shipped.")
RUNTIME = flags.DEFINE_string("runtime", "", "Tarball of ONNX Runtime, where npm is not.")

PACKAGE = "onnxruntime-web@1.30.0"
SHA256 = "d2228df7e4616bc3348bf504ee888f3bec43789a273f0a63f3e68d203ce3bf71"  # of its tarball
PARTS = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
HEADERS = {  # the last two let WebAssembly have threads
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; "
    "connect-src 'self'; img-src 'self' blob: data:",
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}


def main(argv: Sequence[str]) -> None:
    """Write the page, or write it to a temporary folder and serve it until Ctrl-C."""
    del argv
    if OUT.value:
        write(pathlib.Path(OUT.value), MODEL.value, RUNTIME.value)
        print(f"wrote {OUT.value}: any static host can serve it", flush=True)
        return
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as Ctrl-C: the folder goes
    with tempfile.TemporaryDirectory() as folder, contextlib.suppress(KeyboardInterrupt):
        write(pathlib.Path(folder), MODEL.value, RUNTIME.value)
        with _server(folder, PORT.value) as server:
            print(f"http://127.0.0.1:{server.server_port}/ until Ctrl-C", flush=True)
            server.serve_forever()


def write(folder: pathlib.Path, model: str | None, given: str) -> None:
    """All files of the page; UserError for a folder that holds others, or where a part is missing.

    `model` is as in fer_jax.load, `given` a tarball of PACKAGE, if not from npm.
    """
    from fer_jax.conversion import onnx
    from fer_jax.recognition import faces, recognizer

    if any(folder.glob("*")) and not (folder / "model.json").exists():
        raise UserError(f"--out={folder} holds other files: give an empty or a new folder")
    parts = [*map(pathlib.Path, faces.networks()), *keep_runtime(given)]
    trained = recognizer.load(model, detector="none").model
    file, path = trained.file(), trained.path
    about = {"labels": file.about.labels, "image_size": file.about.image_size}
    text = json.dumps(about) + "\n"  # first: it tells a page that was not finished from others
    write_text(folder / "model.json", text)
    onnx.export_onnx(folder / "model.onnx", file, "int8")

    page = pathlib.Path(__file__).resolve().parent / "recognition" / "page"
    shutil.copytree(page, folder, dirs_exist_ok=True)
    for part in parts:
        shutil.copy(part, folder)
    (folder / "card.md").write_bytes(_card(path))


def _card(path: pathlib.Path) -> bytes:
    """The README.md beside a model file, if it is this one's: the shipped, or of a Hub's folder."""
    readme = path.with_name("README.md")
    text = readme.read_bytes() if readme.exists() else b""
    return text if text.startswith((b"---", f"# {path.name}".encode())) else b""


def keep_runtime(given: str) -> list[pathlib.Path]:
    """PARTS in the platform's cache, out of the tarball `given` or npm's.

    UserError where there is neither, or where it is not the one that this page was made for.
    """
    from fer_jax import cache  # after the flags: --help needs no JAX

    kept = [cache.folder(PACKAGE) / name for name in PARTS]
    if given or not all(path.exists() for path in kept):
        with tempfile.TemporaryDirectory() as temporary:
            source = pathlib.Path(given or _packed(temporary))
            with writing(f"cannot read {source}", f"give the tarball of {PACKAGE}"):
                content = source.read_bytes()
        if hashlib.sha256(content).hexdigest() != SHA256:
            raise UserError(f"{source} is not the tarball of {PACKAGE}")
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            for path in kept:
                part = archive.extractfile(f"package/dist/{path.name}").read()  # type: ignore[union-attr]
                in_one_step(path, operator.methodcaller("write_bytes", part))
    return kept


def _packed(folder: str) -> pathlib.Path:
    """The tarball that npm brings."""
    command = ["npm", "pack", PACKAGE, "--loglevel=error", "--pack-destination", folder]
    try:
        said = subprocess.run(command, capture_output=True, text=True, check=False).stderr
    except OSError as error:
        said = str(error)
    packed = [*pathlib.Path(folder).glob("*.tgz")]
    if not packed:
        raise UserError(
            f"npm cannot bring {PACKAGE} ({' '.join(said.split())}): install npm, or give "
            f"--runtime=FILE, the tarball that `npm pack {PACKAGE}` writes elsewhere"
        )
    return packed[0]


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Files with the headers that keep the page to its own origin; silent."""

    def end_headers(self) -> None:
        for header in HEADERS.items():
            self.send_header(*header)
        super().end_headers()

    def log_message(self, *text: object) -> None: ...


def _server(folder: str, port: int) -> http.server.ThreadingHTTPServer:
    handler = functools.partial(_Handler, directory=folder)
    with writing(f"cannot serve at --port={port}", "give another one"):
        return http.server.ThreadingHTTPServer(("127.0.0.1", port), handler)


if __name__ == "__main__":
    cli.run(main)
