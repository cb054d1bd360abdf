"""The interface of a baseline: everything that differs between SEAM and EPS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from network.pcm_additions import ChangeMaps
from tool.method.contrast import ContrastOptions, contrast_loss
from tool.method.label_aware import LabelAwareOptions, label_aware_contrast_loss
from tool.train import processes


@dataclass(frozen=True)
class LossOptions:
    """What a training run decides about its losses."""

    # side of the second view in pixels
    view2_size: int = 128
    # most classes that a picture of the list has; None: not known, all are computed (the same)
    max_classes: int | None = None
    # EPS: a class is foreground if more than this share of its area is salient
    tau: float = 0.4
    # the consistency losses er and ecr of the two views
    consistency: bool = True
    # the contrast, e.g. Baseline.contrast_options(); None: no contrast
    contrast: ContrastOptions | None = None
    # SEAM: side of the square at which the views' maps are compared; None: the views' own sizes
    loss_size: int | None = None


@dataclass(frozen=True)
class ViewMaps:
    """What the network makes of one view, at feature size."""

    # class maps [N, C, h, w]
    cam: torch.Tensor
    # class maps refined by the PCM, ≥ 0, [N, C, h, w]
    cam_rv: torch.Tensor
    # projected features, ≥ 0, [N, D, h, w]
    f_proj: torch.Tensor
    # class scores [N, C], where the network gives them (EPS)
    pred: torch.Tensor | None = None


class Baseline:
    """One way of making CAMs: constants of docs/method.md and the losses that go with them.

    A subclass sets the attributes and fills in the methods that raise NotImplementedError.
    """

    # value of --baseline
    name: str
    # module of its Net over ResNet-38
    network: str
    # module of its Net over timm's backbones
    timm_network: str
    # key of its projection head in checkpoints
    projection: str
    # channel of the background in every map
    bg_index: int
    # background score of the contrast's pseudo labels
    bg_threshold: float
    # pixels of a prototype, as a share of one picture's pixels
    top_fraction: float
    # background score of the CAM PNGs
    png_threshold: float
    # epochs of the learning-rate schedule
    max_epochs: int
    # steps of a run; None: all epochs
    max_steps: int | None = None
    # needs saliency maps
    saliency: bool = False
    # its two-view losses compare upsampled maps
    upsampled: bool = False
    # its seeds are maps of the PCM
    pcm_seeds: bool = False

    def for_classes(self, num_classes: int) -> 'Baseline':
        """This baseline for maps of another number of channels, the background included."""
        return self  # a background that comes first stays where it is

    @property
    def networks(self) -> tuple[str, str]:
        return self.network, self.timm_network

    def contrast_options(
        self, kind: type[ContrastOptions] = ContrastOptions, **changes
    ) -> ContrastOptions:
        """The contrast's options with the paper's constants for this baseline and some changes.

        Args:
            kind: ContrastOptions, or LabelAwareOptions for label-aware prototypes.
            changes: fields of `kind`.
        """
        constants = {
            'bg_index': self.bg_index,
            'bg_threshold': self.bg_threshold,
            'top_fraction': self.top_fraction,
        }
        return kind(**{**constants, **changes})

    def losses(
        self,
        net: Callable,
        batch: dict[str, torch.Tensor],
        options: LossOptions,
        generator: torch.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """All loss terms of a batch and their sum 'loss'.

        Under torchrun the batch is a process's part: the mean of the terms over the processes is
        that of the whole batch.

        Args:
            net: the network, or what is called in its place.
            batch: 'image' [N, 3, H, W], 'label' [N, K] and, for EPS, 'saliency' [N, 1, H, W].
            options: what the run decides.
            generator: of the pixel sampling; in the same state in every process.
        """
        if not options.consistency and options.contrast is None:
            terms = self.one_view_losses(net, batch, options)
            return {**terms, 'loss': total_of(terms)}
        image = batch['image']
        small = F.interpolate(image, (options.view2_size,) * 2, mode='bilinear', align_corners=True)
        view1 = self.view_maps(net, image)
        view2 = self.view_maps(net, small)
        terms = self.two_view_losses(view1, view2, batch, options)
        total = total_of(terms)
        if options.contrast is not None:
            contrast_terms = two_view_contrast(view1, view2, batch, options.contrast, generator)
            terms = {**terms, **contrast_terms}
            total = total + contrast_terms['loss_nce']
        return {**terms, 'loss': total}

    def view_maps(self, net: Callable, view: torch.Tensor) -> ViewMaps:
        """One pass of the network in training; `view` [N, 3, H, W]."""
        raise NotImplementedError

    def one_view_losses(
        self, net: Callable, batch: dict[str, torch.Tensor], options: LossOptions
    ) -> dict[str, torch.Tensor]:
        """Loss terms of plain classification training on the images alone."""
        raise NotImplementedError

    def two_view_losses(
        self,
        view1: ViewMaps,
        view2: ViewMaps,
        batch: dict[str, torch.Tensor],
        options: LossOptions,
    ) -> dict[str, torch.Tensor]:
        """The baseline's own loss terms on two views of the images."""
        raise NotImplementedError

    def channels(self, classes: list[int], device: torch.device) -> torch.Tensor:
        """Channels [K'] of the foreground classes 0…K−1 in a map stack."""
        first = 1 if self.bg_index == 0 else 0
        return torch.tensor([first + c for c in classes], device=device)

    def maps(
        self,
        net: Any,
        view: torch.Tensor,
        classes: list[int],
        size: tuple[int, int],
        change_maps: ChangeMaps | None = None,
    ) -> torch.Tensor:
        """Maps [K', H, W] of the foreground classes from one scale (docs/method.md §5).

        Args:
            net: the network.
            view: [2, 3, h, w], the picture and its mirror image.
            classes: the picture's classes, 0…K−1.
            size: (H, W) of the picture.
            change_maps: an addition of network/pcm_additions.py; None: as published.
        """
        channels = self.channels(classes, view.device)
        # on a CPU a batch of two was no faster than two passes, and its peak memory half as high
        # again
        passes = view.split(1) if view.device.type == 'cpu' else [view]
        maps = torch.cat(
            [self.pass_maps(net, part, channels, change_maps).float() for part in passes]
        )
        maps = F.interpolate(maps, size, mode='bilinear', align_corners=False)
        return maps[0] + maps[1].flip(2)

    def pass_maps(
        self,
        net: Any,
        view: torch.Tensor,
        channels: torch.Tensor,
        change_maps: ChangeMaps | None,
    ) -> torch.Tensor:
        """Maps [2, K', h', w'] of the given channels from one pass of the network.

        `change_maps`: see `maps`; a baseline whose seeds the PCM does not make gets None.
        """
        raise NotImplementedError

    def finish(self, maps: torch.Tensor) -> torch.Tensor:
        """Seeds in [0, 1] from the maps [K', H, W] summed over scales (docs/method.md §5)."""
        raise NotImplementedError


def total_of(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of loss terms, in their order."""
    first, *others = terms.values()
    total = first
    for term in others:
        total = total + term
    return total


def two_view_contrast(
    view1: ViewMaps,
    view2: ViewMaps,
    batch: dict[str, torch.Tensor],
    options: ContrastOptions,
    generator: torch.Generator | None,
) -> dict[str, torch.Tensor]:
    """The contrast of two views of the batch of all processes: the paper's, or with label-aware
    prototypes where the options are theirs."""
    maps = (view1.f_proj, view1.cam_rv, view2.f_proj, view2.cam_rv)
    label = batch['label']
    gather = processes.gather
    if not isinstance(options, LabelAwareOptions):
        return contrast_loss(*maps, label, options, generator=generator, gather=gather)
    image = batch['image']
    inside = (image != 0).any(1, keepdim=True).to(image.dtype)  # padding is zeros
    return label_aware_contrast_loss(
        *maps, label, options, inside=inside, generator=generator, gather=gather
    )
