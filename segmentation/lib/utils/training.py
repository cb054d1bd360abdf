"""Training of a segmentation network on pseudo masks; every experiment's train.py runs it
(docs/method.md §8).

    python train.py [--set KEY=VALUE ...] [--no_resume]
    torchrun --nproc_per_node 4 train.py ...     (the processes share TRAIN_BATCHES pictures)

Reads  the config, DATA_ROOT/JPEGImages and DATA_PSEUDO_GT.
Writes into MODEL_SAVE_DIR: the checkpoint EXP_NAME.pth, EXP_NAME_itr<N>.pth every TRAIN_SAVE_ITERS
       iterations, a .log, the loss as .jsonl, TensorBoard files, and training states to continue
       from.
"""

import argparse
import functools
import os
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import Dataset

from datasets import generate_dataset
from net import generate_net, own_normalisation
from network.device import to_device
from network.setting_names import CONFIG_KEYS
from network.timm_weights import weights_fingerprint
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import processes, set_up
from tool.train.engine import TrainingRun, TrainOptions, per_process
from tool.train.inputs import Input, files_input, list_input
from tool.train.log import Board, RunLog
from tool.train.optimiser import param_groups, poly
from tool.train.precision import resolved
from utils.config import add_config_flags, classes_of, names_of, read_config
from utils.keys import NO_DECISION, PREDICTION_KEYS
from voc12.classes import IGNORE, PALETTE
from voc12.layout import image_path

IMAGE_EVERY = 200  # iterations between two pictures in TensorBoard


def mean_labelled(batch: dict) -> dict[str, torch.Tensor]:
    """'labelled': the mean number of labelled pixels in a process's part of the batch.

    The sum over all processes counts as at least 1.
    """
    labelled = processes.total((batch['mask'] != IGNORE).sum()).clamp(min=1)
    return {'labelled': labelled / processes.world()}


def segmentation_loss(
    logits: torch.Tensor, mask: torch.Tensor, labelled: torch.Tensor | None = None
) -> torch.Tensor:
    """Cross-entropy averaged over the labelled pixels.

    Args:
        logits: [N, C, H, W].
        mask: int64 [N, H, W], 255 = ignore.
        labelled: the number to divide the sum by, if the pictures are a part of a larger batch: see
            `mean_labelled`. None counts the labelled pixels of `mask`.
    Returns:
        Scalar; 0 where no pixel is labelled.
    """
    if labelled is None:
        labelled = (mask != IGNORE).sum().clamp(min=1)
    # summed here, because the order in which F.cross_entropy sums on a GPU is not fixed
    losses = F.cross_entropy(logits, mask, ignore_index=IGNORE, reduction='none')
    return losses.sum() / labelled


class Pictures:
    """Writes input, label and prediction of a few samples to TensorBoard.

    Args:
        config: an experiment's config; DATA_MEAN and DATA_STD are used.
    """

    def __init__(self, config: dict):
        self.board: Board | None = None
        self.mean = torch.tensor(config['DATA_MEAN']).view(3, 1, 1)
        self.std = torch.tensor(config['DATA_STD']).view(3, 1, 1)
        self.palette = torch.from_numpy(PALETTE)

    def write_to(self, log: RunLog | None) -> None:
        """Write to the TensorBoard of this log from now on, if it has one."""
        self.board = log.board if log else None

    def add(self, step: int, batch: dict, logits: torch.Tensor) -> None:
        """Write the first pictures of a batch, once in `IMAGE_EVERY` iterations."""
        if self.board is None or step % IMAGE_EVERY:
            return
        images = (batch['image'][:4].cpu() * self.std + self.mean).clamp(0, 1)
        labels = self.palette[batch['mask'][:4].cpu()]
        predictions = self.palette[logits[:4].detach().argmax(1).cpu()]
        self.board.images('input', images, step)
        self.board.images('label', labels, step, 'NHWC')
        self.board.images('prediction', predictions, step, 'NHWC')


def make_optimizer(net: nn.Module, config: dict) -> torch.optim.SGD:
    """SGD over four groups of convolution weights and biases.

    The learning rates are TRAIN_LR for weights of the backbone, twice that for its biases, and ten
    and twenty times that for weights and biases of new layers. BatchNorm's scale and shift are in
    no group and keep their values, as in the published code (Q6).
    """
    groups = param_groups(net, net.new_layers(), config['TRAIN_LR'], config['TRAIN_WEIGHT_DECAY'])
    return torch.optim.SGD(groups, lr=config['TRAIN_LR'], momentum=config['TRAIN_MOMENTUM'])


def parse_args(config: dict) -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    add_config_flags(parser)
    parser.run.add_argument(
        '--no_resume',
        action='store_true',
        help='start over instead of resuming from a training state; also train anew where the data '
        'of a finished training have changed',
    )
    command_line.add_dry_run_flag(parser)
    args = parser.parse_args()
    args.config = read_config(config, args.set)
    return args


