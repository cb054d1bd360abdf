"""No command writes over what it reads."""

import numpy as np
import pytest

from mini import make_voc
from tool.files.npy import write_npy
from tool.files.pictures import image_size


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A VOC2012 folder with CAMs, and a link to its list."""
    root = tmp_path_factory.mktemp('data')
    for name in make_voc(root, 2):
        size = image_size(str(root / 'JPEGImages' / f'{name}.jpg'))
        write_npy(str(root / 'cam' / f'{name}.npy'), {0: np.full(size, 0.6, np.float32)})
    (root / 'ImageSets' / 'Segmentation').mkdir(parents=True)
    (root / 'ImageSets' / 'Segmentation' / 'train.txt').symlink_to(root / 'list.txt')
    (root / 'classes.txt').write_text('\n'.join(f'class {index}' for index in range(20)))
    (root / 'link').symlink_to('list.txt')
    return root


def content(root):
    """{path: bytes} of all files below a folder."""
    files = [path for path in root.rglob('*') if path.is_file()]
    return {path: path.read_bytes() for path in files}


SHEET = 'tool.contact_sheet LIST --voc12_root ROOT --cam_dir ROOT/cam --column masks=MASKS'
EXPORT = 'tool.export --masks MASKS LIST --classes_txt ROOT/classes.txt --to coco --overwrite'


@pytest.mark.parametrize(
    'line, out, of',
    [
        ('voc12.make_saliency LIST --mask_dir MASKS', '--out_dir MASKS', '--mask_dir'),
        ('voc12.make_saliency LIST --mask_dir MASKS', '--out_dir ROOT/JPEGImages', 'JPEGImages'),
        (
            'voc12.score_saliency LIST --saliency_dir MASKS --gt_dir MASKS',
            '--json ROOT/link',
            '--list',
        ),
        (
            'voc12.make_lists --voc12_root ROOT',
            '--out_dir ROOT/ImageSets/Segmentation',
            'ImageSets',
        ),
        (SHEET, '--out_list ROOT/link', '--list'),
        (SHEET, '--out MASKS/sheet.png', '--column'),
        (SHEET, '--out ROOT/JPEGImages/sheet.jpg', '--voc12_root'),
        ('eval LIST --gt_dir MASKS --predict_dir MASKS', '--logfile ROOT/link', '--list'),
        (
            'eval LIST --gt_dir MASKS --predict_dir MASKS --classes_txt ROOT/classes.txt',
            '--json ROOT/classes.txt',
            '--classes_txt',
        ),
        (
            'eval LIST --gt_dir MASKS --predict_dir ROOT/cam --type npy --curve',
            '--plot MASKS/plot.png',
            '--gt_dir',
        ),
        (
            'tool.cam_threshold LIST --voc12_root ROOT --cam_dir ROOT/cam',
            '--json ROOT/link',
            '--list',
        ),
        ('tool.agreement LIST --voc12_root ROOT --predict_dir MASKS', '--json ROOT/link', '--list'),
        (EXPORT, '--out ROOT/link', '--list'),
        (EXPORT, '--out ROOT/classes.txt', '--classes_txt'),
        ('tool.report LIST --stage masks=MASKS --voc12_root ROOT', '--out ROOT/link', '--list'),
        ('tool.pipeline --preset laptop --voc12_root ROOT', '--work_dir ROOT', '--voc12_root'),
    ],
)
def test_an_output_that_is_an_input_is_refused_and_stays_as_it_was(data, refused, line, out, of):
    """LIST, MASKS and ROOT in a command line stand for the data; `of` is in the message."""
    text = f'{line} {out}'.replace('LIST', '--list ROOT/list.txt')
    text = text.replace('MASKS', 'ROOT/SegmentationClass').replace('ROOT', str(data))
    script, *flags = text.split()
    before = content(data)
    refused(script, flags, out.split()[0], of)
    assert content(data) == before


def test_a_report_is_no_file_of_its_run(tmp_path, refused):
    (tmp_path / 'pipeline.json').write_text('{}')
    refused(
        'tool.report',
        ('--work_dir', tmp_path, '--out', tmp_path / 'pipeline.json'),
        '--out',
        'the input --work_dir',
    )
