"""Which galleries a run has: of its pseudo masks, and of DeepLab's masks."""

import json
import shutil

from made_up_run import make_run
from tool.report_page.mask_stages import sources_of, with_truth
from tool.report_page.run_files import read_run


def add_deeplab(work, names, crf=False):
    """A test of DeepLab on the pictures of a list of its own; with `crf` it has two folders."""
    (work / 'val.txt').write_text('\n'.join(names), encoding='utf-8')
    shutil.copytree(work / 'walk', work / 'deeplab', dirs_exist_ok=True)
    path = work / 'pipeline.json'
    content = json.loads(path.read_text())
    words = ['segmentation/x/test.py', '--list', f'{work}/val.txt', '--out_dir', f'{work}/deeplab']
    if crf:
        shutil.copytree(work / 'walk', work / 'deeplab_no_crf', dirs_exist_ok=True)
        words += ['--out_no_crf', f'{work}/deeplab_no_crf']
    content['stages']['deeplab_test'] = {'command': words, 'seconds': 1.0, 'done': True}
    path.write_text(json.dumps(content))


def sources(work):
    return sources_of(read_run(str(work)))


def test_folders_and_titles(tmp_path):
    work, names = make_run(tmp_path)
    (source,) = sources(work)
    # the ladder has a title for the walk; the seeds were scored as CAMs
    assert [(stage.title, stage.folder) for stage in source.stages] == [
        ('seeds', str(work / 'seed')),
        ('random walk', str(work / 'walk')),
    ]
    assert source.names == names and source.cam_dir == str(work / 'cam')
    assert with_truth(source) == names
    (work / 'walk' / f'{names[0]}.png').unlink()
    assert with_truth(source) == names[1:]


def test_without_masks_or_pictures_there_is_no_gallery(tmp_path):
    work, _ = make_run(tmp_path)
    shutil.rmtree(work / 'walk')
    (source,) = sources(work)
    assert [stage.title for stage in source.stages] == ['seeds']
    shutil.rmtree(work / 'seed')
    assert sources(work) == []
    shutil.rmtree(tmp_path / 'data')
    assert sources(work) == []


def test_deeplab_on_other_pictures_has_a_gallery_of_its_own(tmp_path):
    work, names = make_run(tmp_path)
    add_deeplab(work, ['other', names[0]])
    first, second = sources(work)
    assert len(first.stages) == 2 and second.names == ['other', names[0]]
    assert (second.title, second.stages[0].title) == ('DeepLab', 'DeepLab')
    add_deeplab(work, ['other', names[0]], crf=True)
    titles = [stage.title for stage in sources(work)[1].stages]
    assert titles == ['DeepLab, without CRF', 'DeepLab + CRF']


def test_deeplab_on_the_same_pictures_is_a_column(tmp_path):
    work, names = make_run(tmp_path)
    add_deeplab(work, ['other', *names])
    (source,) = sources(work)
    assert [stage.title for stage in source.stages] == ['seeds', 'random walk', 'DeepLab']
    add_deeplab(work, names[:2])  # the pictures of the contact sheet
    assert len(sources(work)[0].stages) == 2
