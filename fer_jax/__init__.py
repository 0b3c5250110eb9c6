"""Facial expression recognition in pure JAX: `fer_jax.load().predict("photograph.jpg")`."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fer_jax.recognition.recognizer import Face, Faces, Recognizer, load

__all__ = ["Face", "Faces", "Recognizer", "load"]


def __getattr__(name: str) -> Any:
    """Imports what is asked for only then: the package itself needs no JAX."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module("fer_jax.recognition.recognizer"), name)
