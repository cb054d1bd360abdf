"""The interface of the refiners: how their networks are trained, and how they walk."""

import argparse
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from network.backbone import Backbone
from tool.method.class_set import ClassSet
from tool.train.inputs import Input
from voc12.aff_data import WalkSet
from voc12.normalisation import Normalisation


class Refiner:
    """A way from seeds to pseudo masks, as aff_train.py and aff_infer.py see it.

    A subclass sets the attributes and defines the methods that raise NotImplementedError here.
    """

    # its name, the value of --refiner
    name: str
    # the modules of its network over ResNet-38 and over backbones of timm
    networks: tuple[str, str]
    # a key that only the checkpoints of its network have
    mark: str
    # image pixels per cell of its network's output
    stride: int
    # {flag: default} of aff_train.py and of aff_infer.py, of the flags that depend on the refiner
    training_flags: Mapping[str, Any]
    walk_flags: Mapping[str, Any]

    @property
    def settings(self) -> Mapping[str, Any]:
        """The additions to a training's settings, so that states of other refiners are refused."""
        return {'refiner': self.name}

    def check_flags(self, args: argparse.Namespace) -> None:
        """Check the flags of aff_train.py that not every refiner can follow.

        Raises:
            UserError: a flag was given that has no effect.
        """

    def backbone(self, args: argparse.Namespace) -> str | None:
        """The backbone to train over; None leaves it to the weights."""
        return args.backbone

    def read_inputs(
        self, args: argparse.Namespace, names: list[str], classes: ClassSet
    ) -> tuple[list[Input], list[str]]:
        """Check what the network learns from besides the pictures, before any of it is loaded.

        Returns:
            What it learns from, and lines on it for the log.
        Raises:
            UserError: a file is missing, or a folder holds something else.
        """
        raise NotImplementedError

    def train_set(
        self, args: argparse.Namespace, names: list[str], normalisation: Normalisation
    ) -> Dataset:
        """The samples to train on: 'image' and 'label' of a crop, indexed by (epoch, index)."""
        raise NotImplementedError

    def losses(
        self, output: torch.Tensor, batch: dict[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """The loss terms of a batch, scalars, and what is minimised, 'loss'.

        Args:
            output: that of the network for batch['image'].
            batch: samples, and their 'counts' as `mean_counts` of aff_train.py gives them.
        """
        raise NotImplementedError

    def pair_counts(self, label: torch.Tensor) -> torch.Tensor:
        """Numbers of background, equal foreground and negative pairs of 'label': int64 [3]."""
        raise NotImplementedError

    def optimizer(self, net: Backbone, args: argparse.Namespace) -> torch.optim.Optimizer:
        """The optimiser that a command line asks for."""
        raise NotImplementedError

    def walk_set(self, args: argparse.Namespace, names: list[str]) -> WalkSet:
        """The pictures to walk on, with their pooled CAMs."""
        raise NotImplementedError

    def walk(
        self, net: Backbone, samples: list[dict], device: torch.device, args: argparse.Namespace
    ) -> list[np.ndarray]:
        """Scores of pictures of equal size after the random walk.

        The network takes the pictures together, the walk takes them one by one.

        Args:
            net: the trained network, on `device`.
            samples: items of `walk_set`.
            device: where the network and the walk run.
            args: the command line of aff_infer.py.
        Returns:
            For every picture float32 [labels, H, W], a map for each of the sample's labels.
        """
        raise NotImplementedError
