"""network/device.py, and the network without network/cpu: the same numbers, plain code."""

import re
import shutil
import subprocess
import sys

import pytest
import torch

from mini import ROOT
from network import device, resnet38_contrast

FOLDERS = ('network', 'segmentation', 'tests', 'tool', 'voc12')
# what the copy without network/cpu has to pass: the published numbers, and a run of the scripts
GOLDEN_TESTS = (
    'tests/network/test_cam_net.py::test_seam_net_is_the_published_one',
    'tests/network/test_cam_net.py::test_eps_net_is_the_published_one',
    'tests/network/test_aff_net.py::test_net_agrees_with_the_published_net',
    'tests/segmentation/test_net.py::test_experiments_equal_the_published_networks'
    '[SEAM_deeplabv1_resnet38-deeplabv1_38]',
    'tests/stages/test_contrast_scripts.py::test_training_writes_weights_and_every_term[seam]',
    'tests/stages/test_contrast_scripts.py::test_inference_of_both_baselines[seam]',
)


def test_a_network_comes_to_a_device_as_it_is_where_the_folder_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'network.cpu', None)
    net = resnet38_contrast.Net(1 / 16)
    assert type(device.to_device(net, torch.device('cpu'))) is resnet38_contrast.Net


def copy_without_cpu_folder(target):
    def left_out(folder, names):
        found = {'__pycache__'}
        if folder.endswith('network'):
            found.add('cpu')
        return found & set(names)

    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, target / folder, ignore=left_out)
    for path in (*ROOT.glob('*.py'), ROOT / 'pyproject.toml'):
        shutil.copy(path, target)


@pytest.mark.slow
def test_golden_numbers_and_scripts_without_the_cpu_folder(tmp_path):
    copy_without_cpu_folder(tmp_path)
    assert not (tmp_path / 'network' / 'cpu').exists()
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '--durations=0']
    result = subprocess.run([*command, *GOLDEN_TESTS], cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert 'skipped' not in result.stdout


def test_only_one_module_knows_the_cpu_folder():
    named = re.compile(r'network[./]cpu|\bcpu\b')
    assert not named.search((ROOT / 'network' / 'resnet38d.py').read_text().lower())
    knows = [
        str(path.relative_to(ROOT))
        for folder in ('network', 'segmentation', 'tool', 'voc12')
        for path in (ROOT / folder).rglob('*.py')
        if re.search(r'network\.cpu|import cpu', path.read_text())
    ]
    knows += [path.name for path in ROOT.glob('*.py') if 'network.cpu' in path.read_text()]
    outside = [path for path in knows if not path.startswith('network/cpu/')]
    assert outside == ['network/device.py']
