"""Our EfficientNets against Keras', timm's and torchvision's: same weights, same answers."""
