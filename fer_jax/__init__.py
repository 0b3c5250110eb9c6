"""Facial expression recognition in pure JAX."""
