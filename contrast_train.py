"""Stage 1, training: a CAM network with the pixel-to-prototype contrast, from image-level labels.

docs/method.md describes its networks (§2), losses (§3), optimiser and data (§4).

    python contrast_train.py --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params \\
        --voc12_root VOC2012 --session_name runs/seam
    torchrun --nproc_per_node 4 contrast_train.py ...
        (--batch_size is the batch of all processes together)

Reads  the pictures of --train_list, --cls_labels and, for EPS, --saliency_root.
Writes <session_name>.pth (a bare state dict), <session_name>.log, <session_name>.jsonl (every loss
       term of every step) and, while it runs, <session_name>.state-<step>.pth: the same command
       again continues from there.

There is no gradient accumulation: prototypes and sampled pixels are those of a whole batch, and
differ from those of its parts.
"""

import argparse
import dataclasses
from collections.abc import Callable

import numpy as np
import torch

from network.backbone import Backbone
from network.baselines import BASELINES, pick_baseline
from network.baselines.baseline import Baseline, LossOptions
from network.device import to_device
from network.timm_backbone import TimmTraining
from network.timm_weights import weights_fingerprint
from network.weights import net_for_training
from tool.files.lists import read_labels, read_list
from tool.method.class_set import ClassSet
from tool.method.contrast import ContrastOptions
from tool.method.label_aware import PROTOTYPES, LabelAwareOptions
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import processes, set_up
from tool.train.engine import TrainingRun, steps_of
from tool.train.inputs import Input, files_input, labels_input, list_input
from tool.train.layer_types import DROPOUTS
from tool.train.optimiser import chosen_optimizer, poly_after_warm_up
from tool.train.precision import resolved
from tool.train.random_numbers import mixed_seed
from tool.train.states import run_settings
from voc12.data import Crops, TrainSet, check_saliency, pick_labels, saliency_path
from voc12.layout import check_images, class_set, image_path

# Ablations: what each flag --no_<name> does, {name: effect}.
ABLATIONS = {
    'contrast': 'train without the contrast',
    'cross_prototype': 'train without the cross-prototype term',
    'cross_cam': 'train without the cross-CAM term',
    'intra_view': 'train without the intra-view term',
    'semi_hard': 'all prototypes are negatives of a pixel in the intra-view term',
    'hard_pixels': 'all pixels of a class enter the intra-view term',
    'seam': 'train without the consistency losses of the two views, er and ecr; classification, '
    "rvmin and EPS's saliency loss stay. With --no_contrast there is no second view, and only "
    "classification and EPS's saliency loss of its class maps are left",
}


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    command_line.add_train_flags(
        parser,
        width='factor on the channels of ResNet-38 with --weights scratch; the width of all other '
        'weights is read from their file',
    )
    command_line.add_precision_flags(parser)
    add_data_flags(parser)
    add_model_flags(parser)
    add_optimisation_flags(parser)
    add_method_flags(parser)
    add_ablation_flags(parser)
    add_addition_flags(parser)
    parser.output.add_argument(
        '--tblog_dir',
        help="TensorBoard folder; '' for none (default: <session_name>_tblog)",
    )
    args = parser.parse_args()
    if args.tblog_dir is None:
        args.tblog_dir = args.session_name + '_tblog'
    if args.long_side and args.long_side[0] > args.long_side[1]:
        shortest, longest = args.long_side
        parser.error(f'--long_side {shortest} {longest}: MIN must not be larger than MAX')
    return args


def add_data_flags(parser: command_line.Parser) -> None:
    parser.data.add_argument(
        '--train_list', default='voc12/train_aug.txt', help='list of the images to train on'
    )
    parser.data.add_argument(
        '--cls_labels', default='voc12/cls_labels.npy', help='file of the image-level labels'
    )
    parser.data.add_argument(
        '--saliency_root', default='SALImages', help='folder of saliency PNGs (EPS only)'
    )
    parser.data.add_argument(
        '--long_side',
        type=command_line.number(int, 32, command_line.LARGEST_CROP),
        nargs=2,
        metavar=('MIN', 'MAX'),
        help='limits in pixels of the random long side that a picture is resized to before it is '
        'cropped; where a side is shorter than the crop, the crop is padded with zeros (default: '
        'the crop size and 768/448 of it, which are 448 and 768 as published)',
    )


def add_model_flags(parser: command_line.Parser) -> None:
    parser.model.add_argument(
        '--baseline',
        choices=sorted(BASELINES),
        help='method that the contrast is added to (default: the one that the git branch is named '
        'after, else seam)',
    )
    parser.model.add_argument('--network', help="module of the network (default: the baseline's)")


