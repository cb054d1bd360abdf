"""Stage 1, training: a CAM network over any backbone with the pixel-to-prototype contrast loss,
from image-level labels.

    python contrast_train.py --weights ilsvrc-cls_rna-a1_cls1000_ep-0001.params --voc12_root VOC2012
    --session_name runs/seam torchrun --nproc_per_node 4 contrast_train.py ...      (--batch_size is
    the batch of all processes together)

Reads  the pictures of --train_list, --cls_labels and, for EPS, --saliency_root.
Writes <session_name>.pth (a bare state dict), <session_name>.log, <session_name>.jsonl (every loss
term of every step) and,
       while it runs, <session_name>.state-<step>.pth: the same command again continues from there.

There is no gradient accumulation: prototypes and pixel sampling are those of a whole batch, which
parts would not have.
"""

import argparse
import dataclasses

import numpy as np
import torch

from network.baselines import BASELINES, pick_baseline
from network.baselines.baseline import Baseline, LossOptions
from network.device import to_device
from network.timm_weights import weights_fingerprint
from network.weights import net_for_training
from tool.files.checkpoints import save_checkpoint
from tool.files.lists import read_labels, read_list
from tool.method.contrast import PROTOTYPES
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import engine, processes
from tool.train.log import RunLog
from tool.train.optimiser import chosen_optimizer, poly, warm_up
from tool.train.precision import described, fast_forward, grad_scaler, resolved
from tool.train.random_numbers import mixed_seed
from voc12.classes import VOC
from voc12.data import TrainSet, check_saliency, pick_labels
from voc12.layout import check_images


def parse_args():
    parser = command_line.Parser(__doc__)
    command_line.add_train_flags(
        parser,
        width='width of the ResNet-38 for --weights scratch; else it is read from the weights',
    )
    command_line.add_precision_flags(parser)
    parser.add_argument(
        '--baseline',
        choices=sorted(BASELINES),
        help='what the contrast is added to (default: the git branch if it is called like one, '
        'else seam)',
    )
    parser.add_argument('--network', help="module of the network (default: the baseline's)")
    parser.add_argument(
        '--output_stride',
        type=int,
        choices=(8, 16),
        help='picture pixels per feature cell of a timm backbone (default: that of the weights, '
        'else 16); ResNet-38 has 8',
    )
    parser.add_argument('--train_list', default='voc12/train_aug.txt', help='images to train on')
    parser.add_argument('--cls_labels', default='voc12/cls_labels.npy', help='image-level labels')
    parser.add_argument(
        '--saliency_root', default='SALImages', help='folder of saliency PNGs (EPS only)'
    )
    parser.add_argument(
        '--max_epochs',
        '--max_epoches',
        type=command_line.number(int, 1),
        help='epochs of the learning-rate schedule (default: seam 8, eps 15)',
    )
    parser.add_argument(
        '--max_iters',
        type=command_line.number(int, 1),
        help='end after this many steps of that schedule (default: seam all of it, eps 20000)',
    )
    parser.add_argument(
        '--view2_size',
        type=command_line.number(int, 32),
        help='side of the small second view in pixels (default: half the crop, at most 128)',
    )
    parser.add_argument(
        '--dropout',
        type=command_line.number(float, 0, 1),
        default=1.0,
        help="factor on the network's dropout rates (1: as published; 0 learns much faster from "
        'scratch)',
    )
    parser.add_argument(
        '--loss_size',
        type=command_line.number(int, 8),
        help="side of the square grid the two views are compared on (default: the views' own "
        'pixels; 32 is faster)',
    )
    parser.add_argument(
        '--prototypes',
        choices=PROTOTYPES,
        default=PROTOTYPES[0],
        help="label_aware (not in the paper): a class's prototype is made only of pictures that "
        'hold it',
    )
    parser.add_argument(
        '--contrast_start',
        type=command_line.number(float, 0, 1),
        default=0.0,
        help='the contrast counts after this part of the steps',
    )
    parser.add_argument(
        '--bg_threshold',
        type=command_line.number(float, 0, 1),
        help='background score of the pseudo labels, 0…1 (default: seam 0.20, eps 0.10)',
    )
    parser.add_argument(
        '--bg_certain',
        type=command_line.number(float, 0, 1),
        help='label_aware: pixels with a class score between this and --bg_threshold do not count '
        '(default: all count)',
    )
    parser.add_argument(
        '--min_class_share',
        type=command_line.number(float, 0, 1),
        help='label_aware: classes that fewer of the pictures to train on hold (0.05: 5 %%) take '
        'no part in the contrast (default: all do)',
    )
    parser.add_argument(
        '--contrast_weight',
        type=command_line.number(float, 0),
        help='weight of each contrast term (default: 0.1)',
    )
    parser.add_argument(
        '--tau',
        type=command_line.number(float, 0, 1),
        default=0.4,
        help='EPS: a class counts as foreground when this share of its area is salient',
    )
    parser.add_argument(
        '--tblog_dir', default='runs/tensorboard', help="TensorBoard folder; '' for none"
    )
    for flag, what in (
        ('contrast', 'no contrast at all'),
        ('cross_prototype', 'no cross-prototype term'),
        ('cross_cam', 'no cross-CAM term'),
        ('intra_view', 'no intra-view term'),
        ('semi_hard', 'intra-view negatives are all prototypes'),
        ('hard_pixels', 'intra-view takes all pixels of a class'),
        ('seam', "none of the baseline's two-view losses; with --no_contrast plain classification"),
    ):
        parser.add_argument(f'--no_{flag}', action='store_true', help=f'ablation: {what}')
    return parser.parse_args()


