"""A report of a run: one HTML page with scores, pictures, charts and commands.

    python -m tool.report --work_dir runs/quickstart
    python -m tool.report --voc12_root VOC2012 --list voc12/train.txt --cam_dir runs/cam \\
        --gt_dir VOC2012/SegmentationClass --stage seed=runs/cam_crf walk=runs/rw --out report.html

Reads  the work folder of tool.pipeline: ladder.json, pipeline.json, the scores, the losses of the
       trainings, CAMs and masks. tool.pipeline itself writes this report when it ends. Or, with
       --stage, folders of masks <name>.png that any tool has made.
Writes the page, --out. Style sheet, script and pictures are in it, so it needs no network and no
       other file. A browser opens it from the disk.

The gallery shows the worst, median and best pictures of the last stage where there is ground truth,
else pictures that are evenly spaced over the list.
"""

import argparse
import os
from dataclasses import replace

from tool.files.atomic import need_folder, write_text
from tool.files.lists import read_list
from tool.files.places import Place, keep_apart
from tool.files.stage_of_input import CAMS, need_stage
from tool.method.metrics import scores
from tool.report_page.charts import class_chart
from tool.report_page.gallery import (
    Gallery,
    Ranking,
    check_names,
    chosen_rows,
    make_gallery,
    rank,
)
from tool.report_page.mask_stages import MaskStage, Source, sources_of, with_truth
from tool.report_page.page import Page, page_of_run, render, software
from tool.report_page.run_files import read_run
from tool.run import command_line
from tool.run.errors import UserError
from voc12.layout import check_files, check_images, class_set

FILE = 'report.html'  # of a work folder
PICTURES = 12  # of a gallery


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.data.add_argument('--work_dir', help='the work folder of tool.pipeline')
    parser.data.add_argument(
        '--stage',
        nargs='+',
        action='extend',
        default=[],
        metavar='TITLE=DIR',
        help='show the masks DIR/<name>.png under this title, in place of those of --work_dir',
    )
    parser.data.add_argument(
        '--voc12_root',
        help="for --stage: the devkit's VOC2012 folder or a data folder (default: that of the run)",
    )
    parser.data.add_argument(
        '--list', help='for --stage: list of the pictures (default: that of the run)'
    )
    parser.data.add_argument(
        '--gt_dir', help='for --stage: folder of ground-truth masks (default: that of the run)'
    )
    parser.data.add_argument(
        '--cam_dir', help='for --stage: folder of CAMs <name>.npy (default: that of the run)'
    )
    parser.output.add_argument(
        '--names', nargs='+', action='extend', metavar='NAME', help='show these pictures'
    )
    parser.output.add_argument(
        '--pictures',
        type=command_line.number(int, 1),
        default=PICTURES,
        help='without --names: number of pictures to show; with ground truth a third of them each '
        'are the worst, the median and the best',
    )
    parser.output.add_argument(
        '--out', help=f'file for the page (default: {FILE} in the work folder)'
    )
    args = parser.parse_args()
    if not (args.work_dir or args.stage):
        parser.error('give --work_dir, or folders of masks with --stage TITLE=DIR')
    if not (args.work_dir or args.out):
        parser.error('without --work_dir the page needs a file: give --out')
    of_stage = ('voc12_root', 'list', 'gt_dir', 'cam_dir')
    given = [name for name in of_stage if getattr(args, name)]
    if given and not args.stage:
        parser.error(f'--{given[0]} belongs to --stage, which is not given')
    return args


def main(args: argparse.Namespace) -> None:
    inputs: list[Place] = [('--list', args.list)]
    if args.work_dir:
        for file in ('ladder.json', 'pipeline.json'):
            inputs.append(('--work_dir', os.path.join(args.work_dir, file)))
    keep_apart([('--out', args.out)], inputs)
    page = Page(title='Report')
    sources: list[Source] = []
    if args.work_dir:
        run = read_run(args.work_dir)
        page = page_of_run(run)
        sources = sources_of(run)
    if args.stage:
        sources = [explicit_source(args, sources)]
    check_names(sources, args.names or [])
    for source in sources:
        stages = source.stages if args.stage else source.stages[-1:]
        ranking = rank(source, stages)
        gallery = gallery_of(source, ranking, args.names, args.pictures)
        if gallery.rows:
            page.galleries.append(gallery)
        if args.stage and ranking.scores:
            about = f'Of {len(ranking.scores)} pictures that have ground truth.'
            page.classes = class_chart(results_of(source, ranking), about)
    page.versions = software()
    out = args.out or os.path.join(args.work_dir, FILE)
    # what cannot be written in UTF-8, from a damaged file or a strange file name, becomes a ?
    write_text(out, render(page).encode('utf-8', 'replace').decode('utf-8'))
    print(f'report: {out} ({os.path.getsize(out) / 1e6:.1f} MB)')


