"""Other people's parameters in, ours out."""
