"""The normalisation of a network's inputs: (RGB/255 − mean) / std.

This module does not import torch.
"""

Normalisation = tuple[tuple[float, ...], tuple[float, ...]]  # (mean, std) of R, G and B

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
IMAGENET = (MEAN, STD)  # the normalisation of ResNet-38's inputs
