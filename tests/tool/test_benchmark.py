"""The benchmark: what it compares is equal, and it prints what it measured."""

import json
import math

import numpy as np
import pytest
import torch

from network import cam_net
from network.baselines import BASELINES
from network.resnet38_contrast import Net
from recipe import fill, normal
from segmentation_toy import make_devkit
from tool.device_benchmark import sections
from tool.device_benchmark.crf_pictures import deeplab_like
from tool.device_benchmark.sections import SECTIONS
from tool.device_benchmark.stage_step import STAGES, Setting
from tool.method import plain
from tool.method.crf import CAN_WIN
from voc12.classes import IGNORE


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
    for flags in (['--tiny'], ['--pictures', 2], ['--voc12_root', '.']):
        code, _, err = run('tool.benchmark', *flags)
        assert code == 2 and f'{flags[0]}: is for --device' in err


def test_the_section_of_the_crf_takes_real_pictures(run, tmp_path):
    flags = ['--device', 'cpu', '--tiny', '--only', 'crf', '--json', tmp_path / 'rows.json']
    code, _, err = run('tool.benchmark', *flags, '--voc12_root', tmp_path)
    assert code == 2 and f'{tmp_path}/SegmentationClass: no such folder' in err
    devkit = make_devkit(tmp_path / 'VOC2012', train=0, val=3)
    code, _, err = run('tool.benchmark', *flags, '--voc12_root', devkit, '--pictures', 2)
    assert code == 0, err
    rows = {row['what']: row for row in json.loads((tmp_path / 'rows.json').read_text())['rows']}
    for backend in ('numba', 'numba_fast', 'torch'):
        assert rows[backend]['value'] > 0 and rows[backend]['unit'] == 'core-s'
        assert rows[f'{backend}, equal']['value'] > 99
        assert rows[f'{backend}, equal']['note'].startswith('mean of 2 pictures')


def test_the_probabilities_of_the_section_are_like_a_networks():
    mask = np.zeros((120, 160), np.uint8)
    mask[30:90, 20:100] = 8
    mask[28:30] = IGNORE
    probs = deeplab_like(mask, np.random.default_rng(0))
    assert probs.shape == (21, 120, 160) and probs.dtype == np.float32
    np.testing.assert_allclose(probs.sum(0), 1, rtol=1e-5)
    found = probs.argmax(0)
    assert 0.8 < (found == mask)[mask != IGNORE].mean() < 1  # it errs, but not often
    can_win = (probs >= CAN_WIN * probs.max(0)).any((1, 2))
    assert 2 <= can_win.sum() <= 9


@pytest.mark.parametrize('stage', STAGES)
def test_parity_notices_another_gradient(stage):
    setting = Setting(torch.device('cpu'), width=1 / 16, crop=64, batch=2)
    terms, gradients = sections._terms_and_gradients(stage, setting)
    assert sections._difference(gradients, gradients) == 0
    changed = [gradient * 1.01 for gradient in gradients]
    assert sections._difference(gradients, changed) == pytest.approx(0.01, rel=1e-3)
    assert terms['loss'].isfinite()
