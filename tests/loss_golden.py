"""Inputs of the published loss values in golden/loss.*.npz (docs/contributing.md, Golden numbers),
and how results are held against them."""

import numpy as np
import torch

from mini import GOLDEN
from recipe import normal
from tool.method.maps import ViewMaps

CLOSE = {'rtol': 1e-4, 'atol': 1e-5}
NOTHING = torch.empty(0)  # in place of maps that a loss does not use


def leaves(tag, n=4):
    """The maps that the published losses were computed on, {'cam1': [n, 21, 12, 12], …}, as leaves.

    Args:
        tag: first part of the names that `recipe.normal` makes them out of.
    """
    made = {}
    for view, side in ((1, 12), (2, 16)):
        made[f'cam{view}'] = normal(f'{tag}.cam{view}', n, 21, side, side)
        made[f'cam_rv{view}'] = normal(f'{tag}.cam_rv{view}', n, 21, side, side).abs()
        made[f'f_proj{view}'] = normal(f'{tag}.f_proj{view}', n, 128, side, side).abs()
    return {name: value.requires_grad_() for name, value in made.items()}


def views(x):
    """Both views, of the maps x of `leaves`."""
    return [
        ViewMaps(cam=x[f'cam{v}'], cam_rv=x[f'cam_rv{v}'], f_proj=x[f'f_proj{v}']) for v in (1, 2)
    ]


def contrast_view(f_proj, cam_rv):
    """A view with what the contrast uses."""
    return ViewMaps(cam=NOTHING, cam_rv=cam_rv, f_proj=f_proj)


def seam_view(cam, cam_rv):
    """A view with what SEAM's losses use."""
    return ViewMaps(cam=cam, cam_rv=cam_rv, f_proj=NOTHING)


def golden(name):
    """(the published values and gradients, labels [4, 20]) of a baseline."""
    data = np.load(GOLDEN / f'loss.{name}.npz')
    return data, torch.from_numpy(data['label'])


def first_half(n):
    """Keys that make the random half of a class its first pixels."""
    return torch.arange(n).float().expand(2, -1)


def check(terms, data):
    """Hold loss terms against the published values."""
    for name, value in terms.items():
        np.testing.assert_allclose(value.item(), data[name], **CLOSE, err_msg=name)


def check_gradients(inputs, data):
    """Hold the gradients of `leaves` against the published ones."""
    for name, value in inputs.items():
        np.testing.assert_allclose(
            value.grad.numpy(), data[f'grad_{name}'], rtol=1e-3, atol=1e-6, err_msg=name
        )
