"""The stages that are broken on purpose, on toy data: what is started, and what it writes."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from coco_format import annotation, rectangle

from mini import ROOT, make_voc
from tool.files.pictures import image_size

EXPERIMENT = ROOT / 'segmentation' / 'experiment' / 'SEAM_deeplabv1_resnet38'
PICTURES = 5
STEPS = 7
# what a stage writes besides its results, whose bytes differ from run to run
NO_RESULTS = ('.lock', '.records-', '.manifest.json')
RESULTS = ('.npy', '.png', '.jpg', '.pth', '.txt', '.jsonl')


@dataclass(frozen=True)
class Stage:
    """A stage that can be started."""

    name: str
    # command(world, out): the words that follow `python`, with the output below the folder `out`
    command: Callable[['World', Path], list]
    # the folder in which it is started
    cwd: Path = ROOT
    # command(world, out) of a run with other settings, which is refused while the first one runs;
    # None: the same command is
    other: Callable[['World', Path], list] | None = None
    # whether it is a training, which leaves states behind when it is stopped
    trains: bool = False


class World:
    """Toy data, and the output of an undisturbed run of every stage.

    Args:
        folder: where they are.
        server: runs the stages.
    Attributes:
        data: a folder of PICTURES pictures in VOC's layout.
        seconds: how long the undisturbed run of each stage took.
    """

    def __init__(self, folder: Path, server):
        self.folder = folder
        self.server = server
        self.data = folder / 'data'
        self.seconds: dict[str, float] = {}
        names = make_voc(self.data, PICTURES)
        for name in ('train', 'val'):
            path = self.data / 'ImageSets' / 'Segmentation' / f'{name}.txt'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text('\n'.join(names) + '\n')
        table = [f'{name}.jpg,box' for name in names]
        (folder / 'labels.csv').write_text('\n'.join(['file,labels', *table]) + '\n')
        (folder / 'boxes.json').write_text(json.dumps(boxes_in_coco_format(self.data, names)))

    def out(self, name: str) -> Path:
        """The folder with the undisturbed output of a stage, which is made on the first call."""
        folder = self.folder / name
        if name not in self.seconds:
            begin = time.monotonic()
            ended = self.server.run(STAGES[name].command(self, folder), cwd=STAGES[name].cwd)
            assert ended.code == 0, ended.text
            self.seconds[name] = time.monotonic() - begin
        return folder


def boxes_in_coco_format(data: Path, names: list[str]) -> dict:
    """Annotations in COCO's format: one box in each of the pictures of a data folder."""
    images = []
    annotations = []
    for number, name in enumerate(names, 1):
        height, width = image_size(str(data / 'JPEGImages' / f'{name}.jpg'))
        image = {'id': number, 'file_name': f'{name}.jpg', 'height': height, 'width': width}
        images.append(image)
        annotations.append(annotation(number, number, 1, rectangle(10, 20, 40, 50), 900))
    categories = [{'id': 1, 'name': 'box'}]
    return {'images': images, 'annotations': annotations, 'categories': categories}


def results(folder: Path) -> dict[str, bytes]:
    """{path: content} of the results below a folder, of links their target."""
    found = {}
    for path in sorted(folder.rglob('*')):
        is_result = path.suffix in RESULTS and not path.name.startswith(NO_RESULTS)
        if path.is_symlink():
            found[str(path.relative_to(folder))] = str(path.readlink()).encode()
        elif path.is_file() and is_result:
            found[str(path.relative_to(folder))] = path.read_bytes()
    return found


