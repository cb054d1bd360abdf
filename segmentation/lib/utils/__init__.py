"""Config, training and testing of the segmentation networks."""

import sys
from pathlib import Path

sys.path.insert(
    0, str(Path(__file__).resolve().parents[3])
)  # the repository's root: network/, tool/, voc12/
