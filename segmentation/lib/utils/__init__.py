"""Config, training and testing of the segmentation networks."""

import sys
from pathlib import Path

# network/, tool/ and voc12/ are found from the repository's root
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))
