"""Stage 2, training: AffinityNet on confident regions of CRF-refined CAMs.

The network is described in docs/method.md §2.3, its loss in §4.

    python aff_train.py --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params --voc12_root VOC2012 \\
        --la_crf_dir runs/aff_crf/4.00 --ha_crf_dir runs/aff_crf/24.00 --session_name runs/aff
    torchrun --nproc_per_node 4 aff_train.py ...
        (--batch_size is the batch of all processes together)

Reads  the pictures of --train_list and their low-α and high-α maps (of aff_prepare.py, or arrays of
       all C maps from other tools).
Writes <session_name>.pth (a bare state dict), <session_name>.log, <session_name>.jsonl (every loss
       term of every step) and, while it runs, <session_name>.state-<step>.pth: the same command
       again continues from there.
"""

import argparse
import os

import torch

from network.backbone import Backbone
from network.device import to_device
from network.timm_weights import weights_fingerprint
from network.weights import AFFINITY, net_for_training
from tool.files.lists import read_list
from tool.files.places import same_place
from tool.files.stage_of_input import AFFINITY_MAPS, need_stage
from tool.method.affinity import FEATURE_STRIDE, affinity_loss, pair_counts, pair_labels
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import processes, set_up
from tool.train.engine import TrainingRun, steps_of
from tool.train.inputs import Input, files_input, list_input
from tool.train.optimiser import chosen_optimizer, poly_after_warm_up
from tool.train.precision import resolved
from tool.train.states import run_settings
from voc12.aff_data import AffinityTrainSet
from voc12.layout import check_images, check_maps, class_set, image_path


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    command_line.add_train_flags(
        parser,
        width='factor on the channels of ResNet-38 with --weights scratch; the width of all other '
        'weights is read from their file',
    )
    command_line.add_precision_flags(parser)
    parser.run.add_argument(
        '--accumulate',
        type=command_line.number(int, 1),
        default=1,
        help="work on each process's share of a batch in this many parts, one after another; this "
        'saves memory and gives the same result',
    )
    parser.model.add_argument(
        '--network', help='module of the network (default: AffinityNet over the backbone)'
    )
    parser.data.add_argument(
        '--train_list', default='voc12/train_aug.txt', help='list of the images to train on'
    )
    parser.data.add_argument(
        '--la_crf_dir',
        required=True,
        help='folder of the low-α maps of aff_prepare.py, e.g. runs/aff_crf/4.00',
    )
    parser.data.add_argument(
        '--ha_crf_dir',
        required=True,
        help='folder of the high-α maps of aff_prepare.py, e.g. runs/aff_crf/24.00',
    )
    parser.optimisation.add_argument(
        '--max_epochs',
        '--max_epoches',
        type=command_line.number(int, 1, command_line.MOST_STEPS),
        default=8,
        help='epochs of the learning-rate schedule',
    )
    parser.output.add_argument('--tblog_dir', default='', help="TensorBoard folder; '' for none")
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    if args.crop_size % FEATURE_STRIDE:
        raise UserError(f'--crop_size {args.crop_size}: must be a multiple of {FEATURE_STRIDE}')
    device = set_up.start(args.device, args.seed)
    args.amp = resolved(args.amp, device)
    classes = class_set(args.voc12_root)
    names, layouts, learned_from = processes.once(lambda: read_inputs(args))
    steps = steps_of(len(names), args.batch_size, args.max_epochs, args.max_steps)
    options = set_up.options_of(args, steps, args.accumulate)

    notes: list[str] = []
    net = to_device(make_net(args, classes, notes), device)
    net, forward = set_up.place(net, device, options)
    notes += layout_notes(layouts, classes)
    dataset = AffinityTrainSet(
        args.voc12_root,
        names,
        args.la_crf_dir,
        args.ha_crf_dir,
        args.crop_size,
        args.seed,
        net.normalisation,
    )

    settings = run_settings(args, steps=steps, weights=weights_fingerprint(args.weights))
    facts = {'images': f'{len(names)} ({args.train_list})', 'classes': classes}

    def losses(batch: dict, step: int) -> dict[str, torch.Tensor]:
        affinities = forward(batch['image'])
        background, foreground, negative = pair_labels(batch['label'])
        return affinity_loss(affinities, background, foreground, negative, batch['counts'])

    set_up.train(
        TrainingRun(
            net=net,
            optimizer=chosen_optimizer(net, args),
            losses=losses,
            dataset=dataset,
            lr_factor=poly_after_warm_up(steps, args.warmup_steps),
            device=device,
            options=options,
            stage='aff_train',
            settings=settings,
            inputs=learned_from,
            reads=[args.weights, args.train_list],
            facts=facts,
            notes=notes,
            batch_facts=mean_counts,
            classes=classes,
        )
    )


