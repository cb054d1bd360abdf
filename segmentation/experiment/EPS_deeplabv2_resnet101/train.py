"""Train this experiment's network on the pseudo masks: python train.py; see --help."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

from config import config_dict

if __name__ == '__main__':  # worker processes read this file too: they do without torch
    from utils.training import train

    train(config_dict)
