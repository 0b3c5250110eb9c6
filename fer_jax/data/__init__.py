"""Pixels and labels in: sources, drawn faces, augmentation, batches."""
