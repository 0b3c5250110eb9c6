"""What pyproject.toml cannot say: configs/ and the shipped weights travel inside the package."""

from setuptools import find_packages, setup

DATA = {"fer_jax.configs": "configs", "fer_jax.weights": "weights"}

setup(
    packages=[*find_packages(include=["fer_jax", "fer_jax.*"]), *DATA],
    package_dir=DATA,
    package_data={
        "fer_jax.weights": ["fer2013_b2.safetensors", "README.md"],
        "fer_jax.recognition": ["page/*"],
    },
)
