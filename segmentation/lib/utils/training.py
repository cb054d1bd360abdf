"""Training of a segmentation network on pseudo masks: what every experiment's train.py runs (method
§8).

    python train.py [--set KEY=VALUE ...] [--no_resume]
    torchrun --nproc_per_node 4 train.py ...      (TRAIN_BATCHES is the batch of all processes
    together)

Reads the config, DATA_ROOT/JPEGImages and DATA_PSEUDO_GT. Writes MODEL_SAVE_DIR/EXP_NAME.pth,
EXP_NAME_itr<N>.pth every TRAIN_SAVE_ITERS iterations, a .log, a .jsonl of the loss, TensorBoard
files, and training states to continue from.
"""

import argparse
import hashlib
import os

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from datasets import generate_dataset
from net import generate_net, own_normalisation
from network.device import to_device
from network.timm_weights import weights_fingerprint
from tool.files.checkpoints import save_checkpoint
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import processes, set_up
from tool.train.engine import TrainingRun, TrainOptions, per_process
from tool.train.log import RunLog
from tool.train.optimiser import param_groups, poly
from tool.train.precision import resolved
from utils.config import add_config_flags, classes_of, names_of, read_config
from utils.keys import NO_DECISION
from voc12.classes import IGNORE, PALETTE

IMAGE_EVERY = 200  # iterations between two pictures in TensorBoard


def mean_labelled(batch: dict) -> dict[str, torch.Tensor]:
    """'labelled': labelled pixels of the batch of all processes, for each of them; at least 1 in
    all."""
    return {
        'labelled': processes.total((batch['mask'] != IGNORE).sum()).clamp(min=1)
        / processes.world()
    }


