"""The pipeline: what is skipped, continued and done anew, how stages fail; and the smoke preset as
a whole."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

from mini import ROOT
from tool.presets import runner
from tool.presets.processes import most_processes
from tool.run import command_line
from voc12.classes import CLASSES

# A stage that notes that it ran in {work}/ran, writes --out, and does what --do says.
SCRIPT = """
import argparse, json, os, sys, time
parser = argparse.ArgumentParser()
for flag in ('--work', '--name', '--out', '--do', '--json', '--miou', '--curve', '--value'):
    parser.add_argument(flag, default='')
args = parser.parse_args()
with open(os.path.join(args.work, 'ran'), 'a') as file:
    file.write(args.name + (':found' if args.out and os.path.exists(args.out) else '') + ' ')
if args.out:
    open(args.out, 'w').write(args.value)
if args.json:
    scores = {**dict.fromkeys(CLASSES, float(args.miou)), 'cat': 90.0, 'mIoU': float(args.miou)}
    scores |= {'list': 'l/train.txt', 'images': 3, 'gt_dir': 'gt', 'predict_dir': 'p'}
    scores['pixels'] = {name: 1000 + (name == 'cat') for name in CLASSES}
    if args.curve:
        scores |= {'t': float(args.curve), 'curve_t': []}
    json.dump(scores, open(args.json, 'w'))
if args.do == 'fail':
    print('stage.py: error: bad input\\n  ')
    sys.exit(7)
if args.do == 'sleep':
    time.sleep(60)
""".replace('CLASSES', repr(CLASSES))
PRESET = """
from tool.presets.stages import BEST_MASKS, BEST_THRESHOLD, Preset, Stage, Stages


def preset(run):
    work = run.work

    def stage(name, **fields):
        flags = {'work': work, 'name': name, **fields.pop('flags')}
        return Stage(name, script=f'{work}/stage.py', flags=flags, **fields)

    one = stage('one', flags={'out': f'{work}/one.txt'}, makes=['one.txt'])
    seeds = stage(
        'seeds',
        flags={'json': f'{work}/seeds.json', 'miou': 30, 'curve': 0.314},
        row='seeds',
        masks=f'{work}/seed_masks',
    )
    crf = stage(
        'crf',
        flags={'json': f'{work}/crf.json', 'miou': 50, 'value': BEST_THRESHOLD},
        row='seeds + CRF',
        masks=f'{work}/crf_masks',
    )
    walk = stage(
        'walk',
        flags={'json': f'{work}/walk.json', 'miou': 40, 'value': BEST_THRESHOLD},
        row='walk',
        masks=f'{work}/walk_masks',
    )
    last = stage(
        'last',
        flags={'out': f'{work}/last.txt', 'value': BEST_MASKS},
        makes=['last.txt'],
    )
    stages = Stages([one, seeds, crf, walk, last])
    return Preset('a toy', stages, core=['cat', 'dog'], next_steps=['now read on', 'or do not'])