def temporary_files(folder: Path) -> list[str]:
    """The temporary files below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('.*.tmp'))


# ---------------------------------------------------------------- the commands


def _pictures(world: World, flag: str = '--infer_list') -> list:
    return [flag, world.data / 'list.txt', '--voc12_root', world.data]


def _training(session: Path, weights: Path | str = 'scratch') -> list:
    flags = ['--weights', weights, '--width', 1 / 16, '--session_name', session]
    flags += ['--batch_size', 2, '--crop_size', 64, '--max_steps', STEPS, '--save_every', 2]
    return [*flags, '--num_workers', 1, '--device', 'cpu', '--tblog_dir', '']


def contrast_train(world: World, out: Path) -> list:
    flags = [*_training(out / 'seam'), *_pictures(world, '--train_list')]
    labels = ['--cls_labels', world.data / 'cls_labels.npy', '--baseline', 'seam']
    return ['contrast_train.py', *flags, *labels]


def other_contrast_train(world: World, out: Path) -> list:
    return [*contrast_train(world, out), '--seed', 5]


def contrast_infer(world: World, out: Path) -> list:
    flags = ['--weights', world.out('contrast_train') / 'seam.pth', *_pictures(world)]
    flags += ['--cls_labels', world.data / 'cls_labels.npy', '--scales', 0.5, 1]
    flags += ['--num_workers', 1, '--jobs', 0, '--device', 'cpu']
    outputs = ['--out_cam', out / 'cam', '--out_cam_pred', out / 'png', '--out_crf', out / 'crf']
    return ['contrast_infer.py', *flags, *outputs]


def aff_prepare(world: World, out: Path) -> list:
    cams = world.out('contrast_infer') / 'cam'
    flags = [*_pictures(world), '--cam_dir', cams, '--out_crf', out, '--jobs', 2]
    return ['aff_prepare.py', *flags]


def aff_train(world: World, out: Path) -> list:
    maps = world.out('aff_prepare')
    flags = [*_training(out / 'aff'), *_pictures(world, '--train_list')]
    flags += ['--la_crf_dir', maps / '4.00', '--ha_crf_dir', maps / '24.00']
    return ['aff_train.py', *flags]


def other_aff_train(world: World, out: Path) -> list:
    return [*aff_train(world, out), '--seed', 5]


def aff_infer(world: World, out: Path) -> list:
    flags = ['--weights', world.out('aff_train') / 'aff.pth', *_pictures(world)]
    flags += ['--cam_dir', world.out('contrast_infer') / 'cam', '--num_workers', 1, '--jobs', 0]
    outputs = ['--out_rw', out / 'rw', '--out_rw_crf', out / 'crf', '--out_rw_prob', out / 'prob']
    return ['aff_infer.py', *flags, '--device', 'cpu', *outputs]


def aff_prepare_irn(world: World, out: Path) -> list:
    return [*aff_prepare(world, out), '--irn']


def aff_train_irn(world: World, out: Path) -> list:
    weights = world.out('contrast_train') / 'seam.pth'
    flags = [*_training(out / 'irn', weights), *_pictures(world, '--train_list')]
    flags += ['--label_dir', world.out('aff_prepare_irn')]
    return ['aff_train.py', '--refiner', 'irn', *flags]


def other_aff_train_irn(world: World, out: Path) -> list:
    return [*aff_train_irn(world, out), '--seed', 5]


def aff_infer_irn(world: World, out: Path) -> list:
    return [*aff_infer(world, out), '--weights', world.out('aff_train_irn') / 'irn.pth']


def seed_masks(world: World, out: Path) -> list:
    flags = ['--cam_dir', world.out('contrast_infer') / 'cam', *_pictures(world, '--list')]
    flags += ['--t', 0.3, '--jobs', 1, '--out_png', out / 'png', '--out_crf', out / 'crf']
    return ['-m', 'tool.seed_masks', *flags]


def make_pseudo_masks(world: World, out: Path) -> list:
    maps = world.out('aff_prepare') / '4.00'
    return ['-m', 'tool.make_pseudo_masks', '--crf_dir', maps, '--out_dir', out / 'masks']


def _config(world: World, out: Path) -> list:
    return [
        '--set',
        f'DATA_ROOT={world.data}',
        f'DATA_PSEUDO_GT={world.data / "SegmentationClass"}',
        'DATA_TRAIN_LIST=train',
        'DATA_RANDOMCROP=32',
        'DATA_WORKERS=1',
        'MODEL_BACKBONE_PRETRAIN=False',
        'MODEL_BACKBONE_WIDTH=0.0625',
        f'MODEL_SAVE_DIR={out}',
        'TRAIN_BATCHES=2',
        f'TRAIN_ITERATION={STEPS}',
        'TRAIN_SAVE_ITERS=4',
        'TRAIN_TBLOG=False',
        'TEST_MULTISCALE=1',
        'TEST_CRF=none',
        'EXP_NAME=toy',
    ]


def segmentation_train(world: World, out: Path) -> list:
    return ['train.py', '--device', 'cpu', *_config(world, out)]


def other_segmentation_train(world: World, out: Path) -> list:
    return [*segmentation_train(world, out), 'TRAIN_LR=0.003']


def segmentation_test(world: World, out: Path) -> list:
    weights = world.out('segmentation_train') / 'toy.pth'
    flags = ['--device', 'cpu', '--weights', weights, '--out_dir', out / 'masks', '--jobs', 1]
    return ['test.py', *flags, *_config(world, out)]


def predict(world: World, out: Path) -> list:
    weights = world.out('segmentation_train') / 'toy.pth'
    flags = ['--weights', weights, '--out', out / 'masks', '--overlay', '--crf']
    flags += ['--num_workers', 1, '--jobs', 1, '--device', 'cpu']
    return ['-m', 'tool.predict', world.data / 'JPEGImages', *flags]


def synth(world: World, out: Path) -> list:
    return ['-m', 'voc12.synth', '--out', out, '--images', 5, '--val', 2, '--jobs', 2]


def from_folder(world: World, out: Path) -> list:
    flags = ['--images', world.data / 'JPEGImages', '--labels', world.folder / 'labels.csv']
    flags += ['--out', out, '--jobs', 2, '--copy']
    return ['-m', 'voc12.from_folder', *flags]


def from_coco(world: World, out: Path) -> list:
    flags = ['--annotations', world.folder / 'boxes.json', '--images', world.data / 'JPEGImages']
    flags += ['--list', 'annotated', '--overlap', 'last', '--out', out, '--jobs', 2, '--copy']
    return ['-m', 'voc12.from_coco', *flags]


def make_saliency(world: World, out: Path) -> list:
    flags = ['--mask_dir', world.data / 'SegmentationClass', '--list', world.data / 'list.txt']
    return ['-m', 'voc12.make_saliency', *flags, '--out_dir', out / 'maps']


# The stages of a pipeline of commands that start quickly.
PRESET = """
from tool.presets.stages import Preset, Stage, Stages


