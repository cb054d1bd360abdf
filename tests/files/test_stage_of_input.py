"""The stage that made the files of an input folder is asked for."""

import pytest

from tool.files.manifest import claim_all
from tool.files.stage_of_input import AFFINITY_MAPS, CAMS, MASKS, PROBABILITIES, need_stage
from tool.run.errors import UserError


@pytest.fixture
def made_by(tmp_path):
    """made_by(stage, …) gives a folder whose manifest names the stage."""

    def make(stage, **settings):
        folder = tmp_path / stage
        folder.mkdir(exist_ok=True)
        claim_all([(str(folder), {'stage': stage, **settings})])
        return str(folder)

    return make


@pytest.mark.parametrize(
    'stage, kind',
    [
        ('contrast_infer', CAMS),
        ('aff_prepare', AFFINITY_MAPS),
        ('aff_prepare', PROBABILITIES),
        ('aff_infer', PROBABILITIES),
        ('seed_masks', MASKS),
        ('segmentation test', MASKS),
        ('synth', MASKS),
    ],
)
def test_the_output_of_the_right_stage_is_taken_without_a_word(made_by, capsys, stage, kind):
    assert need_stage(made_by(stage, t=1), kind, '--in') == {'stage': stage, 't': 1}
    assert capsys.readouterr().out == ''


@pytest.mark.parametrize(
    'stage, kind',
    [
        ('aff_infer', CAMS),
        ('seed_masks', CAMS),
        ('contrast_infer', AFFINITY_MAPS),
        ('aff_infer', AFFINITY_MAPS),
        ('contrast_infer', PROBABILITIES),
        ('aff_prepare', MASKS),
        ('synth', CAMS),
    ],
)
def test_the_output_of_another_stage_is_refused(made_by, stage, kind):
    folder = made_by(stage)
    with pytest.raises(UserError) as error:
        need_stage(folder, kind, '--in')
    assert f'--in {folder}: holds the output of {stage}' in str(error.value)
    assert kind.what in str(error.value)


def test_the_message_names_the_alpha_of_crf_maps(made_by):
    with pytest.raises(UserError, match=r'the output of aff_prepare \(α = 4\); CAMs'):
        need_stage(made_by('aff_prepare', alpha=4), CAMS, '--cam_dir')


@pytest.mark.parametrize('settings', [None, {'list': 'a.txt'}])
def test_what_a_folder_without_a_stage_is_taken_for_is_printed(tmp_path, capsys, settings):
    if settings is not None:
        claim_all([(str(tmp_path), settings)])
    need_stage(str(tmp_path), CAMS, '--cam_dir')
    assert capsys.readouterr().out == f'no manifest in {tmp_path}: taken for {CAMS.what}\n'


def test_only_the_first_process_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('RANK', '1')
    monkeypatch.setenv('WORLD_SIZE', '2')
    need_stage(str(tmp_path), CAMS, '--cam_dir')
    assert capsys.readouterr().out == ''
