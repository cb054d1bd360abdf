"""Testing: multi-scale logits, the dense CRF, skipping and evaluating, the submission archive."""

import io
import os
import shutil
import sys
import tarfile
from argparse import Namespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from mini import GOLDEN
from net import generate_net
from segmentation_toy import config_of, make_devkit, run_script
from tool.files import picture_stage
from tool.files.pictures import read_mask, write_mask
from tool.method.crf import BACKENDS, DEEPLAB_CRF, TEST_CRFS, CrfPreset, crf_from_probs
from tool.run.errors import UserError
from utils import predictions, testing
from utils.submission import FOLDER, check_submission, write_submission
from voc12.classes import PALETTE, VOC

CPU = torch.device('cpu')
TINY = dict(
    MODEL_BACKBONE='resnet38', MODEL_BACKBONE_WIDTH=1 / 16, TEST_MULTISCALE=[0.5, 1], DATA_WORKERS=0
)


@pytest.fixture(scope='module')
def devkit(tmp_path_factory):
    return make_devkit(tmp_path_factory.mktemp('voc') / 'VOC2012', train=0, val=3)


@pytest.fixture(scope='module')
def weights(tmp_path_factory):
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp('model') / 'w.pth'
    torch.save(generate_net(config_of('SEAM_deeplabv1_resnet38', **TINY)).state_dict(), path)
    return path


def run(
    devkit,
    weights,
    out_dir,
    split='val',
    submission=None,
    overwrite=False,
    jobs=0,
    out_no_crf=None,
    amp='off',
    batch_size=None,
    **changes,
):
    config = config_of('SEAM_deeplabv1_resnet38', **{**TINY, 'DATA_ROOT': str(devkit), **changes})
    testing.main(
        Namespace(
            config=config,
            split=split,
            list=None,
            weights=str(weights),
            out_dir=str(out_dir),
            device='cpu',
            out_no_crf=out_no_crf and str(out_no_crf),
            submission=submission and str(submission),
            overwrite=overwrite,
            on_error='stop',
            dry_run=False,
            jobs=jobs,
            batch_size=batch_size,
            amp=amp,
            tf32='on',
            channels_last=False,
        )
    )


def test_logits_are_averaged_over_scales_and_mirror_images():
    class Shifted(torch.nn.Module):
        """Three channels that depend on where a pixel is in the tensor the network sees."""

        def forward(self, x):
            return x + torch.linspace(0, 1, x.shape[3])

    small, full = torch.rand(1, 3, 6, 8), torch.rand(1, 3, 12, 16)
    with torch.inference_mode():
        [logits] = testing.mean_logits(Shifted(), [[small[0], full[0]]], (12, 16), CPU)
    expected = (F.interpolate(small, (12, 16), mode='bilinear', align_corners=True) + full)[
        0
    ] / 2 + 0.5
    torch.testing.assert_close(
        logits, expected
    )  # a ramp and its mirror image add up to one constant
    with torch.inference_mode():
        [alone] = testing.mean_logits(Shifted(), [[full[0]]], (12, 16), CPU, mirror=False)
    torch.testing.assert_close(alone, full[0] + torch.linspace(0, 1, 16))


def test_the_seam_crf_equals_the_golden_labels():
    golden = np.load(GOLDEN / 'crf.npz')
    ours = crf_from_probs(golden['image'], golden['deeplab_prob'], TEST_CRFS['seam'])
    assert ours.dtype == np.uint8 and (ours != golden['deeplab_crf_10']).sum() == 0
    assert (
        golden['deeplab_prob'].argmax(0) != golden['deeplab_crf_10']
    ).mean() > 0.01  # the CRF does something


def test_a_backend_that_is_not_installed_is_one_line(devkit, weights, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'pydensecrf', None)
    with pytest.raises(UserError, match='^TEST_CRF_BACKEND pydensecrf: the package is not install'):
        run(devkit, weights, tmp_path, TEST_CRF='seam', TEST_CRF_BACKEND='pydensecrf', jobs=0)
    # without a CRF nothing asks for the package
    run(devkit, weights, tmp_path, TEST_CRF='none', TEST_CRF_BACKEND='pydensecrf', jobs=0)


