"""The README is true: its third baseline runs, its commands have the flags they use, its files exist."""
import re
import shlex
import sys
import types

import pytest
import torch

from mini import ROOT
from network.baselines.baseline import LossOptions

README = (ROOT / 'README.md').read_text()
COMMANDS = [line.strip() for line in re.sub(r' *\\\n *', ' ', README).splitlines()
            if re.match(r' {4}(torchrun .*)?(python|srun).* (\w+\.py|-m \w+\.\w+) ', line)]


def test_the_third_baseline_of_the_readme_trains(monkeypatch):
    code = re.search(r'```python\n(.*?)```', README, re.DOTALL)[1]
    module = types.ModuleType('network.baselines.cam')
    monkeypatch.setitem(sys.modules, 'network.baselines.cam', module)
    exec(code, module.__dict__)
    net = module.Net(0.0625)
    assert 'proj_cam.weight' in net.state_dict() and 'fc_proj.weight' not in net.state_dict()
    batch = {'image': torch.randn(2, 3, 64, 64), 'label': torch.eye(20)[:2]}
    terms = module.BASELINE.losses(net, batch, LossOptions(32))
    assert {'loss_cls', 'loss_nce', 'loss'} <= set(terms) and 'loss_er' not in terms
    terms['loss'].backward()
    assert net.proj_cam.weight.grad.abs().sum() > 0
    maps = module.BASELINE.maps(net.eval(), torch.randn(2, 3, 40, 40), [3], (40, 40))
    assert module.BASELINE.finish(maps).shape == (1, 40, 40)


@pytest.mark.parametrize('command', COMMANDS)
def test_flags_of_the_readme_exist(command):
    words = shlex.split(command, comments=True)
    if '-m' in words:
        path = ROOT / (words[words.index('-m') + 1].replace('.', '/') + '.py')
    else:
        name = next(word for word in words if word.endswith('.py'))
        path = ROOT / name if (ROOT / name).exists() else ROOT / 'segmentation' / 'lib' / 'utils' / (
            {'train.py': 'training.py', 'test.py': 'testing.py'}[name.split('/')[-1]])
    source = path.read_text() + (ROOT / 'tool' / 'run' / 'command_line.py').read_text() + \
        (ROOT / 'segmentation' / 'lib' / 'utils' / 'config.py').read_text()
    for flag in (word.split('=')[0] for word in words[words.index(next(w for w in words if w.endswith('.py') or '.' in w)):]
                 if word.startswith('--')):
        assert f"'{flag}'" in source, flag


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 10
