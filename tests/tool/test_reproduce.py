"""tool.reproduce: what is run, skipped, continued and refused, and what the tables say. A small
script stands in for the pipeline; one test, which is slow, runs three rows for real."""

import dataclasses
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mini import ROOT, make_voc
from tool.presets.known_flags import check_overrides
from tool.presets.stages import Stage
from tool.reproduce_tables import children, plan, runs
from tool.reproduce_tables.rows import (
    EPS_CONTRAST,
    SEAM_ALONE,
    TABLES,
    ablation_row,
    with_seeds_only,
)
from utils.keys import KEYS

# It stands in for the pipeline: notes that it runs, does what do.json says of its folder, and
# writes the ladder. Its figures follow from the seed.
PIPELINE = """
import argparse, json, os, signal, sys, time
from pathlib import Path
parser = argparse.ArgumentParser()
for flag in ('--preset', '--voc12_root', '--work_dir', '--seed', '--device', '--choose', '--to'):
    parser.add_argument(flag)
parser.add_argument('--set', nargs='*', default=[])
args = parser.parse_args()
work = Path(args.work_dir)
base = Path(__file__).parent
name = f'{work.parent.name}/{work.name}'
todo = json.loads((base / 'do.json').read_text()).get(name, '')
tables = [json.loads(path.read_text()) for path in work.parents[2].glob('*/table.json')]
complete = sum(run['complete'] for table in tables for row in table['rows'] for run in row['runs'])
note = {'name': name, 'words': sys.argv[1:], 'gpu': os.environ.get('CUDA_VISIBLE_DEVICES'),
        'cores': os.environ.get('PPC_CORES')}
def write(**more):
    with open(base / 'ran', 'a') as file:
        file.write(json.dumps({**note, 'in_table': complete, **more}) + '\\n')
if todo == 'meet':
    (base / f'here {work.parent.name}').write_text('')
    end = time.monotonic() + 20
    while len(list(base.glob('here *'))) < 2 and time.monotonic() < end:
        time.sleep(0.02)
if todo == 'sleep':
    def stop(number, frame):
        write(stopped=number)
        sys.exit(128 + number)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    (base / 'asleep').write_text(str(os.getpid()))
    time.sleep(60)
write()
if todo == 'fail':
    print('pipeline: stage train failed: contrast_train.py: error: no memory', file=sys.stderr)
    print('pipeline: its output is in train.log', file=sys.stderr)
    sys.exit(1)
if todo == 'nothing':
    sys.exit()
if todo == 'die':
    os.kill(os.getpid(), signal.SIGKILL)
if args.to == 'warmup':
    (work / 'warmup.pth').write_text('')
    sys.exit()
lists = {'seeds of val': 'lists/val.txt'}
rows = []
for place, row in enumerate(ROWS):
    value = 50 + 10 * int(args.seed) + place
    entry = {'row': row, 'mIoU': value, 'list': lists.get(row, 'lists/train.txt'), 'images': 1464}
    entry |= {'gt_dir': '/voc/SegmentationClass', 'seconds': 2.0}
    if 'seeds' in row.split(',')[0] and '+' not in row:
        entry['t'] = 0.25 + 0.25 * int(args.seed)
    rows.append(entry)
ladder = {'rows': rows, 'commit': 'abc1234', 'choices': ['masks walk']}
(work / 'ladder.json').write_text(json.dumps(ladder))
"""
SEAM_LADDER = [figure.ladder for figure in SEAM_ALONE.figures]
EPS_LADDER = [figure.ladder for figure in EPS_CONTRAST.figures]


@pytest.fixture
def fake(tmp_path, monkeypatch, run):
    """fake(*flags): runs tool.reproduce on a small data folder → (exit code, stdout, stderr, names
    of the runs that were made)."""
    ladder = list(dict.fromkeys([*SEAM_LADDER, *EPS_LADDER]))
    script = tmp_path / 'pipeline.py'
    script.write_text(PIPELINE.replace('ROWS', repr(ladder)))
    monkeypatch.setattr(runs, 'PIPELINE', (str(script),))
    monkeypatch.setattr(children, 'INTERVAL', 0.01)
    # it reads the --help of scripts that load torch
    monkeypatch.setattr(runs, 'check_overrides', lambda preset, overrides: None)
    voc = tmp_path / 'voc'
    names = make_voc(voc)
    (voc / 'lists').mkdir()
    for name in ('train_aug', 'train', 'val'):
        (voc / 'lists' / f'{name}.txt').write_text('\n'.join(names))
    (voc / 'cls_labels.npy').rename(voc / 'lists' / 'cls_labels.npy')

    def do(**what):
        (tmp_path / 'do.json').write_text(json.dumps(what))

    def ran():
        path = tmp_path / 'ran'
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def call(table, *flags):
        before = len(ran())
        words = [table, '--voc12_root', voc, '--work_dir', tmp_path / 'work', *flags]
        result = run('tool.reproduce', *words)
        return (*result, [note['name'] for note in ran()[before:]])

    do()
    call.do, call.ran, call.folder, call.voc = do, ran, tmp_path, voc
    call.work = tmp_path / 'work'
    call.table = lambda name: json.loads((call.work / name / 'table.json').read_text())
    return call