def test_every_backend_of_the_config_is_the_one_that_runs(devkit, weights, tmp_path, monkeypatch):
    used = []

    def crf(image, probs, preset, backend):
        used.append(backend)
        return probs.argmax(0)

    monkeypatch.setattr(predictions, 'crf_from_probs', crf)
    monkeypatch.setattr(picture_stage, 'need_crf_backend', lambda backend, _: used.append(backend))
    for backend in BACKENDS:
        run(devkit, weights, tmp_path / backend, TEST_CRF='seam', TEST_CRF_BACKEND=backend, jobs=0)
    assert used == ['numba'] * 4 + ['pydensecrf'] * 4  # once to check it, then three pictures
    run(devkit, weights, tmp_path / 'f', TEST_CRF='seam', TEST_CRF_BACKEND='numba_fast', jobs=0)
    assert used[8:] == ['numba_fast'] * 4
    with pytest.raises(
        UserError, match='TEST_CRF_BACKEND = numba, now TEST_CRF_BACKEND = pydensecrf'
    ):
        run(
            devkit,
            weights,
            tmp_path / 'numba',
            TEST_CRF='seam',
            TEST_CRF_BACKEND='pydensecrf',
            jobs=0,
        )


@pytest.mark.parametrize('workers', [0, 1])
def test_the_crf_on_the_device_gives_the_masks_of_numba(devkit, weights, tmp_path, workers):
    ours = tmp_path / 'torch'
    plain = tmp_path / 'plain'
    on_device = dict(TEST_CRF='deeplab', TEST_CRF_BACKEND='torch', DATA_WORKERS=workers)
    run(devkit, weights, ours, out_no_crf=plain, jobs=1, **on_device)
    run(devkit, weights, tmp_path / 'numba', TEST_CRF='deeplab', jobs=0)
    files = sorted(ours.glob('*.png'))
    assert len(files) == len(list(plain.glob('*.png'))) == 3
    for path in files:
        mask = read_mask(path, VOC)
        assert (mask == read_mask(tmp_path / 'numba' / path.name, VOC)).mean() >= 0.9995
    with pytest.raises(UserError, match='TEST_CRF_BACKEND = torch, now TEST_CRF_BACKEND = numba'):
        run(devkit, weights, ours, TEST_CRF='deeplab', jobs=0)


def test_the_backend_torch_needs_a_gpu_or_a_cpu(devkit, weights, tmp_path, monkeypatch):
    monkeypatch.setattr(testing.processes, 'start', lambda name: torch.device('mps'))
    with pytest.raises(UserError, match='^TEST_CRF_BACKEND torch: does not run on mps; .*numba'):
        run(devkit, weights, tmp_path / 'out', TEST_CRF='seam', TEST_CRF_BACKEND='torch')
    assert not (tmp_path / 'out').exists()


def test_without_a_crf_the_pool_writes_the_masks_too(devkit, weights, tmp_path, monkeypatch):
    asked = []
    opened = picture_stage.PictureStage.writers

    def writers(stage, jobs):
        asked.append(jobs)
        return opened(stage, 0)

    monkeypatch.setattr(picture_stage.PictureStage, 'writers', writers)
    run(devkit, weights, tmp_path, TEST_CRF='none', jobs=3)
    assert asked == [3]


def test_predictions_in_16_bits_are_close_and_kept_apart(devkit, weights, tmp_path):
    for amp in ('off', 'bf16'):
        run(devkit, weights, tmp_path / amp, TEST_CRF='none', amp=amp)
    for path in sorted((tmp_path / 'off').glob('*.png')):
        masks = [read_mask(str(tmp_path / amp / path.name), VOC) for amp in ('off', 'bf16')]
        assert (masks[0] == masks[1]).mean() > 0.9
    with pytest.raises(UserError, match='amp = bf16, now amp = None'):
        run(devkit, weights, tmp_path / 'bf16', TEST_CRF='none')


def test_the_deeplab_crf_has_the_constants_of_its_authors():
    assert TEST_CRFS['deeplab'] is DEEPLAB_CRF and TEST_CRFS['none'] is None
    assert DEEPLAB_CRF == CrfPreset(
        gaussian_sxy=1,
        gaussian_compat=3,
        bilateral_sxy=67,
        bilateral_srgb=3,
        bilateral_compat=4,
        iterations=10,
        rows_first=False,
    )


def test_predictions_are_palette_pngs_scored_like_everything_else(
    devkit, weights, tmp_path, capsys
):
    run(devkit, weights, tmp_path / 'out', TEST_CRF='none')
    names = (devkit / 'ImageSets/Segmentation/val.txt').read_text().split()
    hits = union = 0
    for name in names:
        image = Image.open(tmp_path / 'out' / f'{name}.png')
        assert (
            image.mode == 'P' and image.getpalette()[3:6] == [128, 0, 0] and image.size == (72, 64)
        )
        background, truth = (
            np.array(image) == 0,
            read_mask(devkit / 'SegmentationClass' / f'{name}.png', VOC) == 0,
        )
        hits, union = hits + (background & truth).sum(), union + (background | truth).sum()
    assert f'background {100 * hits / union:6.2f}' in capsys.readouterr().out