def add_optimisation_flags(parser: command_line.Parser) -> None:
    parser.optimisation.add_argument(
        '--max_epochs',
        '--max_epoches',
        type=command_line.number(int, 1, command_line.MOST_STEPS),
        help='epochs of the learning-rate schedule (default: seam 8, eps 15)',
    )
    parser.optimisation.add_argument(
        '--max_iters',
        type=command_line.number(int, 1, command_line.MOST_STEPS),
        help='end the training after this many steps; steps beyond the schedule keep its last '
        'learning rate (default: seam all steps of the schedule, eps 20000)',
    )


def add_method_flags(parser: command_line.Parser) -> None:
    parser.method.add_argument(
        '--view2_size',
        type=command_line.number(int, 32, command_line.LARGEST_CROP),
        help='side of the small second view in pixels (default: half the crop, at most 128)',
    )
    parser.method.add_argument(
        '--bg_threshold',
        type=command_line.number(float, 0, 1),
        help='background score of the pseudo labels of pixels, 0…1 (default: seam 0.20, eps 0.10)',
    )
    parser.method.add_argument(
        '--tau',
        type=command_line.number(float, 0, 1),
        default=0.4,
        help='EPS: a class is foreground in a picture if more than this share of its area is '
        'salient, else it counts as background (τ_s, not the temperature of the contrast)',
    )
    parser.method.add_argument(
        '--temperature',
        type=command_line.number(float, 0.001),
        help='τ of the contrast, which all its similarities are divided by (default: 0.1)',
    )
    parser.method.add_argument(
        '--prototype_share',
        type=command_line.number(float, 0.01, 1),
        help="pixels that a prototype is made of, as a share of one picture's feature cells "
        '(default: seam 0.125, which are 32 of 16×16, eps 0.0625)',
    )


def add_ablation_flags(parser: command_line.Parser) -> None:
    """The flags --no_<name>, one for each ablation."""
    for name, effect in ABLATIONS.items():
        parser.method.add_argument(f'--no_{name}', action='store_true', help=f'ablation: {effect}')


def add_addition_flags(parser: command_line.Parser) -> None:
    """The flags of docs/method.md §10 that only this stage has."""
    parser.additions.add_argument(
        '--prototypes',
        choices=PROTOTYPES,
        default=PROTOTYPES[0],
        help="label_aware: a class's prototype is made only of pictures that hold the class; "
        'published: of all pictures of the batch, as in the paper',
    )
    parser.additions.add_argument(
        '--bg_certain',
        type=command_line.number(float, 0, 1),
        help='with label_aware: a pixel counts as background only if all its class scores are at '
        'most this. Pixels whose highest score is between this and --bg_threshold are left out of '
        'the contrast (default: none is left out)',
    )
    parser.additions.add_argument(
        '--min_class_share',
        type=command_line.number(float, 0, 1),
        help='with label_aware: leave classes out of the contrast that occur in less than this '
        'share of the training pictures, e.g. 0.05 for 5 %% (default: none is left out)',
    )
    parser.additions.add_argument(
        '--contrast_start',
        type=command_line.number(float, 0, 1),
        default=0.0,
        help='fraction of training after which the contrast loss is switched on',
    )
    parser.additions.add_argument(
        '--contrast_weight',
        type=command_line.number(float, 0),
        help='weight of each of the three contrast terms (default: 0.1, as in the paper)',
    )
    parser.additions.add_argument(
        '--loss_size',
        type=command_line.number(int, 8, command_line.LARGEST_CROP),
        help="SEAM: side of the square to which both views' maps are upsampled before its losses "
        "compare them (default: the views' own sizes, as published; 32 is faster)",
    )
    parser.additions.add_argument(
        '--output_stride',
        type=int,
        choices=(8, 16),
        help='picture pixels per feature cell of a timm backbone (default: that of the weights, '
        'else 16); ResNet-38 has 8',
    )
    parser.additions.add_argument(
        '--dropout',
        type=command_line.number(float, 0, 1),
        default=1.0,
        help="factor on the network's dropout rates (1: as published; 0 learns much faster from "
        'scratch)',
    )