SEEDS = ('--seeds', 0, 1, 2)
SEAM_RUNS = [f'{row}/seed{seed}' for seed in range(3) for row in ('seam_alone', 'seam_contrast')]


def test_the_table_has_median_lowest_and_highest_beside_the_papers_figure(fake):
    code, out, err, ran = fake('seam', *SEEDS)
    assert (code, err, ran) == (0, '', SEAM_RUNS)
    assert '[1/6] SEAM, seed 0: complete, ' in out and ', seeds 50.0\n' in out
    alone, contrast = fake.table('seam')['rows']
    seeds = contrast['figures'][0]
    assert seeds['values'] == {'0': 50, '1': 60, '2': 70}
    assert (seeds['median'], seeds['lowest'], seeds['highest'], seeds['seeds']) == (60, 50, 70, 3)
    assert seeds['paper'] == 61.5
    assert seeds['background_score'] == {'0': 0.25, '1': 0.5, '2': 0.75}
    assert (seeds['list'], seeds['images']) == ('lists/train.txt', 1464)
    assert seeds['gt_dir'] == '/voc/SegmentationClass'
    assert alone['figures'][2]['paper'] is None
    assert [run['commit'] for run in alone['runs']] == ['abc1234'] * 3

    markdown = (fake.work / 'seam' / 'table.md').read_text()
    line = (
        '| seeds | train (1,464) | 61.5 | 60.0 | 50.0 | 70.0 | 3 | 0.25–0.75 | SegmentationClass |'
    )
    assert f'| SEAM + contrast {line}\n' in markdown
    assert '|  | random walk | train (1,464) |  | 62.0 | 52.0 | 72.0 | 3 |  |' in markdown
    assert '--to score_deeplab_crf' in markdown and 'python -m tool.reproduce seam' in markdown


def test_the_commands_are_those_of_the_pipeline(fake):
    fake('seam', '--seeds', 4, '--device', 'cpu')
    words = fake.ran()[0]['words']
    assert words == [
        '--preset', 'reproduce',
        '--voc12_root', str(fake.voc),
        '--work_dir', str(fake.work / 'runs' / 'seam_alone' / 'seed4'),
        '--seed', '4',
        '--device', 'cpu',
        '--choose', 'masks',
        '--to', 'score_deeplab_crf',
        '--set', 'preset.method=seam', 'preset.scale=paper',
        f'preset.lists={fake.voc}/lists', 'train.no_contrast=yes',
    ]  # fmt: skip


def test_what_is_complete_is_skipped(fake):
    fake('seam', *SEEDS)
    (fake.work / 'seam' / 'table.md').unlink()
    code, out, _, ran = fake('seam', *SEEDS)
    assert code == 0 and ran == [] and '6 of them are complete' in out
    assert (fake.work / 'seam' / 'table.md').exists()
    assert fake('seam', '--seeds', 2, 3)[3] == ['seam_alone/seed3', 'seam_contrast/seed3']


def test_a_run_without_a_figure_of_the_row_is_not_complete(fake):
    fake('seam', '--seeds', 0)
    path = fake.work / 'runs' / 'seam_alone' / 'seed0' / 'ladder.json'
    ladder = json.loads(path.read_text())
    path.write_text(json.dumps({**ladder, 'rows': ladder['rows'][:1]}))
    assert fake('seam', '--seeds', 0)[3] == ['seam_alone/seed0']


def test_the_table_is_written_after_every_run(fake):
    fake('seam', '--seeds', 0, 1)
    assert [note['in_table'] for note in fake.ran()] == [0, 1, 2, 3]