def test_the_crf_in_a_pool_gives_the_bytes_of_one_process(devkit, weights, tmp_path):
    run(devkit, weights, tmp_path / 'here', TEST_CRF='seam', jobs=0)
    run(devkit, weights, tmp_path / 'pool', TEST_CRF='seam', jobs=2)
    files = sorted((tmp_path / 'here').glob('*.png'))
    assert len(files) == 3
    assert all(path.read_bytes() == (tmp_path / 'pool' / path.name).read_bytes() for path in files)


def test_one_pass_writes_with_and_without_crf_what_two_would(devkit, weights, tmp_path):
    run(devkit, weights, tmp_path / 'plain', TEST_CRF='none')
    run(devkit, weights, tmp_path / 'crf', TEST_CRF='seam')
    run(devkit, weights, tmp_path / 'both_crf', TEST_CRF='seam', out_no_crf=tmp_path / 'both_plain')
    for kind in ('plain', 'crf'):
        files = sorted((tmp_path / kind).glob('*.png'))
        assert len(files) == 3
        assert all(
            path.read_bytes() == (tmp_path / f'both_{kind}' / path.name).read_bytes()
            for path in files
        )
    (tmp_path / 'both_plain' / files[0].name).unlink()
    run(devkit, weights, tmp_path / 'both_crf', TEST_CRF='seam', out_no_crf=tmp_path / 'both_plain')
    assert (
        tmp_path / 'both_plain' / files[0].name
    ).exists()  # missing in one of the folders is missing
    run(
        devkit, weights, tmp_path / 'both_plain', TEST_CRF='none'
    )  # the folder of a test without CRF like any other
    with pytest.raises(UserError, match='--out_no_crf .*TEST_CRF=none'):
        run(devkit, weights, tmp_path / 'none', TEST_CRF='none', out_no_crf=tmp_path / 'both_plain')


def test_a_broken_off_test_goes_on_and_other_settings_are_refused(
    devkit, weights, tmp_path, capsys
):
    out = tmp_path / 'out'
    run(devkit, weights, out, TEST_CRF='none')
    first, second = sorted(out.glob('*.png'))[:2]
    before = first.stat().st_mtime_ns
    second.unlink()
    run(devkit, weights, out, TEST_CRF='none')
    assert '3 pictures, 2 already complete' in capsys.readouterr().out
    assert second.exists() and first.stat().st_mtime_ns == before
    with pytest.raises(UserError, match='TEST_CRF = none, now TEST_CRF = seam.*--overwrite'):
        run(devkit, weights, out, TEST_CRF='seam')
    run(devkit, weights, out, TEST_CRF='seam', overwrite=True)
    assert '3 pictures, 0 already complete' in capsys.readouterr().out


def test_test_pictures_need_no_ground_truth_and_make_a_submission(devkit, weights, tmp_path):
    archive = tmp_path / 'results.tgz'
    run(devkit, weights, tmp_path / 'out', split='test', submission=archive, TEST_CRF='none')
    names = (devkit / 'ImageSets/Segmentation/test.txt').read_text().split()
    with tarfile.open(archive) as packed:
        assert packed.getnames() == [
            f'results/VOC2012/Segmentation/comp6_test_cls/{name}.png' for name in names
        ]
        mask = np.array(Image.open(io.BytesIO(packed.extractfile(packed.getnames()[0]).read())))
    assert (mask == read_mask(tmp_path / 'out' / f'{names[0]}.png', VOC)).all()


def test_predictions_that_are_links_are_packed_as_files(devkit, tmp_path):
    names = (devkit / 'ImageSets/Segmentation/test.txt').read_text().split()
    archive = tmp_path / 'results.tgz'
    png = tmp_path / 'png'
    for name in names:
        path = tmp_path / 'elsewhere' / f'{name}.png'
        write_mask(str(path), np.full((64, 72), 3, np.uint8))
    png.mkdir()
    (png / f'{names[0]}.png').symlink_to(tmp_path / 'elsewhere' / f'{names[0]}.png')
    os.link(tmp_path / 'elsewhere' / f'{names[1]}.png', png / f'{names[1]}.png')
    os.link(tmp_path / 'elsewhere' / f'{names[1]}.png', png / f'{names[2]}.png')
    write_submission(str(archive), str(png), str(devkit), names)
    with tarfile.open(archive) as packed:
        assert [member.isreg() for member in packed.getmembers()] == [True] * len(names)


