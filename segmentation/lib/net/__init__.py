"""The segmentation networks.

`generate_net(config_dict)` builds a network, `load_net(config_dict, path)` builds one and loads the
weights of a checkpoint into it.
"""

import sys
from pathlib import Path

# the repository's root, so that network/, tool/ and voc12/ can be imported
sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from net.build import generate_net, load_net, own_normalisation

__all__ = ['generate_net', 'load_net', 'own_normalisation']