def main(args: argparse.Namespace) -> None:
    config = args.config
    device = set_up.start(args.device, config['TRAIN_SEED'])
    config = {**config, 'TRAIN_AMP': resolved(config['TRAIN_AMP'], device)}
    classes = classes_of(config)
    dataset = read_inputs(config)
    options = options_of(config, args.no_resume, args.dry_run)
    check_batch(options, len(dataset))

    net, forward = set_up.place(to_device(generate_net(config), device), device, options)
    config = own_normalisation(config, net)
    carried = {key: config[key] for key in PREDICTION_KEYS}
    dataset.config = config
    pictures = Pictures(config)

    def losses(batch: dict, step: int) -> dict[str, torch.Tensor]:
        logits = forward(batch['image'])
        pictures.add(step, batch, logits)
        return {'loss': segmentation_loss(logits, batch['mask'], batch['labelled'])}

    def lr_factor(step: int) -> float:
        return poly(step, options.max_steps + 1, config['TRAIN_POWER'])

    set_up.train(
        TrainingRun(
            net=net,
            optimizer=make_optimizer(net, config),
            losses=losses,
            dataset=dataset,
            lr_factor=lr_factor,
            device=device,
            options=options,
            stage='segmentation',
            settings=settings_of(config),
            inputs=processes.once(lambda: learned_from(config, dataset)),
            reads=[config['MODEL_BACKBONE_PRETRAIN'] or ''],
            checkpoint_every=options.save_every,
            facts={
                'config': config,
                'images': len(dataset),
                'classes': classes,
                'backbone': describe_backbone(config['MODEL_BACKBONE_PRETRAIN']),
            },
            batch_facts=mean_labelled,
            on_log=pictures.write_to,
            classes=classes,
            config=carried,
        )
    )


def read_inputs(config: dict) -> Dataset:
    """The training set.

    Raises:
        UserError: DATA_PSEUDO_GT is not set, or a file is missing.
    """
    if not config['DATA_PSEUDO_GT']:
        raise UserError(
            'DATA_PSEUDO_GT is not set; set it in config.py (or with --set) to the folder of '
            'pseudo masks (PNG)'
        )
    return generate_dataset(config, names_of(config, config['DATA_TRAIN_LIST']))


def options_of(config: dict, start_over: bool, dry_run: bool = False) -> TrainOptions:
    """The options of a training run with this config."""
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
        tf32=config['TRAIN_TF32'],
        deterministic=config['TRAIN_DETERMINISTIC'],
        save_every=config['TRAIN_SAVE_ITERS'],
        start_over=start_over,
        dry_run=dry_run,
        tblog_dir=session + '_tblog' if config['TRAIN_TBLOG'] else None,
        workers_flag='DATA_WORKERS',
    )


def check_batch(options: TrainOptions, images: int) -> None:
    """Check that the list holds a batch, and that BatchNorm gets at least 2 pictures at a time.

    Raises:
        UserError: it does not.
    """
    batch = options.batch_size
    parts = options.accumulate
    if batch > images:
        raise UserError(
            f'TRAIN_BATCHES = {batch}: more than the {images} images of the list; use a smaller one'
        )
    if per_process(batch, parts, 'TRAIN_BATCHES =') < 2 * parts:
        raise UserError(
            f'TRAIN_BATCHES = {batch}: BatchNorm needs at least 2 pictures at a time '
            f'({processes.world()} processes, {parts} parts each)'
        )


def settings_of(config: dict) -> dict:
    """All settings that change the trained weights of a run."""
    settings = {
        key: value
        for key, value in config.items()
        if key not in NO_DECISION and not key.startswith('TEST_')
    }
    pretrain = config['MODEL_BACKBONE_PRETRAIN']
    settings['backbone weights'] = ''
    if pretrain:
        settings['backbone weights'] = weights_fingerprint(
            pretrain, config['MODEL_BACKBONE'], CONFIG_KEYS
        )
    return settings


def learned_from(config: dict, dataset: Any) -> list[Input]:
    """The data that a run learns from.

    Args:
        config: DATA_TRAIN_LIST, DATA_ROOT and DATA_PSEUDO_GT are used.
        dataset: the training set, of the class VOCDataset.
    """
    root = config['DATA_ROOT']
    pictures = [image_path(root, name) for name in dataset.names]
    masks = [dataset.mask_path(name) for name in dataset.names]
    return [
        list_input(config['DATA_TRAIN_LIST'], dataset.names),
        files_input('pictures', root, pictures),
        files_input('pseudo masks', config['DATA_PSEUDO_GT'], masks),
    ]


def describe_backbone(pretrain: str | bool) -> str:
    """Where the backbone's weights come from, for the log."""
    if pretrain:
        return f'weights of {pretrain}'
    return (
        'no weights, trained from scratch (MODEL_BACKBONE_PRETRAIN = False); the published figures '
        'start from ImageNet weights'
    )


def train(config: dict) -> None:
    """Run the train.py of an experiment with this config."""
    processes.run(main, functools.partial(parse_args, config))
