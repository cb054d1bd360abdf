"""Layer types that the code here treats alike, by their public names in PyTorch."""

from torch import nn

# Every kind of BatchNorm. timm's BatchNorm layers are subclasses of these.
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)

# Every kind of dropout that has a rate `p`.
DROPOUTS = (
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
