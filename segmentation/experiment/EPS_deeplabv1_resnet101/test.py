"""Test this experiment's network: python test.py [--split val] [--set KEY=VALUE ...]; see --help."""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / 'lib'))

from config import config_dict

from utils.testing import test

if __name__ == '__main__':
    test(config_dict)