def test_tables_share_their_runs(fake):
    fake('seam', '--seeds', 0)
    ran = fake('baseline', '--seeds', 0)[3]
    assert ran == ['eps_alone/seed0']
    ran = fake('ablation', '--seeds', 0)[3]
    assert len(ran) == len({row.folder for row in TABLES['ablation']}) - 2
    assert not {'seam_alone/seed0', 'seam_contrast/seed0'} & set(ran)
    rows = {row['row']: row for row in fake.table('ablation')['rows']}
    assert (
        rows['batch 8 (the default)']['figures'] == rows['temperature 0.1 (the default)']['figures']
    )
    assert rows['batch 8 (the default)']['figures'][0]['paper'] == 61.5


def test_after_a_failed_run_the_others_go_on(fake):
    fake.do(**{'seam_alone/seed1': 'fail'})
    code, out, err, ran = fake('seam', *SEEDS)
    reason = 'pipeline: stage train failed: contrast_train.py: error: no memory'
    assert code == 1 and ran == SEAM_RUNS
    assert err.splitlines() == [f'reproduce: SEAM, seed 1 failed: {reason}']
    table = fake.table('seam')
    assert table['failed'] == [{'run': 'SEAM, seed 1', 'reason': reason}]
    assert table['rows'][0]['figures'][0]['values'] == {'0': 50, '2': 70}
    assert f'- SEAM, seed 1: `{reason}`' in (fake.work / 'seam' / 'table.md').read_text()

    fake.do()
    code, _, _, ran = fake('seam', *SEEDS)
    assert (code, ran) == (0, ['seam_alone/seed1'])
    assert fake.table('seam')['failed'] == []


def test_a_run_that_ends_without_its_figures_has_failed(fake):
    fake.do(**{'seam_alone/seed0': 'nothing'})
    code, _, err, _ = fake('seam', '--seeds', 0)
    assert code == 1 and 'SEAM, seed 0 failed: it ended well, but without' in err


def test_a_run_that_somebody_kills_has_failed(fake):
    fake.do(**{'seam_alone/seed0': 'die'})
    code, _, err, ran = fake('seam', '--seeds', 0)
    assert code == 1 and ran == ['seam_alone/seed0', 'seam_contrast/seed0']
    assert 'SEAM, seed 0 failed: it was ended by SIGKILL' in err


def test_the_settings_of_the_warm_up_are_settings_of_the_run(fake, refused):
    fake('seam', '--scale', 'tiny', '--seeds', 0)
    words = ['seam', '--voc12_root', fake.voc, '--work_dir', fake.work, '--seeds', 0]
    words += ['--scale', 'tiny', '--set', 'warmup.max_steps=9']
    refused('tool.reproduce', words, 'warmup.max_steps = None, now warmup.max_steps = 9')


def test_on_error_stop(fake):
    fake.do(**{'seam_contrast/seed0': 'fail'})
    code, _, err, ran = fake('seam', *SEEDS, '--on_error', 'stop')
    assert code == 1 and ran == SEAM_RUNS[:2] and 'SEAM + contrast, seed 0 failed' in err


def test_the_warm_up_is_shared(fake):
    code, _, _, ran = fake('seam', '--scale', 'tiny', '--seeds', 0, 1)
    assert code == 0
    assert ran[:2] == ['warmup_seam/seed0', 'warmup_seam/seed1']
    assert ran[2:] == SEAM_RUNS[:4]
    words = fake.ran()[2]['words']
    assert f'preset.warmup={fake.work}/runs/warmup_seam/seed0/warmup.pth' in words
    assert 'means nothing' not in words and 'numbers mean nothing' in str(
        fake.table('seam')['notes']
    )
    # complete runs need it no more
    (fake.work / 'runs' / 'warmup_seam' / 'seed0' / 'warmup.pth').unlink()
    assert fake('seam', '--scale', 'tiny', '--seeds', 0, 1)[3] == []


def test_without_its_warm_up_a_run_fails_and_those_of_other_seeds_go_on(fake):
    fake.do(**{'warmup_seam/seed0': 'fail'})
    code, _, err, ran = fake('seam', '--scale', 'tiny', '--seeds', 0, 1)
    assert code == 1 and ran[2:] == SEAM_RUNS[2:4]
    lines = err.splitlines()
    assert len(lines) == 3 and 'warm-up of seam, seed 0 failed' in lines[0]
    assert 'SEAM, seed 0 failed: ' in lines[1] and 'warmup.pth is missing' in lines[1]


