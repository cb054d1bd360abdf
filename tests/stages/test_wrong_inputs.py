"""Every command refuses the output of another stage, and says what it takes a folder for."""

import numpy as np
import pytest

from mini import make_voc
from network.resnet38_aff import Net
from recipe import fill
from tool.files.checkpoints import save_checkpoint
from tool.files.manifest import claim_all
from tool.files.npy import read_npy, write_npy
from tool.files.pictures import image_size, write_mask

COUNT = 3


def write_masks(root, folder, settings):
    """A folder of masks that show class 1 everywhere, with a manifest."""
    claim_all([(str(folder), settings)])
    for name in (root / 'list.txt').read_text().split():
        size = image_size(str(root / 'JPEGImages' / f'{name}.jpg'))
        write_mask(str(folder / f'{name}.png'), np.ones(size, np.uint8))


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A VOC2012 folder, and beside it a folder of each stage's output for its pictures."""
    root = tmp_path_factory.mktemp('data')
    names = make_voc(root, COUNT)
    made = {
        'cam': {'stage': 'contrast_infer'},
        'la': {'stage': 'aff_prepare', 'alpha': 4},
        'ha': {'stage': 'aff_prepare', 'alpha': 24},
        'walk': {'stage': 'aff_infer'},
        'foreign': None,
    }
    for folder, settings in made.items():
        if settings:
            claim_all([(str(root / folder), settings)])
        for name in names:
            size = image_size(str(root / 'JPEGImages' / f'{name}.jpg'))
            maps = {0: np.full(size, 0.6, np.float32), 1: np.full(size, 0.4, np.float32)}
            write_npy(str(root / folder / f'{name}.npy'), maps)
    write_masks(root, root / 'masks', {'stage': 'aff_prepare', 'alpha': 8})
    save_checkpoint(str(root / 'aff.pth'), fill(Net(0.0625)).state_dict())
    return root


def command(root, name, folder, out):
    """(script, flags) of a command that reads `folder`; it writes below `out`."""
    listed = ('--list', root / 'list.txt')
    voc = ('--voc12_root', root)
    jobs = ('--jobs', 0)
    stage = ('--infer_list', root / 'list.txt', *voc, *jobs)
    cams = ('--cam_dir', folder)
    truth = ('--predict_dir', folder, '--gt_dir', root / 'SegmentationClass')
    page = ('--stage', f'masks={root / "SegmentationClass"}')
    network = ('--weights', root / 'aff.pth', '--num_workers', 0, '--device', 'cpu')
    commands = {
        'aff_infer': ('aff_infer', *stage, *cams, *network, '--out_rw', out),
        'aff_prepare': ('aff_prepare', *stage, *cams, '--out_crf', out, '--crf_iters', 1),
        'seed_masks': (
            'tool.seed_masks',
            *listed,
            *voc,
            *jobs,
            *cams,
            '--t',
            0.3,
            '--out_png',
            out,
        ),
        'cam_threshold': ('tool.cam_threshold', *listed, *voc, *jobs, *cams),
        'contact_sheet': ('tool.contact_sheet', *listed, *voc, *cams, '--out', out / 'sheet.png'),
        'report': ('tool.report', *listed, *voc, *page, *cams, '--out', out / 'page.html'),
        'eval --t': ('eval', *listed, *jobs, *truth, '--type', 'npy', '--t', 0.3),
        'eval --curve': ('eval', *listed, *jobs, *truth, '--type', 'npy', '--curve'),
        'make_pseudo_masks': ('tool.make_pseudo_masks', '--crf_dir', folder, '--out_dir', out),
        'eval of masks': ('eval', *listed, *jobs, *truth),
        'agreement': ('tool.agreement', *listed, *voc, *jobs, '--predict_dir', folder),
    }
    script, *flags = commands[name]
    return script, flags


READ_CAMS = (
    'aff_infer',
    'aff_prepare',
    'seed_masks',
    'cam_threshold',
    'contact_sheet',
    'report',
    'eval --t',
    'eval --curve',
)


@pytest.mark.parametrize('wrong', ['la', 'walk'])
@pytest.mark.parametrize('name', READ_CAMS)
def test_maps_with_a_background_are_no_cams(data, tmp_path, refused, name, wrong):
    script, flags = command(data, name, data / wrong, tmp_path / 'out')
    stage = 'aff_prepare (α = 4)' if wrong == 'la' else 'aff_infer'
    refused(script, flags, f'{data / wrong}: holds the output of {stage}; CAMs')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', READ_CAMS)
