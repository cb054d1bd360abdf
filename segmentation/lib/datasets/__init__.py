"""Data sets of the segmentation networks: `generate_dataset(config_dict)`."""

import sys
from pathlib import Path

# the repository's root, so that network/, tool/ and voc12/ can be imported
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from datasets.voc import TestSet, VOCDataset, generate_dataset, picture_views

__all__ = ['TestSet', 'VOCDataset', 'generate_dataset', 'picture_views']
