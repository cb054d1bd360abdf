"""The benchmark: what it compares is equal, and it prints what it measured."""

import json
import math

import pytest
import torch

from network import cam_net
from network.baselines import BASELINES
from network.resnet38_contrast import Net
from recipe import fill, normal
from tool.device_benchmark import sections
from tool.device_benchmark.sections import SECTIONS
from tool.device_benchmark.stage_step import STAGES, Setting
from tool.method import plain


def test_our_inference_equals_eight_plain_passes(monkeypatch):
    net = fill(Net(0.0625)).eval()
    views = []
    for size in ((40, 56), (80, 112)):
        view = normal('view', 3, *size)
        views.append(torch.stack([view, view.flip(2)]))
    with torch.inference_mode():
        ours = sum(BASELINES['seam'].maps(net, view, [3, 7], (80, 112))[0] for view in views)
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


@pytest.mark.slow
def test_every_section_of_a_device_runs_tiny_on_a_cpu(run, tmp_path):
    code, out, err = run(
        'tool.benchmark', '--device', 'cpu', '--tiny', '--json', tmp_path / 'rows.json'
    )
    assert code == 0, err
    rows = json.loads((tmp_path / 'rows.json').read_text())['rows']
    assert {row['section'] for row in rows} == set(SECTIONS)
    for row in rows:
        assert row['what'] in out and math.isfinite(row['value'])
    of_section = {name: [row for row in rows if row['section'] == name] for name in SECTIONS}
    # a CPU agrees with itself, repeats itself, and waits for nothing
    for name in ('parity', 'same_bits', 'waits'):
        assert {row['value'] for row in of_section[name]} == {0}
    [same] = [row for row in of_section['walk'] if row['what'] == 'same bits twice']
    assert same['value'] == 1


def test_sections_and_comparisons_are_not_mixed(run):
    code, _, err = run('tool.benchmark', '--only', 'waits')
    assert code == 2 and '--only waits: is run with --device' in err
    code, _, err = run('tool.benchmark', '--device', 'cpu', '--only', 'pcm')
    assert code == 2 and '--only pcm: is run without --device' in err
    code, _, err = run('tool.benchmark', '--tiny')
    assert code == 2 and '--tiny: is for --device' in err


@pytest.mark.parametrize('stage', STAGES)
def test_parity_notices_another_gradient(stage):
    setting = Setting(torch.device('cpu'), width=1 / 16, crop=64, batch=2)
    terms, gradients = sections._terms_and_gradients(stage, setting)
    assert sections._difference(gradients, gradients) == 0
    changed = [gradient * 1.01 for gradient in gradients]
    assert sections._difference(gradients, changed) == pytest.approx(0.01, rel=1e-3)
    assert terms['loss'].isfinite()
