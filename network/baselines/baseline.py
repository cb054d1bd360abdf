"""What a baseline is: everything that differs between SEAM and EPS, behind one interface."""

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F

from network.backbone import Backbone
from tool.method.contrast import contrast_loss
from tool.train import processes


@dataclass(frozen=True)
class LossOptions:
    """What a training run decides about its losses.

    view2_size: side of the second view in pixels. max_classes: most classes a picture of the list
    has. tau: EPS's share.
    consistency: the baseline's two-view losses (off: plain classification). contrast: keyword
    arguments of contrast_loss, or None for no contrast. loss_size: side of the square that the
    views' maps are upsampled to and compared at (None: that of the views, as published).
    """

    view2_size: int = 128
    max_classes: int | None = None
    tau: float = 0.4
    consistency: bool = True
    contrast: dict | None = field(default_factory=dict)
    loss_size: int | None = None


class Baseline:
    """One way of making CAMs. Attributes are constants of method.md; a subclass sets them and fills
    the methods in.

    Attributes:
        name: value of --baseline. network, timm_network: dotted modules of its Net over ResNet-38
            and over timm's backbones.
        projection: key of its projection head in checkpoints.
        bg_index: channel of the background in every map.
        bg_threshold, top_fraction: of the contrast. png_threshold: background score of CAM PNGs.
        max_epochs: epochs of the schedule. max_steps: steps of a run, None for all epochs.
        saliency: needs saliency maps.
        upsampled: its two-view losses compare upsampled maps. pcm_seeds: its seeds are maps of the
            PCM.
    """

    name: str
    network: str
    timm_network: str
    projection: str
    bg_index: int
    bg_threshold: float
    top_fraction: float
    png_threshold: float
    max_epochs: int
    max_steps: int | None = None
    saliency: bool = False
    upsampled: bool = False
    pcm_seeds: bool = False

    def for_classes(self, num_classes: int) -> 'Baseline':
        """This baseline for maps of another number of channels, the background included."""
        return self  # a background that comes first stays where it is

    @property
    def networks(self) -> tuple[str, str]:
        return self.network, self.timm_network

    def losses(
        self, net: Callable, batch: dict, options: LossOptions, generator: torch.Generator = None
    ) -> dict:
        """All loss terms of a batch ('image' [N, 3, H, W], 'label' [N, 20], …) and their sum
        'loss'.

        Under torchrun the batch is a process's part: the mean of the terms over the processes is
        that of the whole batch.

        Args:
            net: the network, or what is called in its place.
            generator: of the pixel sampling; in the same state in every process.
        """
        image, label = batch['image'], batch['label']
        if options.consistency or options.contrast is not None:
            small = F.interpolate(
                image, (options.view2_size,) * 2, mode='bilinear', align_corners=True
            )
            terms, contrast_maps = self.two_view_losses(net, image, small, batch, options)
        else:
            terms, contrast_maps = self.one_view_losses(net, image, batch, options), None
        total = sum(terms.values())
        if options.contrast is not None:
            inside = (image != 0).any(1, keepdim=True).to(image.dtype)  # padding is zeros
            terms |= contrast_loss(
                *contrast_maps,
                label,
                inside=inside,
                generator=generator,
                gather=processes.gather,
                **{
                    'bg_index': self.bg_index,
                    'bg_threshold': self.bg_threshold,
                    'top_fraction': self.top_fraction,
                    **options.contrast,
                },
            )
            total = total + terms['loss_nce']
        return {**terms, 'loss': total}

    def one_view_losses(
        self, net: Callable, image: torch.Tensor, batch: dict, options: LossOptions
    ) -> dict:
        """Loss terms of plain classification training on one view."""
        raise NotImplementedError

    def two_view_losses(
        self,
        net: Callable,
        image: torch.Tensor,
        small: torch.Tensor,
        batch: dict,
        options: LossOptions,
    ) -> tuple[dict, tuple]:
        """(loss terms, (f_proj1, cam_rv_down1, f_proj2, cam_rv_down2)) of two views of the
        images."""
        raise NotImplementedError

    def maps(
        self,
        net: Backbone,
        view: torch.Tensor,
        classes: list[int],
        size: tuple[int, int],
        gate_pcm: bool = False,
        lifted: torch.Tensor = None,
    ) -> torch.Tensor:
        """Maps [K, H, W] of the foreground classes from one scale; `view` [2, 3, h, w]: the picture
        and its mirror image.

        Not published: with `gate_pcm` the other classes take no part in the PCM; `lifted` [K]:
        classes that come into it even where their CAM is not positive.
        """
        channels = torch.tensor([c + (self.bg_index == 0) for c in classes], device=view.device)
        # on a CPU a batch of two was no faster than two passes, and its peak memory half as high
        # again
        passes = view.split(1) if view.device.type == 'cpu' else [view]
        maps = torch.cat(
            [self.pass_maps(net, part, channels, gate_pcm, lifted).float() for part in passes]
        )
        maps = F.interpolate(maps, size, mode='bilinear', align_corners=False)
        return maps[0] + maps[1].flip(2)

    def pass_maps(
        self,
        net: Backbone,
        view: torch.Tensor,
        channels: torch.Tensor,
        gate_pcm: bool,
        lifted: torch.Tensor | None,
    ) -> torch.Tensor:
        """Maps [2, K, h', w'] of the given channels from one pass of the network."""
        raise NotImplementedError

    def finish(self, maps: torch.Tensor) -> torch.Tensor:
        """Seeds in [0, 1] from the maps [K, H, W] summed over scales (method §5)."""
        raise NotImplementedError