"""


@pytest.fixture
def toy(tmp_path, run):
    """toy(*flags): runs the toy preset → (exit code, stdout, stderr, names of the stages that
    ran)."""
    folder = tmp_path / 'work dir'
    folder.mkdir()
    (folder / 'stage.py').write_text(SCRIPT)
    (tmp_path / 'toy.py').write_text(PRESET)

    def call(*flags):
        (folder / 'ran').write_text('')
        result = run('tool.pipeline', '--preset', tmp_path / 'toy.py', '--work_dir', folder, *flags)
        return (*result, (folder / 'ran').read_text().split())

    call.folder = folder
    call.command = [
        sys.executable,
        '-m',
        'tool.pipeline',
        '--preset',
        str(tmp_path / 'toy.py'),
        '--work_dir',
        str(folder),
    ]
    return call


ALL = ['one', 'seeds', 'crf', 'walk', 'last']


def test_complete_stages_are_skipped(toy):
    code, out, _, ran = toy()
    assert code == 0 and ran == ALL and 'contact_sheet' not in out
    assert f'report: {toy.folder}/report.html (' in out and (toy.folder / 'report.html').exists()
    code, out, _, ran = toy()
    assert code == 0 and ran == [] and out.count(' complete (') == 5 and 'seeds + CRF' in out


def test_the_last_lines_are_the_next_steps(toy):
    assert 'now read on' not in toy('--to', 'walk')[1]
    assert toy()[1].splitlines()[-2:] == ['now read on', 'or do not']


def test_what_the_results_fill(toy):
    toy()
    records = json.loads((toy.folder / 'pipeline.json').read_text())['stages']
    assert records['crf']['command'][-2:] == ['--value', '0.31']
    assert (toy.folder / 'last.txt').read_text() == str(
        toy.folder / 'crf_masks'
    )  # 50 is the best of 30, 50 and 40
    toy('--set', 'walk.miou=51')
    assert (toy.folder / 'last.txt').read_text() == str(toy.folder / 'walk_masks')


@pytest.mark.parametrize(
    'record',
    [
        5,
        None,
        {'done': True},
        {'command': 'eval.py', 'seconds': 1, 'done': True},
        {'command': [], 'decides': 'eval.py', 'seconds': 1, 'done': True},
        {'command': [], 'seconds': '1', 'done': True},
        {'command': [], 'seconds': float('nan'), 'done': True},
        {'command': [], 'seconds': -1, 'done': True},
        {'command': [], 'seconds': 1, 'done': 'no'},
        {'command': [], 'seconds': 1, 'done': True, 'paths': 5},
    ],
)
def test_a_pipeline_json_that_somebody_has_edited_is_one_line(toy, record):
    content = {'preset': 'toy', 'stages': {'one': record}}
    (toy.folder / 'pipeline.json').write_text(json.dumps(content))
    code, _, error, ran = toy()
    assert code == 2 and ran == []
    assert re.search(r'pipeline\.json: unreadable \(.*stage one .*\); delete it to do all', error)


def test_a_pipe_in_place_of_a_log_is_refused_and_not_waited_for(toy):
    (toy.folder / 'logs').mkdir()
    os.mkfifo(toy.folder / 'logs' / 'one.log')
    code, _, error, ran = toy()
    assert code == 2 and ran == [] and 'one.log: cannot be written (a pipe' in error


def test_a_changed_stage_and_all_after_it_are_done_anew(toy):
    toy()
    assert toy('--set', 'walk.value=x')[3] == ['walk', 'last']  # last.txt was removed before
    assert toy()[3] == ['walk', 'last']
    (toy.folder / 'one.txt').unlink()
    assert toy()[3] == ALL
    assert toy('--seed', 4)[3] == []  # no stage of the toy asks for the seed


def test_a_stage_whose_files_have_changed_runs_again(toy, tmp_path):
    listed = tmp_path / 'list.txt'
    listed.write_text('a\n')
    flags = ('--set', f'walk.value={listed}')
    assert toy(*flags)[3] == ALL
    assert toy(*flags)[3] == []
    listed.write_text('b\n')
    code, out, _, ran = toy(*flags)
    assert code == 0 and ran == ['walk'] and f'runs again, {listed} has changed' in out
    assert toy(*flags)[3] == []
    (toy.folder / 'last.txt').write_text('edited')
    assert toy(*flags)[3] == ['last:found']  # its output is not removed: the stage decides


def test_a_training_whose_data_have_changed_is_done_anew(toy, tmp_path):
    """Its script would refuse to replace weights of other data, and what follows uses them."""
    (toy.folder / 'toy_train.py').write_text(SCRIPT)
    listed = tmp_path / 'list.txt'
    listed.write_text('a\n')
    flags = ('--set', f'one.script={toy.folder}/toy_train.py', f'one.value={listed}')
    assert toy(*flags)[3] == ALL
    listed.write_text('b\n')
    code, out, _, ran = toy(*flags)
    assert code == 0 and f'trains anew, {listed} has changed' in out
    assert ran == ALL  # without :found, because the old output was removed
    assert toy(*flags)[3] == []


def test_a_training_that_was_broken_off_continues_on_the_same_data_only(toy, tmp_path):
    (toy.folder / 'toy_train.py').write_text(SCRIPT)
    listed = tmp_path / 'list.txt'
    listed.write_text('a\n')
    flags = ('--set', f'one.script={toy.folder}/toy_train.py', f'one.value={listed}', 'one.do=fail')
    assert toy(*flags)[3] == ['one']
    code, out, _, ran = toy(*flags)
    assert code == 7 and ran == ['one:found'] and ' continued' in out
    listed.write_text('b\n')
    code, out, _, ran = toy(*flags)
    assert code == 7 and ran == ['one'] and f'trains anew, {listed} has changed' in out
    assert toy(*flags)[3] == ['one:found']


def test_a_pipeline_killed_while_it_removes_old_output_removes_the_rest(toy, monkeypatch):
    toy()

    def killed(self, stage):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr('tool.presets.runner.Runner.clean', killed)
        assert toy('--set', 'one.value=x')[::3] == (130, [])
    # with the old command, whose output may be half removed
    assert toy()[3] == ALL


def test_a_failed_stage_passes_its_line_and_code_on_and_is_continued(toy):
    code, _, err, ran = toy('--set', 'walk.do=fail')
    assert code == 7 and ran == ['one', 'seeds', 'crf', 'walk']
    assert (
        'stage walk failed: stage.py: error: bad input\n' in err
        and str(toy.folder / 'logs' / 'walk.log') in err
    )
    code, _, _, ran = toy('--set', 'last.do=fail')
    assert code == 7 and ran == ['walk', 'last']
    assert toy('--set', 'last.do=fail')[3] == [
        'last:found'
    ]  # the same command: goes on with what is there
    assert toy()[::3] == (0, ['last'])  # another command: its old output was removed


def test_processes_share_a_stage(toy, monkeypatch):
    # whatever this machine has
    monkeypatch.setattr('tool.presets.processes.most_processes', {None: 2}.get)
    code, out, _, ran = toy('--set', 'walk.processes=5')  # more than there is room for
    assert code == 0 and ran == ['one', 'seeds', 'crf', 'walk', 'walk', 'last']
    assert toy('--set', 'walk.processes=5')[3] == []
    assert toy()[3] == []  # as on a machine with room for one process
    code, _, err, _ = toy('--set', 'walk.processes=5', 'walk.do=fail')
    assert (
        code == 2 and 'stage walk failed: stage.py: error: bad input\n' in err
    )  # not what torchrun has to say of it
    code, out, _, ran = toy('--set', 'walk.processes=5', '--show')
    assert code == 0 and '--nproc_per_node 2 ' in out and ran == []


def test_processes_count_in_a_training_only(toy, monkeypatch):
    room = {None: 2}
    monkeypatch.setattr('tool.presets.processes.most_processes', room.get)
    (toy.folder / 'toy_train.py').write_text(SCRIPT)
    training = f'one.script={toy.folder}/toy_train.py'
    flags = ('--set', training, 'one.processes=2', 'walk.processes=2')
    ran = toy(*flags)[3]
    assert [name.partition(':')[0] for name in ran] == ['one', *ALL[:4], 'walk', 'last']
    assert toy(*flags)[3] == []
    assert toy('--set', training, 'one.processes=2')[3] == []
    room[None] = 1  # another machine
    assert toy(*flags)[3] == ALL


def test_the_threads_of_a_stage_are_as_many_as_the_cores_it_may_use(toy, monkeypatch):
    threads = []
    original = runner.run_script

    def run_script(*arguments, **options):
        threads.append(options['threads'])
        return original(*arguments, **options)

    monkeypatch.setattr(runner, 'run_script', run_script)
    toy('--to', 'one')
    monkeypatch.setenv('PPC_CORES', '1')
    toy('--to', 'one', '--set', 'one.value=x')
    assert threads == [None, 1]


def test_as_many_processes_as_the_machine_has_room_for():
    assert most_processes('cpu') == command_line.default_jobs()
    assert 1 <= most_processes(None) <= max(command_line.default_jobs(), torch.cuda.device_count())


def test_from_and_to(toy):
    assert toy('--to', 'crf')[::3] == (0, ALL[:3])
    rows = json.loads((toy.folder / 'ladder.json').read_text())['rows']
    assert [row['row'] for row in rows] == ['seeds', 'seeds + CRF']
    assert toy('--from', 'seeds', '--to', 'seeds')[3] == ['seeds']
    assert toy()[3] == ALL[2:]
    assert toy('--from', 'last')[3] == ['last']
    # the stages before --from are taken as they are
    assert toy('--from', 'walk', '--set', 'one.value=x')[3] == ['walk', 'last']


def test_a_crash_between_two_stages_loses_nothing(toy):
    """A stage that was done anew, and the pipeline killed right after it: what follows is not taken
    for complete."""
    toy()
    assert toy('--set', 'seeds.value=x', '--to', 'seeds')[3] == ['seeds']
    assert toy('--set', 'seeds.value=x')[3] == ALL[2:]


def test_bad_flags(toy, refused, tmp_path):
    preset = ('--preset', tmp_path / 'toy.py', '--work_dir', toy.folder)
    refused(
        'tool.pipeline', ('--preset', 'nothing'), '--preset nothing: no such preset', 'quickstart'
    )
    refused('tool.pipeline', (*preset, '--from', 'nothing'), '--from nothing', 'one, seeds')
    refused('tool.pipeline', (*preset, '--from', 'walk', '--to', 'crf'), 'the other way round')
    refused(
        'tool.pipeline', (*preset, '--from', 'walk'), 'the stage one before it has not completed'
    )
    refused('tool.pipeline', (*preset, '--set', 'one.values=3'), 'stage.py has no flag --values')
    refused('tool.pipeline', (*preset, '--set', 'one.makes=/tmp', 'one.script='), 'stage one')
    (tmp_path / 'net.py').write_text(
        'from tool.presets.stages import Preset, Stage, Stages\n'
        "SCRIPT = 'segmentation/experiment/SEAM_deeplabv1_resnet38/train.py'\n"
        "def preset(run):\n    return Preset('', Stages([Stage('net', SCRIPT)]))\n"
    )
    refused(
        'tool.pipeline',
        ('--preset', tmp_path / 'net.py', '--set', 'net.TRAIN_LRR=1'),
        'no key TRAIN_LRR',
    )
    # a key that the experiment's config.py leaves at its default
    keys = ('--preset', tmp_path / 'net.py', '--set', 'net.TRAIN_LR=1', 'net.TRAIN_AMP=maybe')
    refused('tool.pipeline', (*keys, '--work_dir', tmp_path / 'net'), 'TRAIN_AMP')
    (toy.folder / 'pipeline.json').write_text('[')
    refused('tool.pipeline', preset, 'pipeline.json: unreadable')
    assert not (toy.folder / 'one.txt').exists()


def test_nothing_outside_the_work_folder_is_removed(toy, refused, tmp_path):
    (tmp_path / 'mine').write_text('')
    refused(
        'tool.pipeline',
        (*toy.command[3:], '--set', f'one.makes={tmp_path}/mine'),
        'mine: that is not in',
    )
    assert (tmp_path / 'mine').exists()


def started(toy, *flags):
    """A pipeline in a process of its own, once its sleeping stage runs."""
    process = subprocess.Popen(
        [*toy.command, *flags], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for _ in range(400):
        if (toy.folder / 'last.txt').exists():
            return process
        time.sleep(0.05)
    raise AssertionError(process.communicate())


@pytest.mark.parametrize('number, code', [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_signals_reach_the_stage(toy, number, code):
    process = started(toy, '--set', 'last.do=sleep')
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (
        process.returncode == code
        and 'the same command continues from there' in err
        and 'Traceback' not in err
    )
    record = json.loads((toy.folder / 'pipeline.json').read_text())['stages']['last']
    assert not record['done'] and 0 < record['seconds'] < 60
    assert toy('--from', 'last')[3] == ['last']


@pytest.mark.skipif(
    sys.platform != 'linux', reason='only Linux tells a process that its parent has died'
)
def test_a_killed_pipeline_leaves_no_stage_behind(toy):
    process = started(toy, '--set', 'last.do=sleep')
    process.kill()
    process.wait()
    # the next one waits until the stage has ended, or it would write beside it
    assert toy()[::3] == (0, ['last'])


def test_ladder_of_the_toy(toy):
    toy()
    ladder = json.loads((toy.folder / 'ladder.json').read_text())
    seconds = {
        name: record['seconds']
        for name, record in json.loads((toy.folder / 'pipeline.json').read_text())['stages'].items()
    }
    seeds, crf, walk = ladder['rows']
    assert (seeds['mIoU'], seeds['core'], seeds['occurring'], seeds['t']) == (
        pytest.approx((20 * 30 + 90) / 21),
        60,
        90,
        0.314,
    )
    assert seeds['seconds'] == pytest.approx(seconds['one'] + seconds['seeds'], abs=0.06)
    assert walk['seconds'] == pytest.approx(seconds['walk'], abs=0.06)
    assert ladder['seconds'] == pytest.approx(sum(seconds.values()), abs=0.06) and 't' not in crf


@pytest.mark.slow
def test_smoke(tmp_path, monkeypatch):
    """Generated pictures through all stages: a ladder with every row, and nothing to do the second
    time. Another refiner replaces what depends on it."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')

    def pipeline(refiner):
        """What the pipeline prints with a refiner."""
        flags = ('--preset', 'smoke', '--set', f'preset.refiner={refiner}', '--device', 'cpu')
        result = subprocess.run(
            [sys.executable, '-m', 'tool.pipeline', *flags, '--work_dir', str(tmp_path)],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert result.returncode == 0, result.stderr
        return result.stdout

    def check_ladder():
        rows = json.loads((tmp_path / 'ladder.json').read_text())['rows']
        assert [(row['row'], row['images']) for row in rows] == [
            ('seeds, best threshold', 24),
            ('seeds + CRF', 24),
            ('seeds + random walk', 24),
            ('seeds + random walk + CRF', 24),
            ('DeepLab, without CRF', 6),
            ('DeepLab + CRF', 6),
        ]
        assert all(0 < row['mIoU'] < 100 and row['seconds'] > 0 for row in rows)

    pipeline('psa')
    check_ladder()
    assert (tmp_path / 'contact_sheet.png').stat().st_size > 100_000
    before = (tmp_path / 'pipeline.json').read_text()
    second = pipeline('psa')
    assert second.count(' complete (') == 19 and ' runs' not in second
    assert (tmp_path / 'pipeline.json').read_text() == before

    stages = re.findall(r'^\[.*?\] (\w+) +(complete|runs)', pipeline('irn'), re.MULTILINE)
    names = [name for name, _ in stages]
    first_anew = names.index('aff_prepare')
    assert {state for _, state in stages[:first_anew]} == {'complete'}
    assert {state for _, state in stages[first_anew:]} == {'runs'}
    check_ladder()
    assert (tmp_path / 'irn_label').is_dir()


@pytest.mark.slow
def test_smoke_on_own_pictures_without_masks(tmp_path, run, monkeypatch):
    """Pictures and a table of labels through all stages: nothing is scored against ground truth,
    and image labels choose the background score and the masks."""
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    voc = tmp_path / 'synth'
    assert run('voc12.synth', '--out', voc, '--images', 20, '--val', 1, '--classes', 3)[0] == 0
    labels = np.load(voc / 'lists' / 'cls_labels.npy', allow_pickle=True).item()
    class_names = (voc / 'classes.txt').read_text().split()
    lines = ['file,labels']
    for name, label in labels.items():
        shown = [class_names[index] for index in np.flatnonzero(label)]
        lines.append(f'{name},{";".join(shown)}')
    (tmp_path / 'labels.csv').write_text('\n'.join(lines))
    data = tmp_path / 'my data'
    flags = ('--images', voc / 'JPEGImages', '--labels', tmp_path / 'labels.csv', '--out', data)
    assert run('voc12.from_folder', *flags)[0] == 0

    work = tmp_path / 'work'
    flags = ('--preset', 'smoke', '--voc12_root', data, '--work_dir', work, '--device', 'cpu')
    code, out, err = run('tool.pipeline', *flags)
    assert code == 0, err
    ladder = json.loads((work / 'ladder.json').read_text())
    titles = [row['row'] for row in ladder['rows']]
    assert titles == [
        'seeds, best threshold',
        'seeds + CRF',
        'seeds + random walk',
        'seeds + random walk + CRF',
    ]
    for row in ladder['rows']:
        assert 0 < row['agreement'] <= 100 and 'mIoU' not in row
    threshold, masks = ladder['choices']
    assert threshold.startswith('background score 0.') and 'from the histogram' in threshold
    assert 'agreement with their CRF' in masks and threshold in out and masks in out
    records = json.loads((work / 'pipeline.json').read_text())['stages']
    best = max(ladder['rows'], key=agreement_of)
    assert f'DATA_PSEUDO_GT={best["predict_dir"]}' in records['deeplab_train']['command']
    predicted = sorted(path.stem for path in (work / 'deeplab_val').glob('*.png'))
    assert predicted == (data / 'lists' / 'val.txt').read_text().split()
    assert run('tool.pipeline', *flags)[1].count(' complete (') == len(records)


def agreement_of(row):
    return row['agreement']