def preset(run):
    data = f'{run.work}/data'
    saliency = {
        'mask_dir': f'{data}/SegmentationClass',
        'list': f'{data}/lists/train.txt',
        'out_dir': f'{run.work}/saliency',
    }
    sheet = {
        'list': f'{data}/lists/train.txt',
        'voc12_root': data,
        'column': f'mask={data}/SegmentationClass',
        'out': f'{run.work}/sheet.jpg',
    }
    made = {'out': data, 'images': 4, 'val': 2, 'jobs': 0}
    stages = [
        Stage('data', script='voc12.synth', flags=made, makes=['data']),
        Stage('saliency', script='voc12.make_saliency', flags=saliency, makes=['saliency']),
        Stage('sheet', script='tool.contact_sheet', flags=sheet, makes=['sheet.jpg']),
    ]
    return Preset('a toy', Stages(stages))
"""


def pipeline(world: World, out: Path) -> list:
    preset = world.folder / 'toy.py'
    preset.write_text(PRESET)
    return ['-m', 'tool.pipeline', '--preset', preset, '--work_dir', out]


STAGES = {
    stage.name: stage
    for stage in (
        Stage('contrast_train', contrast_train, other=other_contrast_train, trains=True),
        Stage('contrast_infer', contrast_infer),
        Stage('aff_prepare', aff_prepare),
        Stage('aff_train', aff_train, other=other_aff_train, trains=True),
        Stage('aff_infer', aff_infer),
        Stage('aff_prepare_irn', aff_prepare_irn),
        Stage('aff_train_irn', aff_train_irn, other=other_aff_train_irn, trains=True),
        Stage('aff_infer_irn', aff_infer_irn),
        Stage('seed_masks', seed_masks),
        Stage('make_pseudo_masks', make_pseudo_masks),
        Stage(
            'segmentation_train',
            segmentation_train,
            cwd=EXPERIMENT,
            other=other_segmentation_train,
            trains=True,
        ),
        Stage('segmentation_test', segmentation_test, cwd=EXPERIMENT),
        Stage('predict', predict),
        Stage('synth', synth),
        Stage('from_folder', from_folder),
        Stage('from_coco', from_coco),
        Stage('make_saliency', make_saliency),
        Stage('pipeline', pipeline),
    )
}