def test_other_settings_are_refused(fake, refused):
    fake('seam', '--seeds', 0)
    folder = fake.work / 'runs' / 'seam_alone' / 'seed0'
    words = ['seam', '--voc12_root', fake.voc, '--work_dir', fake.work, '--seeds', 0]
    words += ['--set', 'train.max_steps=7']
    difference = 'was made with train.max_steps = None, now train.max_steps = 7'
    refused('tool.reproduce', words, folder, difference, '--work_dir')
    assert fake('seam', '--seeds', 0)[3] == []


def test_set_reaches_the_runs_that_have_the_stage(fake):
    fake('baseline', '--seeds', 0, '--set', 'aff_train.max_steps=7', 'preset.saliency=/sal')
    of_seam, of_eps = [note['words'] for note in fake.ran()]
    assert 'aff_train.max_steps=7' in of_seam and 'aff_train.max_steps=7' not in of_eps
    assert 'preset.saliency=/sal' in of_seam and 'preset.saliency=/sal' in of_eps
    assert of_seam.index('aff_train.max_steps=7') < of_seam.index('train.no_contrast=yes')


@pytest.mark.parametrize(
    'word, parts',
    [
        ('trian.max_steps=7', ['no row has a stage trian', 'aff_train', 'train']),
        ('preset.scale=tiny', ['the rows of the table decide that']),
        ('score_seeds.nonsense=1', ['eval.py has no flag --nonsense']),
        ('preset.nonsense=1', ['has no option nonsense']),
        ('max_steps', ['STAGE.FLAG=VALUE is expected']),
    ],
)
def test_a_bad_set_is_refused_before_anything_runs(word, parts, fake, refused, monkeypatch):
    monkeypatch.setattr(runs, 'check_overrides', check_overrides)
    words = ['seam', '--voc12_root', fake.voc, '--work_dir', fake.work, '--set', word]
    refused('tool.reproduce', words, f'--set {word}', *parts)
    assert fake.ran() == [] and not fake.work.exists()


def test_pictures_without_ground_truth_are_refused(fake, refused):
    (fake.voc / 'SegmentationClass' / '2007_000001.png').unlink()
    words = ['seam', '--voc12_root', fake.voc, '--work_dir', fake.work]
    refused('tool.reproduce', words, '1 of the 4 pictures', '2007_000001.png', 'ground truth')


def test_other_refusals(fake, refused):
    refused('tool.reproduce', ['seam', '--voc12_root', '/nowhere'], '--voc12_root /nowhere')
    fake('seam', '--seeds', 0)
    record = fake.work / 'runs' / 'seam_alone' / 'seed0' / 'reproduce.json'
    record.write_text('{"settings"')
    words = ['seam', '--voc12_root', fake.voc, '--work_dir', fake.work, '--seeds', 0]
    refused('tool.reproduce', words, record, 'unreadable', 'delete it')


def test_more_gpus_than_there_are(fake, refused, monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 1)
    words = ['seam', '--voc12_root', fake.voc, '--work_dir', fake.work, '--gpus', 2]
    refused('tool.reproduce', words, '--gpus 2: this machine has 1')


@pytest.mark.parametrize('visible, expected', [('', ['0', '1']), ('5,3,GPU-x', ['5', '3'])])
def test_two_runs_at_a_time_each_on_a_gpu_of_its_own(fake, monkeypatch, visible, expected):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 3)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', visible)
    monkeypatch.setattr('tool.run.command_line.default_jobs', lambda: 9)
    # each waits for the other: one after the other they would not end
    fake.do(**{'seam_alone/seed0': 'meet', 'seam_contrast/seed0': 'meet'})
    code, _, _, _ = fake('seam', '--seeds', 0, '--gpus', 2)
    assert code == 0 and len(list(fake.folder.glob('here *'))) == 2
    assert {note['name']: note['gpu'] for note in fake.ran()} == {
        'seam_alone/seed0': expected[0],
        'seam_contrast/seed0': expected[1],
    }
    assert {note['cores'] for note in fake.ran()} == {'4'}


def test_saliency_maps_are_made_of_masks_where_a_small_scale_has_none(fake, monkeypatch):
    monkeypatch.setitem(TABLES, 'eps', (with_seeds_only(EPS_CONTRAST, 'EPS + contrast'),))
    (fake.voc / 'SALImages').rename(fake.voc / 'elsewhere')
    (fake.voc / 'SegmentationClassAug').symlink_to('SegmentationClass')
    code, _, err, _ = fake('eps', '--scale', 'laptop', '--seeds', 0)
    assert (code, err) == (0, '')
    assert len(list((fake.work / 'SALImages').glob('*.png'))) == 4
    assert f'preset.saliency={fake.work}/SALImages' in fake.ran()[-1]['words']
    assert 'made from ground-truth masks' in (fake.work / 'eps' / 'table.md').read_text()