def test_a_folder_of_another_tool_is_taken_for_cams(data, tmp_path, run, name):
    (tmp_path / 'out').mkdir()
    script, flags = command(data, name, data / 'foreign', tmp_path / 'out')
    code, out, _ = run(script, *flags)
    assert code == 0
    assert out.count(f'no manifest in {data / "foreign"}: taken for CAMs') == 1


@pytest.mark.parametrize('name', READ_CAMS)
def test_cams_are_taken_without_a_word(data, tmp_path, run, name):
    (tmp_path / 'out').mkdir()
    script, flags = command(data, name, data / 'cam', tmp_path / 'out')
    code, out, _ = run(script, *flags)
    assert code == 0 and 'no manifest' not in out


@pytest.mark.parametrize('value', [np.nan, -3, 255])
@pytest.mark.parametrize('name', [*READ_CAMS, 'make_pseudo_masks'])
def test_no_command_reads_maps_that_are_no_scores(data, tmp_path, refused, name, value):
    """Two pixels of one map are enough, in any picture."""
    (tmp_path / 'out').mkdir()
    for file in (data / 'foreign').glob('*.npy'):
        maps = read_npy(str(file))
        if '000001' in file.name:
            maps[1][0, :2] = (value, value / 2)
        write_npy(str(tmp_path / 'maps' / file.name), maps)
    script, flags = command(data, name, tmp_path / 'maps', tmp_path / 'out')
    refused(script, flags, '2007_000001.npy: the map of class 1')
    assert not list((tmp_path / 'out').rglob('*000001*'))


def test_cams_make_no_pseudo_masks(data, tmp_path, refused):
    script, flags = command(data, 'make_pseudo_masks', data / 'cam', tmp_path / 'out')
    refused(script, flags, '--crf_dir', 'the output of contrast_infer; maps of background')
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('name', ['eval of masks', 'agreement'])
def test_masks_are_asked_for_their_stage(data, tmp_path, refused, name):
    script, flags = command(data, name, data / 'masks', tmp_path / 'out')
    refused(script, flags, '--predict_dir', 'the output of aff_prepare (α = 8); masks are needed')


def test_eval_says_that_its_ground_truth_is_a_prediction(data, tmp_path, run):
    write_masks(data, tmp_path, {'stage': 'seed_masks'})
    swapped = ('--gt_dir', tmp_path, '--predict_dir', data / 'SegmentationClass', '--jobs', 0)
    code, out, _ = run('eval', '--list', data / 'list.txt', *swapped)
    assert code == 0
    assert f'--gt_dir {tmp_path} is no ground truth: it holds the output of seed_masks' in out


def train_flags(root, low, high, session):
    return (
        *('--weights', 'scratch', '--width', 0.0625, '--device', 'cpu', '--num_workers', 0),
        *('--voc12_root', root, '--train_list', root / 'list.txt', '--session_name', session),
        *('--crop_size', 64, '--batch_size', 2, '--max_steps', 1, '--save_every', 0),
        *('--la_crf_dir', low, '--ha_crf_dir', high),
    )


def test_affinity_learns_from_maps_of_two_alphas(data, tmp_path, refused):
    session = tmp_path / 'run' / 'aff'
    (tmp_path / 'link').symlink_to(data / 'foreign')

    def bad(low, high, *parts):
        refused('aff_train', train_flags(data, low, high, session), *parts)

    bad(data / 'cam', data / 'ha', '--la_crf_dir', 'the output of contrast_infer; maps of one α')
    bad(data / 'la', data / 'cam', '--ha_crf_dir', 'the output of contrast_infer; maps of one α')
    bad(data / 'la', data / 'walk', '--ha_crf_dir', 'the output of aff_infer; maps of one α')
    bad(data / 'foreign', tmp_path / 'link', 'are the same folder')
    bad(data / 'ha', data / 'la', 'has the maps of α = 24')
    assert not session.parent.exists()


def test_affinity_says_what_maps_of_another_tool_are_taken_for(data, tmp_path, run):
    flags = train_flags(data, data / 'la', data / 'foreign', tmp_path / 'aff')
    code, out, _ = run('aff_train', *flags)
    assert code == 0 and f'no manifest in {data / "foreign"}: taken for maps of one α' in out


def test_a_wrong_number_of_cores_is_one_line(refused, monkeypatch):
    monkeypatch.setenv('PPC_CORES', 'many')
    refused('tool.seed_masks', (), 'PPC_CORES=many: must be a whole number of cores above 0')
