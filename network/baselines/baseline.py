"""The interface of a baseline: everything that differs between SEAM and EPS."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from network import views
from network.pcm_additions import ChangeMaps
from tool.method.contrast import ContrastOptions, contrast_loss
from tool.method.label_aware import LabelAwareOptions, label_aware_contrast_loss
from tool.method.maps import ViewMaps, resize
from tool.train import processes


@dataclass(frozen=True)
class LossOptions:
    """The settings of a training run that its losses depend on (docs/method.md §3)."""

    # side of the second view in pixels
    view2_size: int = 128
    # the largest number of classes that an image of the list has. It saves work and changes no
    # result; None, not known, computes the maps of all classes
    max_classes: int | None = None
    # τ_s of EPS: a class is foreground if more than this share of its area is salient
    tau: float = 0.4
    # train with er and ecr, the consistency losses of the two views
    consistency: bool = True
    # the contrast's options, see Baseline.contrast_options; None trains without the contrast
    contrast: ContrastOptions | None = None
    # SEAM: side in pixels of the square at which its losses compare the maps of the two views;
    # None compares them at the views' own sizes
    loss_size: int | None = None


class Baseline:
    """A method of making CAMs that the contrast is added to: its constants and its losses.

    A subclass sets the attributes and defines the methods that raise NotImplementedError here.
    """

    # its name, the value of --baseline
    name: str
    # the module of its network over ResNet-38
    network: str
    # the module of its network over backbones of timm
    timm_network: str
    # the key of its projection head in checkpoints
    projection: str
    # b: the channel of the background in every map
    bg_index: int
    # β_bg: the background's score in the contrast's pseudo labels
    bg_threshold: float
    # ρ: the pixels of a prototype, as a share of one image's pixels
    top_fraction: float
    # the background's score in the CAM PNGs
    png_threshold: float
    # epochs of the learning-rate schedule
    max_epochs: int
    # steps of a run; None trains for all epochs
    max_steps: int | None = None
    # True if its losses need saliency maps
    saliency: bool = False
    # True if its two-view losses compare upsampled maps
    upsampled: bool = False
    # True if the PCM makes its seeds
    pcm_seeds: bool = False

    def for_classes(self, num_classes: int) -> 'Baseline':
        """This baseline for maps with `num_classes` channels, the background included."""
        return self  # a background that is channel 0 is so for any number of channels

    @property
    def networks(self) -> tuple[str, str]:
        """The modules of its networks over ResNet-38 and over backbones of timm."""
        return self.network, self.timm_network

    def contrast_options(
        self, kind: type[ContrastOptions] = ContrastOptions, **changes
    ) -> ContrastOptions:
        """The contrast's options: the paper's constants for this baseline, with changes.

        Args:
            kind: ContrastOptions, or LabelAwareOptions for label-aware prototypes.
            changes: fields of `kind` that have other values.
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
        """All loss terms of a batch (docs/method.md §3).

        Under torchrun each process has its own part of the batch. The terms of the whole batch are
        the means of the processes' terms.

        Args:
            net: the network, or a function that calls it.
            batch: 'image' [N, 3, H, W], 'label' [N, K] and, for EPS, 'saliency' [N, 1, H, W].
            options: the settings of the run.
            generator: of the random pixels; it has the same state in every process.
        Returns:
            The terms by name, scalars, and their sum 'loss'.
        """
        if not options.consistency and options.contrast is None:
            terms = self.one_view_losses(net, batch, options)
            return {**terms, 'loss': total_of(terms)}
        image = batch['image']
        size2 = (options.view2_size, options.view2_size)
        small = resize(image, size2)
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
        """The output of the network in training for one view, [N, 3, H, W]."""
        raise NotImplementedError

    def one_view_losses(
        self, net: Callable, batch: dict[str, torch.Tensor], options: LossOptions
    ) -> dict[str, torch.Tensor]:
        """The loss terms without a second view, for training without consistency and contrast."""
        raise NotImplementedError

    def two_view_losses(
        self,
        view1: ViewMaps,
        view2: ViewMaps,
        batch: dict[str, torch.Tensor],
        options: LossOptions,
    ) -> dict[str, torch.Tensor]:
        """The baseline's own loss terms, without the contrast, on two views of the images."""
        raise NotImplementedError

    def channels(self, classes: list[int], device: torch.device) -> torch.Tensor:
        """The channels, [K'], of foreground classes, which are counted from 0 to K−1."""
        first = 1 if self.bg_index == 0 else 0  # the channel of class 0
        channels = torch.tensor([first + c for c in classes])
        # with device=… in torch.tensor the host would wait for a GPU
        return channels.to(device, non_blocking=True)

    def maps(
        self,
        net: Any,
        view: torch.Tensor,
        classes: list[int],
        size: tuple[int, int],
        change_maps: ChangeMaps | None = None,
    ) -> torch.Tensor:
        """Maps of pictures' classes from one scale, [N, K', H, W] (docs/method.md §5).

        Args:
            net: the network.
            view: N pictures of equal size at this scale and, behind them, their mirror images,
                [2N, 3, h, w].
            classes: the pictures' foreground classes, 0…K−1.
            size: (H, W) of the pictures.
            change_maps: an addition of network/pcm_additions.py; None changes nothing, as
                published.
        """
        channels = self.channels(classes, view.device)
        maps_of_passes = []
        for part in cam_passes(view):
            maps_of_passes.append(self.pass_maps(net, part, channels, change_maps).float())
        maps = torch.cat(maps_of_passes)  # [2N, K', h', w']
        maps = F.interpolate(maps, size, mode='bilinear', align_corners=False)
        return views.add_mirrored_back(maps)

    def pass_maps(
        self,
        net: Any,
        view: torch.Tensor,
        channels: torch.Tensor,
        change_maps: ChangeMaps | None,
    ) -> torch.Tensor:
        """Maps of the given channels from one pass of the network.

        Args:
            net: the network.
            view: images, [n, 3, h, w].
            channels: [K'].
            change_maps: see `maps`; always None for a baseline whose seeds the PCM does not make.
        Returns:
            [n, K', h', w'], of any size.
        """
        raise NotImplementedError

    def finish(self, maps: torch.Tensor) -> torch.Tensor:
        """Seeds, [K', H, W] of at most 1, from maps summed over scales (docs/method.md §5)."""
        raise NotImplementedError

    def class_probabilities(self, net: Any, view: torch.Tensor) -> torch.Tensor:
        """The probability of each foreground class, float32 [N, K] (docs/method.md §10.9).

            probability_k = σ(mean of x_k over the picture and its mirror image)

        x_k is the class score that the classification loss trains, the spatial mean of the class
        map m_k. The mean is one of scores, before σ.

        Args:
            net: the network.
            view: N pictures of equal size at one scale and, behind them, their mirror images,
                [2N, 3, h, w].
        """
        scores_of_passes = []
        for part in cam_passes(view):
            scores_of_passes.append(self.pass_scores(net, part).float())
        scores = torch.cat(scores_of_passes)  # [2N, K]
        pictures_and_mirror_images = scores.unflatten(0, (2, -1))  # [2, N, K]
        return pictures_and_mirror_images.mean(0).sigmoid()

    def pass_scores(self, net: Any, view: torch.Tensor) -> torch.Tensor:
        """x, the scores of the foreground classes from one pass of the network, [n, K].

        Args:
            net: the network.
            view: images, [n, 3, h, w].
        """
        raise NotImplementedError


def cam_passes(view: torch.Tensor) -> list[torch.Tensor]:
    """The parts of a view, [2N, 3, h, w], that inference gives the network one after the other."""
    if view.device.type == 'cpu':
        # two passes are as fast as a batch of two, whose peak memory was half as high again
        return list(view.split(1))
    return views.passes(view, least=2)


def total_of(terms: dict[str, torch.Tensor]) -> torch.Tensor:
    """The sum of loss terms, added in their order."""
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
    """The terms of the contrast of two views, over the batch of all processes.

    It is the paper's contrast (docs/method.md §3.3), or the one with label-aware prototypes (§10.1)
    if `options` are LabelAwareOptions.
    """
    label = batch['label']
    gather = processes.gather
    if not isinstance(options, LabelAwareOptions):
        return contrast_loss(view1, view2, label, options, generator=generator, gather=gather)
    image = batch['image']
    # 1 inside the picture and 0 in the padding of the crop, whose pixels are zeros
    inside = (image != 0).any(1, keepdim=True).to(image.dtype)
    return label_aware_contrast_loss(
        view1, view2, label, options, inside=inside, generator=generator, gather=gather
    )
