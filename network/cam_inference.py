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
from network.views import images_of, with_mirror_images
from network.weights import net_from_checkpoint
from tool.files.checkpoints import load_checkpoint
from tool.files.prediction_outputs import write_cams
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from tool.train.memory import return_freed_memory
from tool.train.precision import hold_convolutions
from voc12.data import scaled_pictures

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


def view_of(net: Backbone, pictures: Sequence[torch.Tensor], device: torch.device) -> torch.Tensor:
    """N pictures of equal size and, behind them, their mirror images, normalised, [2N, 3, h, w].

    Args:
        net: the network, which says how its inputs are normalised.
        pictures: uint8 [h, w, 3] each.
        device: where the network runs.
    """
    return with_mirror_images(images_of(pictures, net.normalisation, device))


@torch.inference_mode()
def predicted_classes(
    net: Backbone,
    baseline: Baseline,
    pictures: Sequence[torch.Tensor],
    device: torch.device,
    threshold: float,
    dtype: torch.dtype | None = None,
) -> list[list[int]]:
    """The classes 0…K−1 that the network sees in each picture (docs/method.md §10.9).

    Args:
        net: the network.
        baseline: the one that the network belongs to.
        pictures: pictures of equal size at one scale, uint8 [h, w, 3] each.
        device: where the network runs.
        threshold: the least probability of a class that is seen.
        dtype: what the network computes in; None is float32.
    """
    view = view_of(net, pictures, device)
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        probabilities = baseline.class_probabilities(net, view)
    is_seen = (probabilities >= threshold).cpu().numpy()  # [N, K]
    return [np.flatnonzero(of_picture).tolist() for of_picture in is_seen]


@torch.inference_mode()
def seeds(
    net: Backbone,
    baseline: Baseline,
    items: list[dict],
    device: torch.device,
    dtype: torch.dtype | None = None,
    gate_pcm: bool = False,
    fill_empty: bool = False,
) -> list[dict[int, np.ndarray]]:
    """Seeds of pictures of equal size (docs/method.md §5).

    Args:
        net: the network.
        baseline: the one that the network belongs to.
        items: items of MultiScaleSet, with their classes.
        device: where the network runs.
        dtype: what it computes in; None is float32.
        gate_pcm, fill_empty: additions of this project, see network/pcm_additions.py. With them
            the pictures go through the network one by one, because they change its maps by the
            classes of one picture.
    Returns:
        For every picture {class 0…K−1: float32 [H, W] in [0, 1]}, of the picture's classes.
    """
    if gate_pcm or fill_empty:
        maps = []
        for item in items:
            with torch.autocast(device.type, dtype, enabled=dtype is not None):
                maps.append(_maps_with_additions(net, baseline, item, device, gate_pcm, fill_empty))
    else:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            maps = own_maps(net, baseline, items, device)
    # all of them are computed before the first is waited for
    finished = [baseline.finish(own) if len(own) else None for own in maps]
    made: list[dict[int, np.ndarray]] = []
    for item, seed_maps in zip(items, finished):
        if seed_maps is None:
            made.append({})
        else:
            made.append(dict(zip(item['classes'], seed_maps.cpu().numpy())))
    return made


def _maps_with_additions(
    net: Backbone,
    baseline: Baseline,
    item: dict,
    device: torch.device,
    gate_pcm: bool,
    fill_empty: bool,
) -> torch.Tensor:
    """`own_maps` of one picture, with the additions of network/pcm_additions.py."""

    def infer(change_maps: ChangeMaps | None = None) -> torch.Tensor:
        [maps] = own_maps(net, baseline, [item], device, change_maps)
        return maps

    if not item['classes']:
        return infer()
    channels = baseline.channels(item['classes'], device)
    maps = infer(functools.partial(pcm_additions.gate, channels=channels) if gate_pcm else None)
    if fill_empty:
        maps = pcm_additions.fill_empty(maps, channels, infer)
    return maps


def own_maps(
    net: Backbone,
    baseline: Baseline,
    items: list[dict],
    device: torch.device,
    change_maps: ChangeMaps | None = None,
) -> list[torch.Tensor]:
    """The maps of each picture's own classes, [K', H, W], summed over scales.

    Args:
        net, baseline, items, device: see `seeds`.
        change_maps: an addition of network/pcm_additions.py.
    """
    of_pictures = [set(item['classes']) for item in items]
    classes = sorted(set().union(*of_pictures))
    size = items[0]['size']
    if not classes:
        return [torch.zeros(0, *size, device=device) for _ in items]
    total: Any = 0
    for pictures in zip(*[item['pictures'] for item in items]):  # of one scale
        view = view_of(net, pictures, device)
        total = total + baseline.maps(net, view, classes, size, change_maps)
    own = []
    for item, maps in zip(items, total):
        places = [classes.index(class_id) for class_id in item['classes']]
        on_device = torch.tensor(places, dtype=torch.int64).to(device, non_blocking=True)
        own.append(maps.index_select(0, on_device))
    return own


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
        make_views: gives a picture at every scale; it can be sent to another process.
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
            scaled_pictures, scales=self.scales
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

    def predict(
        self, views: list[list[torch.Tensor]], size: tuple[int, int]
    ) -> list[dict[int, np.ndarray]]:
        """The seeds of pictures of equal size, for each {class 0…K−1: float32 [H, W]}.

        Args:
            views: what `make_views` gives of each picture.
            size: (H, W) of the pictures.
        """
        if self.class_ids is None:
            scale = nearest_to_1(self.scales)
            classes = predicted_classes(
                self.net,
                self.baseline,
                [pictures[scale] for pictures in views],
                self.device,
                self.class_threshold,
                self.dtype,
            )
        else:
            classes = [self.class_ids] * len(views)
        items = []
        for pictures, class_ids in zip(views, classes):
            items.append({'classes': class_ids, 'pictures': pictures, 'size': size})
        return seeds(self.net, self.baseline, items, self.device, self.dtype)
