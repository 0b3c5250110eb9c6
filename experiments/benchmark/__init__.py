"""fer_jax against PyTorch, TensorFlow and ONNX Runtime on one machine: equal first, then timed."""
