"""Stage 2, training: AffinityNet or IRN's boundary head, on confident regions of refined CAMs.

AffinityNet is described in docs/method.md §2.3, its loss in §4; the boundary head in §10.13.

    python aff_train.py --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params --voc12_root VOC2012 \\
        --la_crf_dir runs/aff_crf/4.00 --ha_crf_dir runs/aff_crf/24.00 --session_name runs/aff
    python aff_train.py --refiner irn --weights imagenet --voc12_root VOC2012 \\
        --label_dir runs/irn_label --session_name runs/irn
    torchrun --nproc_per_node 4 aff_train.py ...
        (--batch_size is the batch of all processes together)

Reads  the pictures of --train_list and their low-α and high-α maps (of aff_prepare.py, or arrays of
       all C maps from other tools), or their label maps (of aff_prepare.py --irn).
Writes <session_name>.pth (a bare state dict), <session_name>.log, <session_name>.jsonl (every loss
       term of every step) and, while it runs, <session_name>.state-<step>.pth: the same command
       again continues from there.
"""

import argparse
import functools

import torch

from network import refiners
from network.backbone import Backbone
from network.device import to_device
from network.refiners import flags
from network.refiners.refiner import Refiner
from network.timm_backbone import TimmTraining
from network.timm_weights import weights_fingerprint
from network.weights import net_for_training
from tool.files.lists import read_list
from tool.method.class_set import ClassSet
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import processes, set_up
from tool.train.engine import TrainingRun, steps_of
from tool.train.inputs import Input, files_input, list_input
from tool.train.optimiser import poly_after_warm_up
from tool.train.precision import resolved
from tool.train.states import run_settings
from voc12.layout import check_images, class_set, image_path

REFINERS = {name: refiners.find_refiner(name) for name in refiners.NAMES}
# The flags that depend on the refiner.
FLAGS = {name: refiner.training_flags for name, refiner in REFINERS.items()}


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
        '--network', help='module of the network (default: that of the refiner over the backbone)'
    )
    parser.additions.add_argument(
        '--refiner',
        choices=refiners.NAMES,
        default=refiners.NAMES[0],
        help="what is trained: psa, AffinityNet, or irn, IRN's boundary head, for which --weights "
        "imagenet are timm's of resnet50 unless --backbone names another",
    )
    parser.data.add_argument(
        '--train_list', default='voc12/train_aug.txt', help='list of the images to train on'
    )
    parser.data.add_argument(
        '--la_crf_dir',
        help='psa: folder of the low-α maps of aff_prepare.py, e.g. runs/aff_crf/4.00',
    )
    parser.data.add_argument(
        '--ha_crf_dir',
        help='psa: folder of the high-α maps of aff_prepare.py, e.g. runs/aff_crf/24.00',
    )
    parser.additions.add_argument(
        '--label_dir', help='irn: folder of the label maps of aff_prepare.py --irn'
    )
    parser.optimisation.add_argument(
        '--max_epochs',
        '--max_epoches',
        type=command_line.number(int, 1, command_line.MOST_STEPS),
        help='epochs of the learning-rate schedule',
    )
    parser.output.add_argument('--tblog_dir', default='', help="TensorBoard folder; '' for none")
    flags.set_defaults(parser, FLAGS)
    return parser.parse_args()


def main(args: argparse.Namespace) -> None:
    refiner = REFINERS[args.refiner]
    flags.settle(args, FLAGS, refiner.name)
    refiner.check_flags(args)
    if args.crop_size % refiner.stride:
        raise UserError(
            f'--crop_size {args.crop_size}: must be a multiple of {refiner.stride} for the refiner '
            f'{refiner.name}'
        )
    device = set_up.start(args.device, args.seed)
    args.amp = resolved(args.amp, device)
    classes = class_set(args.voc12_root)
    names, learned_from, notes_on_inputs = processes.once(
        lambda: read_inputs(args, refiner, classes)
    )
    steps = steps_of(len(names), args.batch_size, args.max_epochs, args.max_steps)
    options = set_up.options_of(args, steps, args.accumulate)

    notes: list[str] = []
    net = to_device(make_net(args, refiner, classes, notes), device)
    net, forward = set_up.place(net, device, options)
    notes += notes_on_inputs

    weights = weights_fingerprint(args.weights, args.backbone)
    settings = run_settings(args, steps=steps, weights=weights, **refiner.settings)
    facts = {'images': f'{len(names)} ({args.train_list})', 'classes': classes}

    def losses(batch: dict, step: int) -> dict[str, torch.Tensor]:
        return refiner.losses(forward(batch['image']), batch)

    set_up.train(
        TrainingRun(
            net=net,
            optimizer=refiner.optimizer(net, args),
            losses=losses,
            dataset=refiner.train_set(args, names, net.normalisation),
            lr_factor=poly_after_warm_up(steps, args.warmup_steps),
            device=device,
            options=options,
            stage='aff_train',
            settings=settings,
            inputs=learned_from,
            reads=[args.weights, args.train_list],
            facts=facts,
            notes=notes,
            batch_facts=functools.partial(mean_counts, refiner),
            classes=classes,
        )
    )


def make_net(
    args: argparse.Namespace, refiner: Refiner, classes: ClassSet, notes: list[str]
) -> Backbone:
    """The network to train, on the CPU; a line on what it starts from is added to `notes`."""
    return net_for_training(
        args.network or refiner.networks,
        args.weights,
        args.width,
        notes.append,
        refiner.backbone(args),
        classes=classes,
        timm_training=TimmTraining(args.freeze, args.grad_checkpointing),
    )


def mean_counts(refiner: Refiner, batch: dict) -> dict[str, torch.Tensor]:
    """Pairs of each kind in the batch of all processes, divided by the number of processes.

    The loss of every process divides by these numbers, so that the mean over processes is the loss
    of the whole batch.

    Returns:
        {'counts': [3]}: background, equal foreground and negative pairs.
    """
    counts = processes.total(refiner.pair_counts(batch['label']))
    return {'counts': counts / processes.world()}


def read_inputs(
    args: argparse.Namespace, refiner: Refiner, classes: ClassSet
) -> tuple[list[str], list[Input], list[str]]:
    """Read the list, and check that all images are there and what else the network learns from.

    Returns:
        The names of the images to train on, what the training learns from, and lines on it for the
        log.
    """
    names = read_list(args.train_list)
    check_images(args.voc12_root, names)
    own_inputs, notes = refiner.read_inputs(args, names, classes)
    pictures = [image_path(args.voc12_root, name) for name in names]
    learned_from = [
        list_input(args.train_list, names),
        files_input('pictures', args.voc12_root, pictures),
        *own_inputs,
    ]
    return names, learned_from, notes


if __name__ == '__main__':
    processes.run(main, parse_args)
