"""Which folders of masks a run has made, of which pictures, and what they are called."""

import os
from dataclasses import dataclass, replace

from tool.files.lists import read_list
from tool.files.manifest import missing
from tool.report_page.run_files import Command, Run

# The scripts that write masks: {script: ((flag of the folder, title), …)}.
WRITERS = {
    'contrast_infer.py': (('out_cam_pred', 'seeds'), ('out_crf', 'seeds + CRF')),
    'tool.seed_masks': (('out_png', 'seeds'), ('out_crf', 'seeds + CRF')),
    'tool.make_pseudo_masks': (('out_dir', 'pseudo masks'),),
    'aff_infer.py': (('out_rw', 'random walk'), ('out_rw_crf', 'random walk + CRF')),
    'test.py': (('out_no_crf', 'DeepLab, without CRF'), ('out_dir', 'DeepLab')),
}
TESTS_DEEPLAB = 'test.py'


@dataclass(frozen=True)
class MaskStage:
    """A folder of masks <name>.png and the title of its column."""

    title: str
    folder: str


@dataclass(frozen=True)
class Source:
    """The pictures, masks and CAMs that a gallery is made from.

    Attributes:
        title: the heading of the gallery.
        root: the data folder with the pictures.
        list: path of the list of the pictures.
        names: the names in it.
        stages: folders of masks, in the order of the pipeline.
        cam_dir: folder of CAMs; '' for none.
        gt_dir: folder of ground-truth masks; '' for none.
    """

    title: str
    root: str
    list: str
    names: list[str]
    stages: list[MaskStage]
    cam_dir: str = ''
    gt_dir: str = ''


def sources_of(run: Run) -> list[Source]:
    """The galleries that a run has files for.

    The first one shows the pictures that seeds and pseudo masks were scored on. DeepLab's masks of
    the same pictures are in it too. Of other pictures they have a gallery of their own, unless they
    are a few of the first (those of the contact sheet).
    """
    root = run.first_flag('voc12_root', 'DATA_ROOT')
    if not os.path.isdir(root):
        return []
    shared = Source(
        title='Seeds and pseudo masks',
        root=root,
        list='',
        names=[],
        stages=[],
        cam_dir=existing(run.first_flag('cam_dir', 'out_cam')),
        gt_dir=existing(run.first_flag('gt_dir')),
    )
    first = _pseudo_masks(run, shared)
    found = [first] if first.stages else []
    for command in run.commands:
        if command.script != TESTS_DEEPLAB:
            continue
        path = run.locate(command.flag('list'))
        stages = _stages_of(run, command)
        if not (stages and os.path.exists(path)):
            continue
        names = read_list(path)
        if found and set(first.names) <= set(names):
            found[0] = replace(found[0], stages=[*found[0].stages, *stages])
        elif not set(names) <= set(first.names):
            found.append(replace(shared, title='DeepLab', list=path, names=names, stages=stages))
    return found


def _pseudo_masks(run: Run, shared: Source) -> Source:
    """The gallery of all stages before DeepLab; without stages where the run has none."""
    stages: list[MaskStage] = []
    lists: list[str] = []
    for command in run.commands:
        if command.script == TESTS_DEEPLAB:
            continue
        made = _stages_of(run, command)
        if made:
            stages += made
            lists.append(command.flag('infer_list') or command.flag('list'))
    scored = [row['list'] for row in run.rows() if 'gt_dir' in row]
    # the pictures that were scored, which the masks are compared with ground truth on
    for path in [*scored[:1], *reversed(lists)]:
        path = run.locate(path)
        if path and os.path.exists(path):
            return replace(shared, list=path, names=read_list(path), stages=stages)
    return shared


def _stages_of(run: Run, command: Command) -> list[MaskStage]:
    """The folders of masks that a command has written and that exist."""
    stages = []
    for flag, title in WRITERS.get(command.script, ()):
        given = command.flag(flag)
        folder = existing(run.locate(given)) if given else ''
        if not folder:
            continue
        if command.flag('out_no_crf') and flag == 'out_dir':
            title = f'{title} + CRF'
        for row in run.rows():
            if row.get('predict_dir') == given:
                title = row['row']
        stages.append(MaskStage(title, folder))
    return stages


def existing(folder: str) -> str:
    """The folder if it exists, else ''."""
    return folder if folder and os.path.isdir(folder) else ''


def with_truth(source: Source) -> list[str]:
    """The names of a source's pictures that have a mask of the last stage and ground truth."""
    if not (source.gt_dir and source.stages):
        return []
    folders = [(source.gt_dir, '.png'), (source.stages[-1].folder, '.png')]
    lacking = set(missing(source.names, folders))
    return [name for name in source.names if name not in lacking]