def write_run_report(work: str) -> None:
    """Write the report of a work folder into it, and print its path.

    Raises:
        UserError: a file of the run is damaged.
    """
    args = argparse.Namespace(
        work_dir=work,
        stage=[],
        list=None,
        names=None,
        pictures=PICTURES,
        out=os.path.join(work, FILE),
    )
    main(args)


def explicit_source(args: argparse.Namespace, of_run: list[Source]) -> Source:
    """The source that --stage and the flags beside it name; what they leave out is that of the run.

    Raises:
        UserError: a flag is missing, or a file that it needs.
    """
    stages = read_stages(args.stage)
    base = of_run[0] if of_run else None
    root = args.voc12_root or (base.root if base else '')
    path = args.list or (base.list if base else '')
    for flag, value in (('--voc12_root', root), ('--list', path)):
        if not value:
            raise UserError(f'{flag}: --stage needs it where there is no --work_dir that has it')
    names = read_list(path)
    needed = args.names or names
    check_images(root, needed)
    for stage in stages:
        check_files(stage.folder, needed, '.png', f'check --stage {stage.title} and {path}')
    source = Source('Pictures', root, path, names, stages)
    if base:
        source = replace(source, cam_dir=base.cam_dir, gt_dir=base.gt_dir)
    if args.cam_dir:
        check_files(args.cam_dir, needed, '.npy', f'check --cam_dir and {path}')
        need_stage(args.cam_dir, CAMS, '--cam_dir')
        source = replace(source, cam_dir=args.cam_dir)
    if args.gt_dir:
        need_folder(args.gt_dir, 'check --gt_dir')
        source = replace(source, gt_dir=args.gt_dir)
        if not with_truth(source):
            raise UserError(
                f'--gt_dir {args.gt_dir}: has no mask of any picture of {path}; check it, or '
                'leave it out'
            )
    return source


def read_stages(texts: list[str]) -> list[MaskStage]:
    """The values TITLE=DIR of --stage.

    Raises:
        UserError: a value has another form, or two have the same title.
    """
    stages: list[MaskStage] = []
    for text in texts:
        title, equals, folder = text.partition('=')
        if not (title and equals and folder):
            raise UserError(f'--stage {text}: TITLE=DIR is expected')
        if any(stage.title == title for stage in stages):
            raise UserError(f'--stage {text}: there are two stages of the title {title}')
        stages.append(MaskStage(title, folder))
    return stages


def gallery_of(source: Source, ranking: Ranking, names: list[str] | None, count: int) -> Gallery:
    """The gallery of a source.

    Args:
        source: where the files are.
        ranking: how its pictures compare with ground truth.
        names: the pictures to show, those in the list of the source; None chooses `count`.
        count: number of pictures to choose.
    """
    if names:
        chosen = [(name, '') for name in names if name in source.names]
        return make_gallery(source, chosen, 'Pictures of --names.')
    chosen, about = chosen_rows(source.names, ranking.scores, count)
    return make_gallery(source, chosen, about)


def results_of(source: Source, ranking: Ranking) -> list[tuple[str, dict]]:
    """(title, IoU of the classes and their numbers of pixels) of every stage that was ranked."""
    names = class_set(source.root).names
    results = []
    for title, matrix in ranking.confusions.items():
        pixels = dict(zip(names, matrix.sum(1).tolist()))
        results.append((title, {**scores(matrix, names), 'pixels': pixels}))
    return results


if __name__ == '__main__':
    command_line.run(main, parse_args)