def main(args: argparse.Namespace) -> None:
    device = set_up.start(args.device, args.seed)
    args.amp = resolved(args.amp, device)
    baseline, why = pick_baseline(args.baseline)
    classes = class_set(args.voc12_root)
    baseline = baseline.for_classes(classes.num_classes)
    names, labels, learned_from = processes.once(lambda: read_inputs(args, baseline, classes))
    schedule, steps = count_steps(args, baseline, len(names))
    options = set_up.options_of(args, steps)

    notes: list[str] = []
    net = to_device(make_net(args, baseline, classes, notes), device)
    net, forward = set_up.place(net, device, options)
    losses = make_losses(args, baseline, labels, forward, device, steps)
    saliency_root = args.saliency_root if baseline.saliency else None
    long_side = tuple(args.long_side) if args.long_side else None
    crops = Crops(args.crop_size, args.seed, long_side)
    dataset = TrainSet(args.voc12_root, names, labels, crops, saliency_root, net.normalisation)
    weights = weights_fingerprint(args.weights, args.backbone)
    settings = run_settings(args, baseline=baseline.name, steps=steps, weights=weights)
    facts = {
        'baseline': f'{baseline.name} ({why})',
        'images': f'{len(names)} ({args.train_list})',
        'classes': classes,
        'schedule_steps': schedule,
    }

    set_up.train(
        TrainingRun(
            net=net,
            optimizer=chosen_optimizer(net, args),
            losses=losses,
            dataset=dataset,
            lr_factor=poly_after_warm_up(schedule, args.warmup_steps),
            device=device,
            options=options,
            stage='contrast_train',
            settings=settings,
            inputs=learned_from,
            reads=[args.weights, args.train_list, args.cls_labels],
            facts=facts,
            notes=notes,
            classes=classes,
        )
    )


def read_inputs(
    args: argparse.Namespace, baseline: Baseline, classes: ClassSet
) -> tuple[list[str], np.ndarray, list[Input]]:
    """Read the lists, and check that every image (and saliency map) is there.

    Returns:
        The names of the images to train on; their labels, [N, K]; and what the training learns
        from.
    """
    names = read_list(args.train_list)
    labels = pick_labels(read_labels(args.cls_labels, classes), names, args.cls_labels)
    check_images(args.voc12_root, names)
    pictures = [image_path(args.voc12_root, name) for name in names]
    learned_from = [
        list_input(args.train_list, names),
        labels_input(args.cls_labels, labels),
        files_input('pictures', args.voc12_root, pictures),
    ]
    if baseline.saliency:
        check_saliency(args.saliency_root, args.voc12_root, names)
        maps = [saliency_path(args.saliency_root, name) for name in names]
        learned_from.append(files_input('saliency maps', args.saliency_root, maps))
    return names, labels, learned_from


def count_steps(args: argparse.Namespace, baseline: Baseline, images: int) -> tuple[int, int]:
    """The length of training in steps; a run may end before its schedule does.

    Args:
        args: the command line.
        baseline: its numbers of epochs and steps are the defaults.
        images: how many images there are to train on.
    Returns:
        The steps of the learning-rate schedule, and the steps of the run.
    """
    epochs = args.max_epochs or baseline.max_epochs
    schedule = steps_of(images, args.batch_size, epochs, args.max_steps)
    steps = args.max_steps or args.max_iters or baseline.max_steps or schedule
    return schedule, steps


def make_net(
    args: argparse.Namespace, baseline: Baseline, classes: ClassSet, notes: list[str]
) -> Backbone:
    """The network to train, on the CPU; a line on what it starts from is added to `notes`."""
    net = net_for_training(
        args.network or baseline.networks,
        args.weights,
        args.width,
        notes.append,
        args.backbone,
        args.output_stride,
        classes,
        TimmTraining(args.freeze, args.grad_checkpointing),
    )
    scale_dropout(net, args.dropout)
    return net


def scale_dropout(net: torch.nn.Module, factor: float) -> None:
    """Multiply the rates of all dropout layers by a factor."""
    for module in net.modules():
        if isinstance(module, DROPOUTS):
            module.p *= factor


def make_losses(
    args: argparse.Namespace,
    baseline: Baseline,
    labels: np.ndarray,
    forward: Callable,
    device: torch.device,
    steps: int,
) -> Callable[[dict, int], dict[str, torch.Tensor]]:
    """The function losses(batch, step) that gives the loss terms of a step and their sum 'loss'.

    Args:
        args: the command line.
        baseline: what the contrast is added to.
        labels: [N, K] of the images to train on.
        forward: calls the network, in its precision and over all processes.
        device: where the losses are computed.
        steps: steps of the run.
    """
    options = loss_options(args, labels, baseline, device)
    options_before_contrast = with_weightless_contrast(options)
    contrast_from = round(steps * args.contrast_start)
    generator = torch.Generator(device)

    def losses(batch: dict, step: int) -> dict[str, torch.Tensor]:
        generator.manual_seed(mixed_seed(args.seed, step, 1))  # the same in every process
        options_of_step = options if step >= contrast_from else options_before_contrast
        return baseline.losses(forward, batch, options_of_step, generator)

    return losses