def make_net(args: argparse.Namespace, classes: ClassSet, notes: list[str]) -> Backbone:
    """The network to train, on the CPU; a line on what it starts from is added to `notes`."""
    return net_for_training(
        args.network or AFFINITY,
        args.weights,
        args.width,
        notes.append,
        args.backbone,
        classes=classes,
    )


def mean_counts(batch: dict) -> dict[str, torch.Tensor]:
    """Pairs of each kind in the batch of all processes, divided by the number of processes.

    The loss of every process divides by these numbers, so that the mean over processes is the loss
    of the whole batch.

    Returns:
        {'counts': [3]}: background, equal foreground and negative pairs.
    """
    counts = processes.total(pair_counts(batch['label']))
    return {'counts': counts / processes.world()}


def read_inputs(
    args: argparse.Namespace,
) -> tuple[list[str], dict[str, dict[str, int]], list[Input]]:
    """Read the list, and check that all images and their maps are there.

    Returns:
        The names of the images to train on; how many files of which layout each folder of maps has,
        {folder: {'dict' or 'array': files}}; and what the training learns from.
    """
    names = read_list(args.train_list)
    check_images(args.voc12_root, names)
    fix = 'make the maps with aff_prepare.py from these pictures'
    layouts = {}
    check_map_folders(args.la_crf_dir, args.ha_crf_dir)
    for folder in (args.la_crf_dir, args.ha_crf_dir):
        layouts[folder] = check_maps(folder, args.voc12_root, names, fix)
    pictures = [image_path(args.voc12_root, name) for name in names]
    low = [os.path.join(args.la_crf_dir, name + '.npy') for name in names]
    high = [os.path.join(args.ha_crf_dir, name + '.npy') for name in names]
    learned_from = [
        list_input(args.train_list, names),
        files_input('pictures', args.voc12_root, pictures),
        files_input('low-α maps', args.la_crf_dir, low),
        files_input('high-α maps', args.ha_crf_dir, high),
    ]
    return names, layouts, learned_from


def check_map_folders(la_dir: str, ha_dir: str) -> None:
    """Check that the folders of maps are two, of aff_prepare.py, and of a low and a high α.

    What a folder of another tool holds is not known, so its α is not checked.

    Raises:
        UserError: they are one folder, hold something else, or are exchanged.
    """
    if same_place(la_dir, ha_dir):
        raise UserError(
            f'--la_crf_dir {la_dir} and --ha_crf_dir {ha_dir} are the same folder; give the maps '
            'of a low and of a high α'
        )
    low = need_stage(la_dir, AFFINITY_MAPS, '--la_crf_dir').get('alpha')
    high = need_stage(ha_dir, AFFINITY_MAPS, '--ha_crf_dir').get('alpha')
    if low is not None and high is not None and low >= high:
        raise UserError(
            f'--la_crf_dir {la_dir} has the maps of α = {low} and --ha_crf_dir {ha_dir} those of '
            f'α = {high}; the low α must be the smaller one'
        )


def layout_notes(layouts: dict[str, dict[str, int]], classes: ClassSet) -> list[str]:
    """A line for the log on each folder of maps; `layouts` as `read_inputs` gives them."""
    described = {
        'dict': 'dicts of background and present classes',
        'array': f'arrays of all {classes.num_classes} maps (the older layout)',
    }
    notes = []
    for folder, counts in layouts.items():
        found = ', '.join(f'{count} {described[layout]}' for layout, count in counts.items())
        notes.append(f'{folder}: {found}')
    return notes


if __name__ == '__main__':
    processes.run(main, parse_args)
