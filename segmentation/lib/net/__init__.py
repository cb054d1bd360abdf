"""The segmentation networks: `generate_net(config_dict)` builds one, `load_net(config_dict, path)`
one with its weights."""

import sys
from pathlib import Path

# network/, tool/ and voc12/ are found from the repository's root
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from net.build import generate_net, load_net, own_normalisation

__all__ = ['generate_net', 'load_net', 'own_normalisation']
