"""The colours of CAMs."""

import numpy as np

from tool.report_page.heat_map import heat_map


def test_heat_map_runs_from_blue_to_red():
    cam = {3: np.array([[0.0, 1.0]]), 7: np.array([[-1.0, 0.2]])}
    colours = heat_map(np.zeros((1, 2, 3), np.uint8), cam)[0]
    assert colours[0, 2] > 60 and colours[0, 0] == 0
    assert colours[1, 0] > 60 and colours[1, 2] == 0
    grey = heat_map(np.full((1, 1, 3), 200, np.uint8), {})[0, 0]
    assert grey[0] == 100 and grey[2] > 160  # no class at all is blue