def segmentation_loss(
    logits: torch.Tensor, mask: torch.Tensor, labelled: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy averaged over the labelled pixels.

    Args:
        logits: [N, C, H, W]; mask: int64 [N, H, W], 255 = ignore.
        labelled: what to divide the sum by: the `mean_labelled` of a larger batch that these are a
            part of.
    Returns:
        Scalar; 0 where no pixel is labelled.
    """
    labelled = (mask != IGNORE).sum().clamp(min=1) if labelled is None else labelled
    # summed here because F.cross_entropy sums in any order on a GPU
    return F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction='none').sum() / labelled


class Pictures:
    """TensorBoard pictures: input, label and prediction of a few samples side by side, every
    `IMAGE_EVERY` iterations."""

    def __init__(self, config: dict):
        self.board = None
        self.mean = torch.tensor(config['DATA_MEAN']).view(3, 1, 1)
        self.std = torch.tensor(config['DATA_STD']).view(3, 1, 1)
        self.palette = torch.from_numpy(PALETTE)

    def write_to(self, log: RunLog | None) -> None:
        """Write them to the TensorBoard of a log from now on, if it has one."""
        self.board = log.board if log else None

    def add(self, step: int, batch: dict, logits: torch.Tensor) -> None:
        if self.board is None or step % IMAGE_EVERY:
            return
        images = (batch['image'][:4].cpu() * self.std + self.mean).clamp(0, 1)
        masks, predictions = batch['mask'][:4].cpu(), logits[:4].detach().argmax(1).cpu()
        self.board.add_images('input', images, step)
        for name, ids in (('label', masks), ('prediction', predictions)):
            self.board.add_images(name, self.palette[ids], step, dataformats='NHWC')


def make_optimizer(net: nn.Module, config: dict) -> torch.optim.SGD:
    """SGD over the ×1 ×2 ×10 ×20 groups of convolution weights and biases.

    Q6: BatchNorm's scale and shift are in no group, so they keep their values, as in the published
    code.
    """
    groups = param_groups(net, net.new_layers(), config['TRAIN_LR'], config['TRAIN_WEIGHT_DECAY'])
    return torch.optim.SGD(groups, lr=config['TRAIN_LR'], momentum=config['TRAIN_MOMENTUM'])


def parse_args(config: dict) -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_config_flags(parser)
    parser.run.add_argument(
        '--no_resume',
        action='store_true',
        help='start over instead of continuing from a training state',
    )
    args = parser.parse_args()
    args.config = read_config(config, args.set)
    return args


def main(args: argparse.Namespace) -> None:
    config = args.config
    device = set_up.start(args.device, config['TRAIN_SEED'])
    config = {**config, 'TRAIN_AMP': resolved(config['TRAIN_AMP'], device)}
    classes = classes_of(config)
    dataset = read_inputs(config)
    options = options_of(config, args.no_resume)
    check_batch(options, len(dataset))

    net, forward = set_up.place(to_device(generate_net(config), device), device, options)
    dataset.config = config = own_normalisation(config, net)
    pictures = Pictures(config)

    def losses(batch: dict, step: int) -> dict[str, torch.Tensor]:
        logits = forward(batch['image'])
        pictures.add(step, batch, logits)
        return {'loss': segmentation_loss(logits, batch['mask'], batch['labelled'])}

    def lr_factor(step: int) -> float:
        return poly(step, options.max_steps + 1, config['TRAIN_POWER'])

    def after_step(done: int) -> None:
        due = options.save_every and done % options.save_every == 0 and done < options.max_steps
        if processes.is_main() and due:
            save_checkpoint(f'{options.session}_itr{done}.pth', net.state_dict(), classes)

    set_up.train(
        TrainingRun(
            net=net,
            optimizer=make_optimizer(net, config),
            losses=losses,
            dataset=dataset,
            lr_factor=lr_factor,
            device=device,
            options=options,
            settings=settings_of(config, dataset.names),
            facts={
                'config': config,
                'images': len(dataset),
                'classes': classes,
                'backbone': told_backbone(config['MODEL_BACKBONE_PRETRAIN']),
            },
            batch_facts=mean_labelled,
            on_log=pictures.write_to,
            after_step=after_step,
            classes=classes,
        )
    )


def read_inputs(config: dict) -> Dataset:
    """The training set, once all its files are known to be there."""
    if not config['DATA_PSEUDO_GT']:
        raise UserError(
            'DATA_PSEUDO_GT is not set; set it in config.py (or with --set) to the folder of '
            'pseudo masks (PNG)'
        )
    return generate_dataset(config, names_of(config, config['DATA_TRAIN_LIST']))


def options_of(config: dict, start_over: bool) -> TrainOptions:
    """The options of a run that the config decides."""
    session = os.path.join(config['MODEL_SAVE_DIR'], config['EXP_NAME'])
    return TrainOptions(
        session=session,
        batch_size=config['TRAIN_BATCHES'],
        max_steps=config['TRAIN_ITERATION'],
        seed=config['TRAIN_SEED'],
        num_workers=min(config['DATA_WORKERS'], command_line.default_jobs()),
        accumulate=config['TRAIN_ACCUMULATE'],
        amp=config['TRAIN_AMP'],
        compiled=config['TRAIN_COMPILE'],
        channels_last=config['TRAIN_CHANNELS_LAST'],
        save_every=config['TRAIN_SAVE_ITERS'],
        start_over=start_over,
        tblog_dir=session + '_tblog' if config['TRAIN_TBLOG'] else None,
    )


def check_batch(options: TrainOptions, images: int) -> None:
    """UserError unless the list holds a batch, and every part of one is enough for BatchNorm."""
    batch, parts = options.batch_size, options.accumulate
    if batch > images:
        raise UserError(
            f'TRAIN_BATCHES = {batch}: more than the {images} images of the list; use a smaller one'
        )
    if per_process(batch, parts, 'TRAIN_BATCHES =') < 2 * parts:
        raise UserError(
            f'TRAIN_BATCHES = {batch}: BatchNorm needs at least 2 pictures at a time '
            f'({processes.world()} processes, {parts} parts each)'
        )


def settings_of(config: dict, names: list[str]) -> dict:
    """What decides the weights of a run on the images `names`."""
    settings = {
        key: value
        for key, value in config.items()
        if key not in NO_DECISION and not key.startswith('TEST_')
    }
    pretrain = config['MODEL_BACKBONE_PRETRAIN']
    settings['backbone weights'] = weights_fingerprint(pretrain) if pretrain else ''
    settings['image list'] = hashlib.sha256(' '.join(names).encode()).hexdigest()[:16]
    return settings


def told_backbone(pretrain: str | bool) -> str:
    """Where the backbone's weights are from, for the log."""
    if pretrain:
        return f'weights of {pretrain}'
    return (
        'no weights, trained from scratch (MODEL_BACKBONE_PRETRAIN = False); the published figures '
        'start from ImageNet weights'
    )


def train(config: dict) -> None:
    """Run an experiment's train.py."""
    processes.run(main, lambda: parse_args(config))
