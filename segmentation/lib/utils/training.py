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

from datasets import generate_dataset
from net import generate_net, own_normalisation
from network.device import to_device
from network.timm_weights import weights_fingerprint
from tool.files.checkpoints import save_checkpoint
from tool.run import command_line
from tool.run.errors import UserError
from tool.train import processes
from tool.train.engine import States, fit, per_process
from tool.train.log import RunLog
from tool.train.optimiser import param_groups, poly
from tool.train.precision import described, fast_forward, grad_scaler, resolved
from utils.config import NO_DECISION, add_config_flags, names_of, read_config
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
    logits: torch.Tensor, mask: torch.Tensor, labelled: torch.Tensor = None
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

    def __init__(self, log: RunLog | None, config: dict):
        self.board = log.board if log else None
        self.mean, self.std = (
            torch.tensor(config[key]).view(3, 1, 1) for key in ('DATA_MEAN', 'DATA_STD')
        )
        self.palette = torch.from_numpy(PALETTE)

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
    parser.add_argument(
        '--no_resume',
        action='store_true',
        help='start over instead of continuing from a training state',
    )
    args = parser.parse_args()
    args.config = read_config(config, args.set)
    return args


def main(args: argparse.Namespace) -> None:
    device = processes.start(args.device)
    config = {**args.config, 'TRAIN_AMP': resolved(args.config['TRAIN_AMP'], device)}
    if not config['DATA_PSEUDO_GT']:
        raise UserError(
            'DATA_PSEUDO_GT is not set; set it in config.py (or with --set) to the folder of '
            'pseudo masks (PNG)'
        )
    dataset = generate_dataset(config, names_of(config, config['DATA_TRAIN_LIST']))
    batch, iterations = config['TRAIN_BATCHES'], config['TRAIN_ITERATION']
    if batch > len(dataset):
        raise UserError(
            f'TRAIN_BATCHES = {batch}: more than the {len(dataset)} images of the list; use a '
            'smaller one'
        )
    parts = config['TRAIN_ACCUMULATE']
    share = per_process(batch, parts, 'TRAIN_BATCHES =')
    if share < 2 * parts:
        raise UserError(
            f'TRAIN_BATCHES = {batch}: BatchNorm needs at least 2 pictures at a time '
            f'({processes.world()} processes, {parts} parts each)'
        )

    torch.manual_seed(config['TRAIN_SEED'])  # the new layers' initial weights
    net = to_device(processes.sync_norms(generate_net(config), device), device)
    dataset.config = config = own_normalisation(config, net)
    optimizer, scaler = make_optimizer(net, config), grad_scaler(config['TRAIN_AMP'])
    forward = fast_forward(
        net, device, config['TRAIN_AMP'], config['TRAIN_COMPILE'], config['TRAIN_CHANNELS_LAST']
    )
    prefix, pretrain = (
        os.path.join(config['MODEL_SAVE_DIR'], config['EXP_NAME']),
        config['MODEL_BACKBONE_PRETRAIN'],
    )
    settings = {
        key: value
        for key, value in config.items()
        if key not in NO_DECISION and not key.startswith('TEST_')
    }
    settings['backbone weights'] = weights_fingerprint(pretrain) if pretrain else ''
    settings['image list'] = hashlib.sha256(' '.join(dataset.names).encode()).hexdigest()[:16]
    states = States(prefix, settings, config['TRAIN_SAVE_ITERS'], scaler=scaler)
    start = states.resume(net, optimizer, args.no_resume)

    log = (
        RunLog(prefix, prefix + '_tblog' if config['TRAIN_TBLOG'] else None, start)
        if processes.is_main()
        else None
    )
    if log:
        log.header(
            device=device,
            amp=described(config['TRAIN_AMP'], device),
            config=config,
            processes=f'{processes.world()} with {share} pictures each',
            images=len(dataset),
            starts_at=start,
            backbone=f'weights of {pretrain}'
            if pretrain
            else 'no weights, trained from scratch (MODEL_BACKBONE_PRETRAIN = False); the '
            'published figures start from ImageNet weights',
        )
    pictures = Pictures(log, config)

    def losses(batch: dict, step: int) -> dict[str, torch.Tensor]:
        logits = forward(batch['image'])
        pictures.add(step, batch, logits)
        return {'loss': segmentation_loss(logits, batch['mask'], batch['labelled'])}

    def after_step(done: int) -> None:
        every = config['TRAIN_SAVE_ITERS']
        if processes.is_main() and every and done % every == 0 and done < iterations:
            save_checkpoint(f'{prefix}_itr{done}.pth', net.state_dict())

    fit(
        net,
        optimizer,
        losses,
        dataset,
        batch_size=batch,
        max_steps=iterations,
        device=device,
        log=log,
        lr_factor=lambda step: poly(step, iterations + 1, config['TRAIN_POWER']),
        seed=config['TRAIN_SEED'],
        num_workers=min(config['DATA_WORKERS'], command_line.default_jobs()),
        start_step=start,
        states=states,
        after_step=after_step,
        accumulate=parts,
        whole=mean_labelled,
        scaler=scaler,
    )
    if log:
        save_checkpoint(prefix + '.pth', net.state_dict())
        states.clear()
        log.say(f'wrote {prefix}.pth')
        log.close()


def train(config: dict) -> None:
    """Run an experiment's train.py."""
    processes.run(main, lambda: parse_args(config))