def main(args):
    device = processes.start(args.device)
    args.amp = resolved(args.amp, device)
    baseline, why = pick_baseline(args.baseline)
    names, labels = processes.once(lambda: read_inputs(args, baseline))
    share = engine.per_process(args.batch_size)
    schedule = engine.steps_of(
        len(names), args.batch_size, args.max_epochs or baseline.max_epochs, args.max_steps
    )
    steps = args.max_steps or args.max_iters or baseline.max_steps or schedule

    torch.manual_seed(args.seed)  # the initial weights of new layers
    said = []  # the log opens once nothing can be refused any more
    net = net_for_training(
        args.network or baseline.networks,
        args.weights,
        args.width,
        said.append,
        args.backbone,
        args.output_stride,
    )
    scale_dropout(net, args.dropout)
    net = processes.sync_norms(to_device(net, device), device)
    forward, scaler = (
        fast_forward(net, device, args.amp, args.compile, args.channels_last),
        grad_scaler(args.amp),
    )
    optimizer = chosen_optimizer(net, args)
    options, contrast_from = (
        loss_options(args, labels, baseline, device),
        round(steps * args.contrast_start),
    )
    # a weight of 0 leaves the step's form as it is, which DistributedDataParallel relies on
    without = dataclasses.replace(
        options, contrast=options.contrast and {**options.contrast, 'weight': 0.0}
    )
    settings = engine.run_settings(
        args, baseline=baseline.name, steps=steps, weights=weights_fingerprint(args.weights)
    )
    states = engine.States(args.session_name, settings, args.save_every, scaler=scaler)
    start = states.resume(net, optimizer, args.no_resume)

    log = RunLog(args.session_name, args.tblog_dir, start) if processes.is_main() else None
    if log:
        log.header(
            baseline=f'{baseline.name} ({why})',
            seed=args.seed,
            device=device,
            amp=described(args.amp, device),
            images=f'{len(names)} ({args.train_list})',
            batch=f'{args.batch_size} ({processes.world()} × {share})',
            steps=f'{start} … {steps}' if start else steps,
            schedule_steps=schedule,
        )
        for line in said:
            log.say(line)
    generator = torch.Generator(device)

    def losses(batch, step):
        generator.manual_seed(mixed_seed(args.seed, step, 1))  # the same in every process
        return baseline.losses(
            forward, batch, options if step >= contrast_from else without, generator
        )

    def lr_factor(step):
        return warm_up(step, args.warmup_steps) * poly(min(step, schedule - 1), schedule)

    dataset = TrainSet(
        args.voc12_root,
        names,
        labels,
        args.crop_size,
        args.seed,
        args.saliency_root if baseline.saliency else None,
        net.normalisation,
    )
    engine.fit(
        net,
        optimizer,
        losses,
        dataset,
        batch_size=args.batch_size,
        max_steps=steps,
        lr_factor=lr_factor,
        device=device,
        seed=args.seed,
        num_workers=args.num_workers,
        log=log,
        start_step=start,
        states=states,
        scaler=scaler,
    )
    if log:
        save_checkpoint(args.session_name + '.pth', net.state_dict())
        states.clear()
        log.say(f'wrote {args.session_name}.pth')
        log.close()


def scale_dropout(net: torch.nn.Module, factor: float) -> None:
    """Multiply the rates of all dropout layers."""
    for module in net.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p *= factor


def read_inputs(args: argparse.Namespace, baseline: Baseline) -> tuple[list[str], np.ndarray]:
    """(names, labels [N, 20]) of the images to train on, once all their files are known to be
    there."""
    names = read_list(args.train_list)
    labels = pick_labels(read_labels(args.cls_labels, VOC), names, args.cls_labels)
    check_images(args.voc12_root, names)
    if baseline.saliency:
        check_saliency(args.saliency_root, args.voc12_root, names)
    return names, labels


def loss_options(
    args: argparse.Namespace, labels: np.ndarray, baseline: Baseline, device: torch.device
) -> LossOptions:
    """The losses' settings from the command line."""
    if args.loss_size and not baseline.upsampled:
        raise UserError(
            f'--loss_size: the {baseline.name} baseline compares its maps at feature size; leave '
            'the flag out'
        )
    for flag in ('bg_certain', 'min_class_share'):
        if getattr(args, flag) is not None and args.prototypes != 'label_aware':
            raise UserError(
                f'--{flag}: with {args.prototypes} prototypes all pixels count; add --prototypes '
                'label_aware'
            )
    contrast = None
    if not args.no_contrast:
        contrast = {
            term: not getattr(args, f'no_{term}')
            for term in ('cross_prototype', 'cross_cam', 'intra_view', 'semi_hard', 'hard_pixels')
        }
        contrast['prototypes'] = args.prototypes
        given = {
            'bg_threshold': args.bg_threshold,
            'bg_certain': args.bg_certain,
            'weight': args.contrast_weight,
        }
        contrast |= {name: value for name, value in given.items() if value is not None}
        if args.min_class_share is not None:
            shares = torch.as_tensor(labels).double().mean(0)
            if shares.max() < args.min_class_share:
                raise UserError(
                    f'--min_class_share {args.min_class_share:g}: the most frequent class of '
                    f'{args.train_list} is in {shares.max():.3f} of its pictures; no class would '
                    'take part'
                )
            contrast['common'] = (shares >= args.min_class_share).to(device)
    view2_size = args.view2_size or min(128, args.crop_size // 2 // 8 * 8)
    if view2_size > args.crop_size:
        raise UserError(
            f'--view2_size {view2_size}: must not be larger than --crop_size {args.crop_size}'
        )
    return LossOptions(
        view2_size,
        max(1, int(labels.sum(1).max())),
        args.tau,
        not args.no_seam,
        contrast,
        args.loss_size,
    )


if __name__ == '__main__':
    processes.run(main, parse_args)
