"""Pure Linen modules: EfficientNet, its depthwise convolution, the classifier."""
