"""The benchmark: what it compares is equal, and it prints what it measured."""

import json

import pytest
import torch

from network import cam_net
from network.baselines import BASELINES
from network.resnet38_contrast import Net
from recipe import fill, normal
from tool.method import plain


def test_our_inference_equals_eight_plain_passes(monkeypatch):
    net = fill(Net(0.0625)).eval()
    views = []
    for size in ((40, 56), (80, 112)):
        view = normal('view', 3, *size)
        views.append(torch.stack([view, view.flip(2)]))
    with torch.inference_mode():
        ours = sum(BASELINES['seam'].maps(net, view, [3, 7], (80, 112)) for view in views)
    monkeypatch.setattr(cam_net, 'SLAB', 1 << 60)
    label = torch.zeros(20)
    label[[3, 7]] = 1
    theirs = plain.seam_seeds(net, views, (80, 112), label)
    torch.testing.assert_close(ours, theirs[[3, 7]], rtol=1e-4, atol=1e-5)
    assert theirs[label == 0].abs().max() == 0


def test_rows_are_printed_and_written(run, tmp_path):
    code, out, _ = run('tool.benchmark', '--only', 'eval_png', '--json', tmp_path / 'rows.json')
    (result,) = json.loads((tmp_path / 'rows.json').read_text())['rows']
    assert code == 0 and f'{result["ratio"]:.1f}x' in out
    assert result['ratio'] == pytest.approx(result['plain'] / result['ours'])
