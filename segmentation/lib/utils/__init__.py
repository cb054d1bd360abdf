"""Config, training and testing of the segmentation networks."""

import sys
from pathlib import Path

# the repository's root, so that network/, tool/ and voc12/ can be imported
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