def loss_options(
    args: argparse.Namespace, labels: np.ndarray, baseline: Baseline, device: torch.device
) -> LossOptions:
    """The losses' options from the command line.

    Args:
        args: the command line.
        labels: [N, K] of the images to train on.
        baseline: what the contrast is added to.
        device: where the losses are computed.
    Raises:
        UserError: two flags that exclude each other, or a value that leaves nothing.
    """
    if args.loss_size and not baseline.upsampled:
        raise UserError(
            f'--loss_size: the {baseline.name} baseline compares its maps at feature size; leave '
            'the flag out'
        )
    if args.view2_size:
        view2_size = args.view2_size
    else:
        half_the_crop = 8 * (args.crop_size // 16)  # rounded down to a multiple of 8
        view2_size = min(128, half_the_crop)
    contrast = contrast_options(args, labels, baseline, device)
    if view2_size > args.crop_size:
        raise UserError(
            f'--view2_size {view2_size}: must not be larger than --crop_size {args.crop_size}'
        )
    classes_of_image = labels.sum(1)  # [N]
    return LossOptions(
        view2_size=view2_size,
        max_classes=max(1, int(classes_of_image.max())),
        tau=args.tau,
        consistency=not args.no_seam,
        contrast=contrast,
        loss_size=args.loss_size,
    )


def contrast_options(
    args: argparse.Namespace, labels: np.ndarray, baseline: Baseline, device: torch.device
) -> ContrastOptions | None:
    """The contrast's options from the command line; None with --no_contrast.

    Arguments and errors are those of `loss_options`.
    """
    label_aware = args.prototypes == 'label_aware'
    for flag in ('bg_certain', 'min_class_share'):
        if getattr(args, flag) is not None and not label_aware:
            raise UserError(
                f'--{flag}: with {args.prototypes} prototypes all pixels count; add --prototypes '
                'label_aware'
            )
    if args.no_contrast:
        return None
    changes = {
        'cross_prototype': not args.no_cross_prototype,
        'cross_cam': not args.no_cross_cam,
        'intra_view': not args.no_intra_view,
        'semi_hard': not args.no_semi_hard,
        'hard_pixels': not args.no_hard_pixels,
    }
    if args.bg_threshold is not None:
        changes['bg_threshold'] = args.bg_threshold
    if args.temperature is not None:
        changes['temperature'] = args.temperature
    if args.prototype_share is not None:
        changes['top_fraction'] = args.prototype_share
    if args.contrast_weight is not None:
        changes['weight'] = args.contrast_weight
    if not label_aware:
        return baseline.contrast_options(**changes)
    changes['bg_certain'] = args.bg_certain
    if args.min_class_share is not None:
        changes['common'] = common_classes(args, labels).to(device)
    options = baseline.contrast_options(LabelAwareOptions, **changes)
    if args.bg_certain is not None and args.bg_certain > options.bg_threshold:
        raise UserError(
            f'--bg_certain {args.bg_certain:g}: must not be larger than the background score '
            f'{options.bg_threshold:g} (--bg_threshold)'
        )
    return options


def common_classes(args: argparse.Namespace, labels: np.ndarray) -> torch.Tensor:
    """True for the classes that are common enough, bool [K] (docs/method.md §10.3).

    They are those that at least --min_class_share of the images hold.

    Args:
        args: the command line.
        labels: [N, K] of the images to train on.
    Raises:
        UserError: no class is common enough.
    """
    shares = torch.as_tensor(labels).double().mean(0)  # [K]
    if shares.max() < args.min_class_share:
        raise UserError(
            f'--min_class_share {args.min_class_share:g}: the most frequent class of '
            f'{args.train_list} is in {shares.max():.3f} of its pictures; no class would take part'
        )
    return shares >= args.min_class_share


def with_weightless_contrast(options: LossOptions) -> LossOptions:
    """The same options with a contrast of weight 0, for the steps before --contrast_start.

    The contrast is still computed, because DistributedDataParallel expects the same parameters to
    take part in every step.
    """
    if options.contrast is None:
        return options
    weightless = dataclasses.replace(options.contrast, weight=0.0)
    return dataclasses.replace(options, contrast=weightless)


if __name__ == '__main__':
    processes.run(main, parse_args)
