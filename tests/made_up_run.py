"""A small work folder of a pipeline, without any training: for the tests of the report."""

import json
from pathlib import Path

import numpy as np

from mini import make_voc
from tool.files.npy import write_npy
from tool.files.pictures import read_mask, write_mask
from voc12.classes import CLASSES, VOC

# The name of the last picture, and of class 2: text that HTML would take for something else.
HOSTILE_NAME = 'x<i>"ü&\''
HOSTILE_CLASS = '<b>"Kühe"</b>'
# The IoU of the walk's mask of picture 1, in percent. It is background everywhere; the picture is
# 87 × 96 pixels large and has 900 pixels of class 2.
EMPTY_IOU = 100 * (1 - 900 / (87 * 96)) / 2


def make_run(folder: Path) -> tuple[Path, list[str]]:
    """A data folder and a work folder beside it.

    The masks of the random walk are the ground truth, but for picture 1, where they are background.
    The seeds are background everywhere.

    Returns:
        The work folder, and the names of the four pictures.
    """
    data = folder / 'data'
    names = make_voc(data)
    for path in (data / 'JPEGImages', data / 'SegmentationClass'):
        (old,) = path.glob(f'{names[3]}.*')
        old.rename(path / (HOSTILE_NAME + old.suffix))
    names[3] = HOSTILE_NAME
    (data / 'list.txt').write_text('\n'.join(names), encoding='utf-8')
    classes = list(CLASSES[1:])
    classes[1] = HOSTILE_CLASS
    (data / 'classes.txt').write_text('\n'.join(classes), encoding='utf-8')

    work = folder / 'my run'
    for place, name in enumerate(names):
        truth = read_mask(str(data / 'SegmentationClass' / f'{name}.png'), VOC)
        empty = np.zeros_like(truth)
        write_mask(str(work / 'seed' / f'{name}.png'), empty)
        write_mask(str(work / 'walk' / f'{name}.png'), empty if place == 1 else truth)
        write_npy(str(work / 'cam' / f'{name}.npy'), {0: (truth > 0).astype(np.float32)})
    write_records(work, data)
    return work, names


def write_records(work: Path, data: Path) -> None:
    """The JSON files of a run and the losses of a training."""
    common = ['--voc12_root', str(data)]
    infer_list = ['--infer_list', str(data / 'list.txt')]
    scored = ['--list', str(data / 'list.txt'), '--gt_dir', str(data / 'SegmentationClass')]
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    seed_masks = ['--cam_dir', f'{work}/cam', '--list', str(data / 'list.txt'), '--t', '0.31']
    commands = {
        'train': [*torchrun, 'contrast_train.py', *common, '--session_name', f'{work}/train'],
        'infer': ['contrast_infer.py', *common, *infer_list, '--out_cam', f'{work}/cam'],
        'score_seeds': ['eval.py', *scored, '--json', f'{work}/scores/seeds.json'],
        'seed_masks': ['-m', 'tool.seed_masks', *seed_masks, '--out_png', f'{work}/seed'],
        'walk': ['aff_infer.py', *common, *infer_list, '--out_rw', f'{work}/walk'],
        'score_walk': ['eval.py', *scored, '--json', f'{work}/scores/walk.json'],
    }
    stages = {}
    for name, words in commands.items():
        stages[name] = {'command': words, 'seconds': 65.0, 'done': name != 'score_walk'}
    write_json(work / 'pipeline.json', {'preset': 'toy', 'stages': stages})

    rows = []
    for title, folder, mean in (('seeds, best', 'cam', 31.25), ('random walk', 'walk', 47.75)):
        row = {'row': title, 'mIoU': mean, 'images': 4, 'seconds': 130.0}
        row |= {'list': str(data / 'list.txt'), 'gt_dir': str(data / 'SegmentationClass')}
        rows.append({**row, 'predict_dir': f'{work}/{folder}'})
    facts = {'preset': 'toy', 'seed': 7, 'commit': 'abc1234', 'choices': ['masks: <walk>']}
    write_json(work / 'ladder.json', {**facts, 'rows': rows, 'seconds': 390.0})

    pixels = dict.fromkeys(['background', *CLASSES[1:]], 0)
    pixels.pop('bicycle')
    pixels[HOSTILE_CLASS] = 1800
    pixels['background'] = 30000
    for file, row, cow in (('seeds', rows[0], 12.34), ('walk', rows[1], 56.78)):
        scores = {**dict.fromkeys(pixels, 0.0), HOSTILE_CLASS: cow, 'background': 90.0}
        scores |= {
            'images': 4,
            'list': row['list'],
            'predict_dir': row['predict_dir'],
            'pixels': pixels,
        }
        if file == 'seeds':
            curve = {'t': 0.31, 'curve_t': [0.0, 0.31, 0.59], 'curve_mIoU': [5.0, 31.25, 20.0]}
            scores |= curve
        write_json(work / 'scores' / f'{file}.json', scores)

    lines = []
    for step in range(300):
        record = {'step': step, 'loss_cls': 2.0 - step / 300, 'loss': 4.0 - step / 300}
        lines.append(json.dumps(record) + '\n')
    (work / 'train.jsonl').write_text(''.join(lines) + '{"step": 300, "lo')
    (work / 'train.log').write_text(
        'command: x\nversions: python 3.9.9, torch 1.2.3\ndevice: cpu\n'
    )


def write_json(path: Path, content: dict) -> None:
    """Write a JSON file, and its folder where there is none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding='utf-8')