def test_a_faulty_submission_is_refused_and_not_left_behind(devkit, tmp_path):
    names = (devkit / 'ImageSets/Segmentation/test.txt').read_text().split()
    archive, pngs = tmp_path / 'results.tgz', tmp_path / 'png'

    def pack(message):
        with pytest.raises(UserError, match=message):
            write_submission(str(archive), str(pngs), str(devkit), names)
        assert not list(tmp_path.glob('*.tgz*')) and not list(tmp_path.glob('.results*'))

    for name in names[:2]:
        write_mask(str(pngs / f'{name}.png'), np.zeros((64, 72), np.uint8))
    pack(f'{names[2]}.png: no such file')
    write_mask(str(pngs / f'{names[2]}.png'), np.zeros((72, 64), np.uint8))
    pack(f'{names[2]}.png: is 64x72, the picture is 72x64')
    write_mask(str(pngs / f'{names[2]}.png'), np.full((64, 72), 255, np.uint8))
    pack(f'{names[2]}.png: holds value 255')
    Image.fromarray(np.zeros((64, 72), np.uint8)).save(pngs / f'{names[2]}.png')
    pack('is L .*palette')
    write_mask(str(pngs / f'{names[2]}.png'), np.full((64, 72), 20, np.uint8))
    write_submission(str(archive), str(pngs), str(devkit), names)
    with pytest.raises(
        UserError, match=f'{names[2]}.png: is in the archive 1 times, in the list 0'
    ):
        check_submission(str(archive), str(devkit), names[:2])
    with tarfile.open(tmp_path / 'short.tgz', 'w:gz') as packed:
        packed.add(pngs / f'{names[0]}.png', f'{FOLDER}/{names[0]}.png')
    with pytest.raises(UserError, match=f'{names[1]}.png: is in the archive 0 times'):
        check_submission(str(tmp_path / 'short.tgz'), str(devkit), names)


def test_bad_settings_are_named(devkit, weights, tmp_path):
    with pytest.raises(UserError, match='--split test'):
        run(devkit, weights, tmp_path / 'out', submission=tmp_path / 'results.tgz')
    with pytest.raises(UserError, match='nothing.pth: no such file.*train first'):
        run(devkit, tmp_path / 'nothing.pth', tmp_path / 'out')
    with pytest.raises(UserError, match='not a deeplabv2 over resnet38: aspp'):
        run(devkit, weights, tmp_path / 'out', MODEL_NAME='deeplabv2')
    with pytest.raises(UserError, match='SegmentationClass/.*no such mask .3 of 3.*--split test'):
        no_truth = tmp_path / 'VOC2012'
        shutil.copytree(devkit, no_truth)
        shutil.rmtree(no_truth / 'SegmentationClass')
        run(no_truth, weights, tmp_path / 'out')
    result = run_script('test.py', '--split', 'trainval')
    assert (
        result.returncode == 2
        and result.stdout == ''
        and result.stderr.startswith('test.py: error: argument --split')
    )
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'name, reason', [('results.zip', 'the server takes a .tgz'), ('file/results.tgz', 'no folder')]
)
def test_a_submission_that_cannot_be_written_is_known_before_the_work(
    devkit, weights, tmp_path, name, reason
):
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match=reason):
        run(devkit, weights, tmp_path / 'out', split='test', submission=tmp_path / name)
    assert not (tmp_path / 'out').exists()


def test_ground_truth_in_colours_and_ground_truth_of_no_class(devkit, weights, tmp_path, capsys):
    root = tmp_path / 'VOC2012'
    (root / 'SegmentationClass').mkdir(parents=True)
    for folder in ('JPEGImages', 'ImageSets'):
        (root / folder).symlink_to(devkit / folder)
    out = tmp_path / 'out'
    run(devkit, weights, out, TEST_CRF='none')
    expected = capsys.readouterr().out.splitlines()[-1]
    for path in (devkit / 'SegmentationClass').iterdir():
        mask = np.array(Image.open(path))
        Image.fromarray(PALETTE[mask]).save(root / 'SegmentationClass' / path.name)
    run(root, weights, out, TEST_CRF='none', DATA_MASK_COLOURS='voc')
    assert capsys.readouterr().out.splitlines()[-1] == expected and 'mIoU' in expected
    for path in (root / 'SegmentationClass').iterdir():
        Image.fromarray(np.full((64, 72), 255, np.uint8)).save(path)
    with pytest.raises(UserError, match='SegmentationClass: none of the 3 masks shows a class'):
        run(root, weights, out, TEST_CRF='none')
