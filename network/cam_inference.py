"""Inference with a trained CAM network: the classes and the seeds of a picture (docs/method.md §5).

contrast_infer.py makes the seeds of a list with it, `tool.predict` those of any pictures.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from network import pcm_additions
from network.backbone import Backbone
from network.baselines import baseline_of
from network.baselines.baseline import Baseline
from network.class_check import known_classes
from network.device import to_device
from network.pcm_additions import ChangeMaps
from network.weights import net_from_checkpoint
from tool.files.checkpoints import load_checkpoint
from tool.files.prediction_outputs import write_cams
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from tool.train.memory import return_freed_memory
from tool.train.precision import hold_convolutions
from voc12.data import multi_scale_views

# The factors on the size of a picture at which the seeds are published.
SCALES = (0.5, 1.0, 1.5, 2.0)

# The least probability of a class that a picture shows, if the network gives the classes.
CLASS_THRESHOLD = 0.5

# On a CPU, a process whose network has more weights than this returns freed memory to the system at
# once. Lighter networks (EfficientNet-Lite0 has 4 million weights) and those in 16 bits have small
# blocks of memory, and would lose a fifth of their time to page faults.
WIDE = 30_000_000


class CamNet(NamedTuple):
    """A trained network that is ready for inference."""

    # on its device and in its precision
    net: Backbone
    # the baseline of its checkpoint, for its number of classes
    baseline: Baseline
    # how the baseline is known, for the log
    why: str
    # its classes
    classes: ClassSet


def load_cam_net(
    weights: str,
    device: torch.device,
    dtype: torch.dtype | None = None,
    classes: ClassSet | None = None,
    network: str | None = None,
    baseline_name: str | None = None,
    channels_last: bool = False,
) -> CamNet:
    """The network of a checkpoint of contrast_train.py.

    Args:
        weights: the checkpoint's file.
        device: where the network runs.
        dtype: what it computes in; None is float32.
        classes: those of the data; None: those of the checkpoint.
        network: the dotted name of its module; None: the baseline's.
        baseline_name: refuse a checkpoint of another baseline; None: take any.
        channels_last: channels-last weights in float32 too.
    Raises:
        UserError: the checkpoint is of no CAM network, or of other classes, of another baseline or
            of another network.
    """
    state = load_checkpoint(weights)
    num_weights = sum(value.numel() for value in state.values())
    if device.type == 'cpu' and dtype is None and num_weights > WIDE:
        return_freed_memory()
    baseline, why = baseline_of(state, weights, baseline_name)
    if classes is None:
        classes = known_classes(state, weights)
    baseline = baseline.for_classes(classes.num_classes)
    net: Any = net_from_checkpoint(network or baseline.networks, weights, state, classes)
    net = to_device(net, device)
    # otherwise the weights would be in memory twice once the network has converted its own
    del state
    if dtype is not None:
        hold_convolutions(net, dtype)
    elif channels_last:
        net.to(memory_format=torch.channels_last)
    return CamNet(net, baseline, why, classes)


def nearest_to_1(scales: list[float]) -> int:
    """The index of the scale that is nearest to 1; of two equally near ones, the first."""
    distances = [abs(scale - 1) for scale in scales]
    return distances.index(min(distances))


@torch.inference_mode()
def predicted_classes(
    net: Backbone,
    baseline: Baseline,
    view: torch.Tensor,
    threshold: float,
    dtype: torch.dtype | None = None,
) -> list[int]:
    """The classes 0…K−1 that the network sees in a picture (docs/method.md §10.9).

    Args:
        net: the network.
        baseline: the one that the network belongs to.
        view: the picture and its mirror image at one scale, on the network's device, [2, 3, h, w].
        threshold: the least probability of a class that is seen.
        dtype: what the network computes in; None is float32.
    """
    with torch.autocast(view.device.type, dtype, enabled=dtype is not None):
        probabilities = baseline.class_probabilities(net, view)
    return torch.nonzero(probabilities >= threshold).flatten().tolist()


@torch.inference_mode()
def seeds(
    net: Backbone,
    baseline: Baseline,
    item: dict,
    device: torch.device,
    dtype: torch.dtype | None = None,
    gate_pcm: bool = False,
    fill_empty: bool = False,
) -> dict[int, np.ndarray]:
    """Seeds of one picture (docs/method.md §5).

    Args:
        net: the network.
        baseline: the one that the network belongs to.
        item: an item of MultiScaleSet, with its classes.
        device: where the network runs.
        dtype: what it computes in; None is float32.
        gate_pcm, fill_empty: additions of this project, see network/pcm_additions.py.
    Returns:
        {class 0…K−1: float32 [H, W] in [0, 1]}, for the picture's classes.
    """
    classes = item['classes']
    if not classes:
        return {}
    channels = baseline.channels(classes, device)

    def fused_maps(change_maps: ChangeMaps | None = None) -> torch.Tensor:
        """The maps [K', H, W] of the picture's classes, summed over scales."""
        total: Any = 0
        for view in item['views']:
            view = view.to(device, non_blocking=True)
            total = total + baseline.maps(net, view, classes, item['size'], change_maps)
        return total

    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        if gate_pcm:
            maps = fused_maps(functools.partial(pcm_additions.gate, channels=channels))
        else:
            maps = fused_maps()
        if fill_empty:
            maps = pcm_additions.fill_empty(maps, channels, fused_maps)
    seed_maps = baseline.finish(maps).cpu().numpy()
    return dict(zip(classes, seed_maps))


class CamPredictor:
    """Seeds of any picture, for `tool.predict`.

    Args:
        weights: a checkpoint of contrast_train.py.
        device: where the network runs.
        dtype: what it computes in; None is float32.
        channels_last: channels-last weights in float32 too.
        scales: factors on the size of a picture; None: SCALES.
        class_names: the classes of all pictures; None: those that the network predicts.
        class_threshold: the least probability of a class that is predicted.
    Attributes:
        classes: those of the checkpoint.
        background_score: the baseline's.
        description: what the network is, for the user.
        settings: what decides the CAMs besides the weights, for the manifest.
        make_views: gives the views of a picture; it can be sent to another process.
        write: the function that writes the files of a picture.
    Raises:
        UserError: as `load_cam_net`; or the checkpoint has no class of a name.
    """

    write = staticmethod(write_cams)

    def __init__(
        self,
        weights: str,
        device: torch.device,
        dtype: torch.dtype | None = None,
        channels_last: bool = False,
        scales: Sequence[float] | None = None,
        class_names: Sequence[str] | None = None,
        class_threshold: float = CLASS_THRESHOLD,
    ):
        self.device = device
        self.dtype = dtype
        self.class_threshold = class_threshold
        self.scales = list(scales or SCALES)
        loaded = load_cam_net(weights, device, dtype, channels_last=channels_last)
        self.net = loaded.net
        self.baseline = loaded.baseline
        self.classes = loaded.classes
        self.background_score = self.baseline.png_threshold
        self.class_ids: list[int] | None = None
        given = f'predicted:{class_threshold}'
        if class_names is not None:
            self.class_ids = sorted(self._class_ids(weights, class_names))
            given = ', '.join(self.classes.foreground[class_id] for class_id in self.class_ids)
        self.description = f'{self.baseline.name}, {self.net.description}'
        self.settings = {'scales': self.scales, 'classes': given}
        self.make_views: Callable[[Image.Image], list[torch.Tensor]] = functools.partial(
            multi_scale_views, scales=self.scales, normalisation=self.net.normalisation
        )

    def _class_ids(self, weights: str, names: Sequence[str]) -> set[int]:
        """The foreground classes 0…K−1 of these names."""
        known = self.classes.foreground
        for name in names:
            if name not in known:
                raise UserError(
                    f'--classes {name}: {weights} has no such class; it has {", ".join(known)}'
                )
        return {known.index(name) for name in names}

    def predict(self, views: list[torch.Tensor], size: tuple[int, int]) -> dict[int, np.ndarray]:
        """The seeds of a picture, {class 0…K−1: float32 [H, W]}.

        Args:
            views: what `make_views` gives.
            size: (H, W) of the picture.
        """
        class_ids = self.class_ids
        if class_ids is None:
            view = views[nearest_to_1(self.scales)].to(self.device, non_blocking=True)
            class_ids = predicted_classes(
                self.net, self.baseline, view, self.class_threshold, self.dtype
            )
        item = {'classes': class_ids, 'views': views, 'size': size}
        return seeds(self.net, self.baseline, item, self.device, self.dtype)