# ---------------------------------------------------------------- signals


def started(fake, *flags):
    """A tool.reproduce in a process of its own whose first run sleeps."""
    fake.do(**{'seam_alone/seed0': 'sleep'})
    code = (
        'import sys; from tool import reproduce; from tool.reproduce_tables import runs; '
        f'runs.PIPELINE = ({str(fake.folder / "pipeline.py")!r},); '
        'reproduce.command_line.run(reproduce.main, reproduce.parse_args)'
    )
    words = ['seam', '--voc12_root', fake.voc, '--work_dir', fake.work, '--seeds', 0]
    process = subprocess.Popen(
        [sys.executable, '-c', code, *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    end = time.monotonic() + 60
    while not (fake.folder / 'asleep').exists():
        assert process.poll() is None and time.monotonic() < end, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_ends_the_pipeline_in_order_and_the_same_command_goes_on(fake, number, code):
    process = started(fake)
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code and 'SEAM, seed 0: stopped' in out
    assert 'the same command continues from there' in err and 'Traceback' not in err
    assert [note.get('stopped') for note in fake.ran()] == [number]
    fake.do()
    assert fake('seam', '--seeds', 0)[3] == ['seam_alone/seed0', 'seam_contrast/seed0']


@pytest.mark.skipif(
    sys.platform != 'linux', reason='only Linux tells a process that its parent has died'
)
def test_a_kill_ends_the_pipeline_too(fake):
    process = started(fake)
    process.kill()
    process.communicate()
    pipeline = int((fake.folder / 'asleep').read_text())
    end = time.monotonic() + 30
    while Path(f'/proc/{pipeline}').exists():
        assert time.monotonic() < end
        time.sleep(0.02)
    assert [note.get('stopped') for note in fake.ran()] == [signal.SIGTERM]


# ---------------------------------------------------------------- the plan


SMALL_BATCH = ('--set', 'train.batch_size=2')


def test_the_plan_runs_nothing_and_says_what_there_is_to_do(fake):
    fake('seam', '--seeds', 0, *SMALL_BATCH)
    code, out, err, ran = fake('seam', *SEEDS, *SMALL_BATCH, '--plan', '--timed_steps', 0)
    assert (code, err, ran) == (0, '', [])
    lines = out.splitlines()
    head = 'run stages steps batch trained on seeds of disk time'
    assert lines[0].split() == head.split()
    assert lines[1].startswith('SEAM, seed 0 (complete) ')
    # 8 epochs of 4 pictures, 2 in a step; the stages up to the score of DeepLab
    assert lines[3].split()[:8] == ['SEAM,', 'seed', '1', '16', '16', '2', '4', '4']
    assert '4 of 6 runs to do' in out and 'hours' not in out
    assert 'time: not known, because of --timed_steps 0' in out


def test_the_time_of_the_plan_follows_from_timed_steps(fake, monkeypatch):
    """A start takes 10 s, a step of training 3 s, without the contrast 2 s, a picture 4 s and an
    iteration of DeepLab 0.5 s."""
    timed = []

    def run_stage(stage, folder):
        if stage.name == 'train':
            count = stage.flags['max_steps']
            of_one = 2 if stage.flags.get('no_contrast') else 3
        elif stage.name == 'infer':
            count = len(Path(stage.flags['infer_list']).read_text().splitlines())
            of_one = 4
        else:
            count = stage.config['TRAIN_ITERATION']
            of_one = 0.5
            assert stage.config['DATA_PSEUDO_GT'] == f'{fake.voc}/SegmentationClass'
        timed.append((stage.name, count))
        return 10 + count * of_one

    monkeypatch.setattr(plan, 'run_stage', run_stage)
    flags = ['--device', 'cpu', '--timed_steps', 2, '--plan', *SMALL_BATCH]
    code, out, _, ran = fake('seam', '--seeds', 0, *flags)
    assert code == 0 and ran == []
    assert timed == [
        ('train', 1), ('train', 3), ('infer', 1), ('infer', 3), ('deeplab_train', 1),
        ('deeplab_train', 3), ('train', 1), ('train', 3),
    ]  # fmt: skip
    lines = [line for line in out.splitlines() if line.startswith('SEAM')]
    assert lines[0].endswith('2:47 h')  # 16 · 2 s + 4 · 4 s + 20,000 · 0.5 s
    assert lines[1].endswith('2:47 h')
    assert '2 of 2 runs to do' in out and ', 5.6 hours' in out
    assert "time: of this machine's cpu, not of a GPU" in out


def test_the_timed_runs_read_the_data_of_the_runs(fake, monkeypatch):
    flags_of_train = []

    def run_stage(stage, folder):
        if stage.name == 'train':
            flags_of_train.append(stage.flags)
        return 1.0

    monkeypatch.setattr(plan, 'run_stage', run_stage)
    flags = ['--scale', 'tiny', '--seeds', 0, '--device', 'cpu', '--plan', *SMALL_BATCH]
    code, _, _, _ = fake('eps', *flags)
    assert code == 0
    for of_train in flags_of_train:
        assert of_train['saliency_root'] == f'{fake.voc}/SALImages'
        assert of_train['train_list'] == f'{fake.voc}/lists/train_aug.txt'
        assert of_train['weights'].endswith('warmup_eps.pth')
    assert len({of_train['session_name'] for of_train in flags_of_train}) == 4


def test_a_plan_whose_short_runs_fail_says_why_it_has_no_times(fake, monkeypatch):
    started = []

    def run_stage(stage, folder):
        started.append(stage.name)
        raise plan.NotTimed('contrast_train.py: error: x.params: no such file')

    monkeypatch.setattr(plan, 'run_stage', run_stage)
    code, out, _, _ = fake('seam', '--seeds', 0, '--plan', '--device', 'cpu', *SMALL_BATCH)
    assert code == 0 and started == ['train']
    assert 'time: not known, contrast_train.py: error: x.params: no such file' in out
    assert '2 of 2 runs to do' in out


def test_run_stage(tmp_path):
    nothing = Stage('list', script='voc12.make_lists', flags={'help': True})
    assert plan.run_stage(nothing, str(tmp_path)) > 0
    with pytest.raises(plan.NotTimed, match='error: .*--voc12_root'):
        plan.run_stage(Stage('list', script='voc12.make_lists'), str(tmp_path))


@pytest.mark.parametrize(
    'stage, size',
    [
        # 3 pictures of 100 pixels and 2 classes, float32
        (Stage('infer', script='contrast_infer.py', flags={'out_cam': 'cam'}), 3 * 2 * 400),
        # two sets of the classes and the background, float16
        (
            Stage(
                'aff_prepare', script='aff_prepare.py', flags={'alpha': [4, 24], 'dtype': 'float16'}
            ),
            3 * 2 * 3 * 200,
        ),
        (Stage('walk', script='aff_infer.py', makes=['walk', 'walk_crf']), 2 * 3 * 3),
        (Stage('score', script='eval.py', makes=['scores.json']), 0),
    ],
)
def test_bytes_of(stage, size, tmp_path):
    (tmp_path / 'list.txt').write_text('a\nb\nc')
    flags = {**stage.flags, 'infer_list': str(tmp_path / 'list.txt')}
    stage = dataclasses.replace(stage, flags=flags)
    assert plan.bytes_of(stage, plan.Picture(pixels=100, classes=2)) == pytest.approx(size)


def test_deeplab_has_the_iterations_of_its_config():
    assert plan.DEEPLAB_STEPS == KEYS['TRAIN_ITERATION'].default


# ---------------------------------------------------------------- for real


@pytest.mark.slow
def test_three_rows_run_at_the_scale_tiny(run, monkeypatch, tmp_path):
    rows = (
        ablation_row('temperature 0.2', 'temperature_0.2', 'temperature=0.2'),
        ablation_row('label-aware prototypes', 'label_aware', 'prototypes=label_aware'),
        with_seeds_only(EPS_CONTRAST, 'EPS + contrast'),
    )
    monkeypatch.setitem(TABLES, 'ablation', rows)
    monkeypatch.setenv('OMP_NUM_THREADS', '2')
    words = ['ablation', '--scale', 'tiny', '--seeds', 0, '--device', 'cpu']
    code, out, err = run('tool.reproduce', *words, '--work_dir', tmp_path / 'work')
    assert code == 0 and err == '', f'{out}\n{err}'
    table = json.loads((tmp_path / 'work' / 'ablation' / 'table.json').read_text())
    figures = [row['figures'][0] for row in table['rows']]
    assert [figure['seeds'] for figure in figures] == [1, 1, 1]
    assert all(0 <= figure['median'] <= 100 and figure['images'] == 16 for figure in figures)
    for row in table['rows']:
        assert row['runs'][0]['complete']
