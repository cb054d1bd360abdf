"""Measures this implementation against the plain formulation (tool.method.plain), or the stages on
a device.

    python -m tool.benchmark [--only NAME ...] [--json FILE]
    python -m tool.benchmark --device cuda [--tiny] [--only NAME ...] [--json FILE]

The first command compares: both get the same inputs in one run. The result is a table of times,
memory and ratios. Quote the ratios, because seconds hold for one machine only.

The second one measures training steps, waits of the host, parity with the CPU, equal bits in two
runs, inference, the dense CRF of DeepLab's test and the random walk, on generated tensors.
"""

import argparse
import dataclasses
import functools
import importlib.util
import json
import os
import platform
import tempfile
from collections.abc import Callable, Iterator

import cv2
import numpy as np
import torch
from PIL import Image
from torchvision.transforms import functional

from network import cam_net
from network.baselines import BASELINES
from network.baselines.baseline import LossOptions
from network.cam_inference import SCALES
from network.device import to_device
from network.views import images_of, with_mirror_images
from network.weights import find_net
from tool.device_benchmark.sections import SECTIONS, Row
from tool.device_benchmark.stage_step import Setting
from tool.files.atomic import check_writable, write_text
from tool.files.maps import read_cam
from tool.files.npy import write_npy
from tool.files.pictures import read_mask, write_mask
from tool.method import boundary as boundaries
from tool.method import contrast, crf, plain, seam_losses
from tool.method import random_walk as walk
from tool.method.affinity import RADIUS
from tool.method.maps import ViewMaps
from tool.method.metrics import THRESHOLDS, confusion, curve_confusions, curve_histogram, iou
from tool.run import command_line
from tool.run.loader import load
from tool.run.measure import in_a_process, seconds
from tool.train.log import versions
from tool.train.memory import keep_freed_memory, return_freed_memory
from tool.train.optimiser import make_optimizer, param_groups
from tool.train.precision import amp_dtype, fast_forward, has_bf16, hold_convolutions
from voc12.classes import NUM_CLASSES, NUM_FOREGROUND, VOC
from voc12.data import scaled_pictures
from voc12.hue import shift_hue
from voc12.normalisation import IMAGENET, MEAN, STD
from voc12.synth import scene
from voc12.transforms import crop_window, cut, normalise, normalised_crop, to_tensor

PICTURE = (375, 500)  # pixels (H, W) of a typical VOC picture
ALPHAS = [4, 8, 16, 24, 32]  # of aff_prepare.py

# What --tiny makes of a Setting.
TINY = {
    'width': 1 / 16,
    'crop': 64,
    'batch': 2,
    'steps': 1,
    'picture': (48, 64),
    'scales': (0.5, 1.0),
    'pictures': 1,
}

BENCHMARKS: dict[str, Callable[[], list[dict]]] = {}


def benchmark(function: Callable[[], list[dict]]) -> Callable:
    """Register a benchmark: a function that returns rows of `row`."""
    BENCHMARKS[function.__name__] = function
    return function


def row(what: str, unit: str, plain_value: float, our_value: float, note: str = '') -> dict:
    """One line of the table.

    Args:
        what: what is measured.
        unit: 's' or 'MB'.
        plain_value, our_value: the measured values; the table also has their ratio.
        note: what is compared with what.
    """
    return {
        'what': what,
        'unit': unit,
        'plain': plain_value,
        'ours': our_value,
        'ratio': plain_value / our_value,
        'note': note,
    }


def _labels(count: int, generator: torch.Generator) -> torch.Tensor:
    """Image-level labels [count, K] with one to four random classes each."""
    label = torch.zeros(count, NUM_FOREGROUND)
    for picture in range(count):
        classes = torch.randperm(NUM_FOREGROUND, generator=generator)
        label[picture, classes[: 1 + picture % 4]] = 1
    return label


@benchmark
def contrast_loss() -> list[dict]:
    """The contrast, forward and backward, at N = 8."""
    generator = torch.Generator().manual_seed(0)
    label = _labels(8, generator)

    def maps(channels: int, side: int) -> torch.Tensor:
        return torch.rand(8, channels, side, side, generator=generator, requires_grad=True)

    def view(side: int) -> ViewMaps:
        f_proj = maps(128, side)
        cam_rv = maps(NUM_CLASSES, side)
        no_class_maps = torch.empty(0)  # the contrast uses the refined ones
        return ViewMaps(cam=no_class_maps, cam_rv=cam_rv, f_proj=f_proj)

    view1 = view(56)
    view2 = view(16)

    def run_plain() -> None:
        loss = plain.contrast_loss(view1.f_proj, view1.cam_rv, view2.f_proj, view2.cam_rv, label)
        loss.backward()

    def run_ours() -> None:
        terms = contrast.contrast_loss(view1, view2, label)
        terms['loss_nce'].backward()

    theirs = seconds(run_plain, 9)
    ours = seconds(run_ours, 9)
    return [row('contrast loss, N = 8', 's', theirs, ours, 'forward + backward')]


@benchmark
def seam_loss() -> list[dict]:
    """SEAM's losses, forward and backward, at N = 8 with views of 448 and 128 pixels."""
    generator = torch.Generator().manual_seed(0)
    label = _labels(8, generator)

    def maps(side: int) -> torch.Tensor:
        return torch.randn(8, NUM_CLASSES, side, side, generator=generator, requires_grad=True)

    def view(side: int) -> ViewMaps:
        cam = maps(side)
        cam_rv = maps(side)
        no_features = torch.empty(0)  # SEAM's losses use none
        return ViewMaps(cam=cam, cam_rv=cam_rv, f_proj=no_features)

    view1 = view(56)
    view2 = view(16)
    inputs = (view1.cam, view1.cam_rv, view2.cam, view2.cam_rv, label)
    sizes = {'size1': (448, 448), 'size2': (128, 128)}

    def run_plain() -> None:
        sum(plain.seam_loss(*inputs, **sizes).values()).backward()

    def run_ours() -> None:
        sum(seam_losses.seam_loss(view1, view2, label, **sizes, max_classes=4).values()).backward()

    theirs = seconds(run_plain, 3)
    ours = seconds(run_ours, 3)
    note = f'forward + backward, {NUM_CLASSES} channels against at most 4'
    return [row('SEAM losses, N = 8, 448', 's', theirs, ours, note)]


@benchmark
def eval_curve() -> list[dict]:
    """60 background scores over 4 pictures of 500×375."""
    with tempfile.TemporaryDirectory() as folder:
        names = _write_cams_and_masks(folder)

        def read_mask_of(name: str) -> np.ndarray:
            return read_mask(os.path.join(folder, name + '.png'), VOC)

        def read_cam_of(name: str) -> dict[int, np.ndarray]:
            return read_cam(os.path.join(folder, name + '.npy'), VOC, PICTURE)

        def run_ours() -> np.ndarray:
            histogram = 0
            for name in names:
                truth = read_mask_of(name)
                histogram = histogram + curve_histogram(read_cam_of(name), truth, NUM_CLASSES)
            return iou(curve_confusions(histogram)).mean(1)

        def pictures() -> Iterator[tuple[dict[int, np.ndarray], np.ndarray]]:
            for name in names:
                yield read_cam_of(name), read_mask_of(name)

        def run_plain() -> list[float]:
            return [plain.miou(pictures(), threshold, NUM_CLASSES) for threshold in THRESHOLDS]

        theirs = seconds(run_plain, 1)
        ours = seconds(run_ours)
    note = '4 pictures, 60 background scores'
    return [row('eval --curve, 500×375', 's', theirs, ours, note)]


def _write_cams_and_masks(folder: str) -> list[str]:
    """Write random CAMs of three classes and random masks of 4 pictures; returns their names."""
    rng = np.random.default_rng(0)
    names = [f'{number:04d}' for number in range(4)]
    for name in names:
        classes = rng.choice(NUM_FOREGROUND, 3, replace=False)
        cam = {int(class_index): rng.random(PICTURE, np.float32) for class_index in classes}
        write_npy(os.path.join(folder, name + '.npy'), cam)
        mask = rng.integers(0, NUM_CLASSES, PICTURE)
        write_mask(os.path.join(folder, name + '.png'), mask)
    return names


@benchmark
def random_walk() -> list[dict]:
    """Three classes on the features of a picture of 500×375, with the published β and t."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(34, 43 * 55, generator=generator)
    cam = torch.zeros(NUM_CLASSES, 47, 63)
    cam[:3] = torch.rand(3, 47, 63, generator=generator)
    theirs = seconds(functools.partial(plain.random_walk, cam, pairs, 8, 6), 3)
    ours = seconds(functools.partial(walk.random_walk, cam, pairs))
    note = '64 sparse steps against T squared 6 times'
    return [row('random walk, 63×47', 's', theirs, ours, note)]


# The boundary map of a picture of 500×375, in cells.
BOUNDARY_MAP = (94, 125)


@benchmark
def boundary_walk() -> list[dict]:
    """IRN's walk, three classes of a picture of 500×375, published β and t: time and peak memory.

    Ours is from the boundary on. Of the dense one the affinities are there before the time starts,
    and it takes 256 steps too: to square T 8 times, as published, is 26·10¹² operations.
    """
    theirs, theirs_mb = in_a_process(_run_boundary_walk, 'plain')
    ours, ours_mb = in_a_process(_run_boundary_walk, 'ours', repeats=3)
    height, width = BOUNDARY_MAP
    what = f'boundary walk, {width}×{height}'
    note = '256 sparse steps against 256 dense ones'
    return [
        row(what, 's', theirs, ours, note),
        row(f'{what}, memory', 'MB', theirs_mb, ours_mb, note),
    ]


def _run_boundary_walk(kind: str) -> Callable[[], torch.Tensor]:
    """IRN's walk to measure; `kind` is 'plain' or 'ours'."""
    generator = torch.Generator().manual_seed(0)
    cam = torch.rand(3, *BOUNDARY_MAP, generator=generator)
    boundary = torch.rand(BOUNDARY_MAP, generator=generator)
    if kind == 'ours':
        return functools.partial(boundaries.boundary_walk, cam, boundary)
    affinity = plain.boundary_affinity(boundary, RADIUS)
    return functools.partial(plain.dense_steps, cam * (1 - boundary), affinity, 10, 2**8)


@benchmark
def affinity_crf() -> list[dict]:
    """A picture of 500×375 with two classes and five α: time, and size of the maps on disk."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels: int, cells: int) -> np.ndarray:
        """Smooth random maps in [0, 1], [channels, H, W]."""
        noise = torch.rand(1, channels, cells, cells, generator=generator)
        maps = torch.nn.functional.interpolate(noise, PICTURE, mode='bicubic')
        return maps.clamp(0, 1)[0].numpy()

    image = (smooth(3, 25).transpose(1, 2, 0) * 255).astype(np.uint8)
    cam = dict(zip((7, 14), smooth(2, 5)))
    results = {}

    def run_plain() -> None:
        results['plain'] = plain.affinity_maps(image, cam, ALPHAS, NUM_CLASSES)

    def run_ours() -> None:
        results['ours'] = crf.affinity_maps(image, cam, ALPHAS, num_labels=NUM_CLASSES)

    theirs = seconds(run_plain, 1)
    ours = seconds(run_ours, 3)
    plain_maps = results['plain'][0]
    our_maps = results['ours'][0]
    float16_maps = {label: values.astype(np.float16) for label, values in our_maps.items()}
    plain_size = _file_size(plain_maps)
    time_note = f'two classes, 500×375; against five CRFs of {NUM_CLASSES} labels'
    size_note = f'background and two classes against {NUM_CLASSES} maps'
    float16_note = 'the same with --dtype float16'
    return [
        row('aff_prepare, five α a picture', 's', theirs, ours, time_note),
        row('la/ha file, float32', 'MB', plain_size, _file_size(our_maps), size_note),
        row('la/ha file, float16', 'MB', plain_size, _file_size(float16_maps), float16_note),
    ]


def _file_size(maps: np.ndarray | dict) -> float:
    """MB of a .npy with these maps."""
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, 'maps.npy')
        write_npy(path, maps)
        return os.path.getsize(path) / 1e6


@benchmark
def dense_crf() -> list[dict]:
    """Dense CRF of seeds of two classes, 500×375: all labels against those in the picture."""
    rng = np.random.default_rng(0)
    height, width = PICTURE
    colours = rng.integers(0, 256, (12, 16, 3), np.uint8)
    image = cv2.resize(colours, (width, height), interpolation=cv2.INTER_CUBIC)
    seeds = rng.choice([0, 8, 15], (12, 16)).astype(np.uint8)
    label = cv2.resize(seeds, (width, height), interpolation=cv2.INTER_NEAREST)

    def run(labels: list[int]) -> None:
        crf.crf_from_labels(image, [label], labels, crf.SEED_CRF, num_labels=NUM_CLASSES)

    theirs = seconds(functools.partial(run, list(range(NUM_CLASSES))), 1)
    ours = seconds(functools.partial(run, [0, 8, 15]), 3)
    note = f'two classes; against all {NUM_CLASSES} labels'
    return [row('dense CRF from labels, 500×375', 's', theirs, ours, note)]


@benchmark
def crf_backends() -> list[dict]:
    """numba against pydensecrf on a picture of 500×375, as the stages use them, in core-seconds."""
    if importlib.util.find_spec('pydensecrf') is None:
        print('(no rows of numba against pydensecrf: the package is not installed)', flush=True)
        return []
    height, width = PICTURE
    picture, _, _ = scene(np.random.default_rng(0))
    picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(1)
    maps = []
    for _ in range(NUM_CLASSES):
        small = rng.random((6, 8), np.float32)
        large = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        maps.append(large.clip(0, 1))
    three = np.stack(maps[:3]) / np.sum(maps[:3], axis=0)
    # as a trained network gives them: three labels occur, the others are improbable everywhere
    scale = np.full(NUM_CLASSES, 0.004, np.float32)
    scale[:3] = 1
    probs = np.stack(maps) * scale[:, None, None]
    probs /= probs.sum(0)
    cam = dict(zip((7, 14), maps))

    def seeds(backend: str) -> None:
        crf.dense_crf(picture, [crf.prob_unary(three)], crf.SEED_CRF, backend=backend)

    def affinity(backend: str) -> None:
        crf.affinity_maps(picture, cam, ALPHAS, backend=backend)

    def deeplab(backend: str) -> None:
        crf.crf_from_probs(picture, probs, crf.DEEPLAB_CRF, backend=backend)

    deeplab_note = f'kernel 67/3, {NUM_CLASSES} labels against those that can win'
    rows = []
    for what, function, note in (
        ('CRF of the seeds, 3 labels', seeds, 'kernel 50/5'),
        ('CRF of aff_prepare, five α', affinity, 'kernel 80/13, two classes'),
        ('CRF of the DeepLab test', deeplab, deeplab_note),
    ):
        theirs = seconds(functools.partial(function, 'pydensecrf'), 5)
        ours = seconds(functools.partial(function, 'numba'), 5)
        rows.append(row(what, 's', theirs, ours, f'{note}; pydensecrf against numba, one core'))
    return rows


@benchmark
def eval_png() -> list[dict]:
    """The confusion matrix of one mask of 500×375."""
    rng = np.random.default_rng(0)
    prediction = rng.integers(0, NUM_CLASSES, PICTURE).astype(np.uint8)
    truth = rng.integers(0, NUM_CLASSES, PICTURE).astype(np.uint8)
    arguments = (prediction, truth, NUM_CLASSES)
    theirs = seconds(functools.partial(plain.confusion_counts, *arguments), 20)
    ours = seconds(functools.partial(confusion, *arguments), 20)
    note = 'counting only, without reading'
    return [row('eval of a mask, 500×375', 's', theirs, ours, note)]


@benchmark
def training_step() -> list[dict]:
    """SEAM with the contrast, crop 448, batch 2: forward, losses, backward and update."""
    rows = []
    precisions = _precisions()
    for width in (1.0, 0.25):
        theirs, _ = in_a_process(_run_step, width, 'plain', repeats=2)
        for amp, note in precisions.items():
            ours, _ = in_a_process(_run_step, width, amp, repeats=2)
            what = f'training step, width {width:g}, {amp}'
            rows.append(row(what, 's', theirs, ours, note))
    return rows


def _precisions() -> dict[str, str]:
    """{value of --amp: note} of the precisions to time; bf16 only where the processor has it."""
    precisions = {'off': 'float32'}
    if has_bf16():
        precisions['bf16'] = 'bf16 + channels_last'
    else:
        print('(no bf16 rows: this processor has no 16-bit instructions)', flush=True)
    return precisions


def _image_label(class_indices: list[int]) -> torch.Tensor:
    """The image-level label [K] of a picture with these foreground classes."""
    label = torch.zeros(NUM_FOREGROUND)
    label[class_indices] = 1
    return label


def _run_step(width: float, kind: str) -> Callable[[], None]:
    """A training step to measure; `kind` is 'plain' or a value of --amp."""
    torch.manual_seed(0)
    net = find_net('network.resnet38_contrast')(width).train()
    optimizer = make_optimizer('sgd', param_groups(net, net.new_layers(), 1e-4, 5e-4), 1e-4, 5e-4)
    label = torch.stack([_image_label([3]), _image_label([7])])
    batch = {'image': torch.randn(2, 3, 448, 448), 'label': label}
    amp = 'off' if kind == 'plain' else kind
    forward = fast_forward(net, torch.device('cpu'), amp)
    seam = BASELINES['seam']
    options = LossOptions(max_classes=1, contrast=seam.contrast_options())
    if kind == 'plain':
        losses_of = _plain_losses
        net.features = functools.partial(plain.resnet38, net)
    else:
        losses_of = seam.losses
        to_device(net, torch.device('cpu'))
        keep_freed_memory()

    def step() -> None:
        optimizer.zero_grad()
        losses_of(forward, batch, options)['loss'].backward()
        optimizer.step()

    return step


def _plain_losses(forward: Callable, batch: dict, options: LossOptions) -> dict:
    """SEAM's losses and the contrast of a batch in the plain formulation: {'loss': …}."""
    size1 = (448, 448)
    size2 = (options.view2_size, options.view2_size)
    label = batch['label']
    view2 = plain.upsample(batch['image'], size2)
    cam1, cam_rv1, f_proj1, _ = forward(batch['image'], upsample=False)
    cam2, cam_rv2, f_proj2, _ = forward(view2, upsample=False)
    terms = plain.seam_loss(cam1, cam_rv1, cam2, cam_rv2, label, size1, size2)
    loss_nce = plain.contrast_loss(f_proj1, cam_rv1, f_proj2, cam_rv2, label)
    return {'loss': sum(terms.values()) + loss_nce}


@benchmark
def pcm() -> list[dict]:
    """The PCM at scale 2 of a picture of 500×375 (94×125 features): time and peak memory."""
    theirs, theirs_mb = in_a_process(_run_pcm, 'plain')
    ours, ours_mb = in_a_process(_run_pcm, 'ours')
    note = 'slabs of columns against the whole hw × hw matrix'
    return [
        row('PCM at scale 2', 's', theirs, ours, note),
        row('PCM at scale 2, memory', 'MB', theirs_mb, ours_mb, note),
    ]


def _without_slabs() -> None:
    """Let this process compute the PCM's whole hw × hw matrix at once."""
    cam_net.SLAB = 1 << 60


def _run_pcm(kind: str) -> Callable[[], torch.Tensor]:
    """A PCM to measure; `kind` is 'plain' or 'ours'."""
    if kind == 'plain':
        _without_slabs()
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(1, NUM_CLASSES, 94, 125, generator=generator)
    feature = torch.rand(1, 192, 94, 125, generator=generator)

    @torch.inference_mode()
    def run() -> torch.Tensor:
        return cam_net.correlate(maps, feature)

    return run


@benchmark
def cam_inference() -> list[dict]:
    """All scales and mirror images of a picture of 500×375 with two classes at width 1.

    Time, and peak memory of the process.
    """
    theirs, theirs_mb = in_a_process(_run_inference, 'plain')
    rows = []
    for amp, precision in _precisions().items():
        ours, ours_mb = in_a_process(_run_inference, amp)
        what = f'CAM inference, width 1, {amp}'
        note = f'{precision}, against eight passes one by one'
        rows.append(row(what, 's', theirs, ours, note))
        rows.append(row(f'{what}, memory', 'MB', theirs_mb, ours_mb, 'weights included'))
    return rows


def _run_inference(kind: str) -> Callable[[], torch.Tensor]:
    """CAM inference to measure; `kind` is 'plain' or a value of --amp."""
    torch.manual_seed(0)
    net = find_net('network.resnet38_contrast')().eval()
    height, width = PICTURE
    views = []
    for scale in (0.5, 1, 1.5, 2):
        views.append(torch.randn(2, 3, round(height * scale), round(width * scale)))
    if kind == 'plain':
        _without_slabs()
        return functools.partial(plain.seam_seeds, net, views, PICTURE, _image_label([3, 7]))
    to_device(net, torch.device('cpu'))
    dtype = amp_dtype(kind, torch.device('cpu'))
    if dtype is None:
        return_freed_memory()
    else:
        hold_convolutions(net, dtype)

    def run() -> torch.Tensor:
        with torch.inference_mode(), torch.autocast('cpu', dtype, enabled=dtype is not None):
            return sum(BASELINES['seam'].maps(net, view, [3, 7], PICTURE) for view in views)[0]

    return run


class _Repeated:
    """A data set in which every item is the same picture.

    Args:
        make: make(picture) gives an item.
        picture: a PIL picture.
    """

    def __init__(self, make: Callable, picture: Image.Image):
        self.make = make
        self.picture = picture

    def __getitem__(self, index: int) -> list[torch.Tensor]:
        return self.make(self.picture)


@benchmark
def loading() -> list[dict]:
    """A picture of 500×375 on its way to CAM inference; the steps of a training picture."""
    picture = _picture(PICTURE)
    plain_views = functools.partial(plain.views, scales=SCALES, mean=MEAN, std=STD)
    our_pictures = functools.partial(scaled_pictures, scales=SCALES)
    on_cpu = torch.device('cpu')

    def take_plain() -> None:
        with load(_Repeated(plain_views, picture), range(8), 1) as items:
            for _ in items:
                pass

    def take_ours() -> None:
        with load(_Repeated(our_pictures, picture), range(8), 1) as items:
            for pictures in items:
                for pixels in pictures:
                    with_mirror_images(images_of([pixels], IMAGENET, on_cpu))

    plain_item = seconds(functools.partial(plain_views, picture), 9)
    our_item = seconds(functools.partial(our_pictures, picture), 9)
    plain_way = seconds(take_plain, 3) / 8
    our_way = seconds(take_ours, 3) / 8
    item_note = 'four scales: floats with mirror images, against bytes'
    way_note = 'with one loading process, to the normalised views'
    rows = [
        row('picture for CAM inference', 's', plain_item, our_item, item_note),
        row(
            'its size',
            'MB',
            _bytes_of(plain_views(picture)) / 1e6,
            _bytes_of(our_pictures(picture)) / 1e6,
            item_note,
        ),
        row('its way to the network', 's', plain_way, our_way, way_note),
    ]
    return rows + _training_picture()


def _training_picture() -> list[dict]:
    """The steps of a training picture that are cheaper than in the plain formulation."""
    picture = _picture((456, 608))  # of a mean long side, 608
    pixels = np.asarray(picture)
    window = crop_window(*pixels.shape[:2], 448, np.random.default_rng(0))

    def plain_crop() -> torch.Tensor:
        return to_tensor(cut(normalise(picture), 448, window))

    def our_crop() -> torch.Tensor:
        return normalised_crop(pixels, 448, window, IMAGENET)

    plain_hue = seconds(functools.partial(functional.adjust_hue, picture, 0.05), 9)
    our_hue = seconds(functools.partial(shift_hue, picture, 0.05), 9)
    hue_note = '608×456; through Pillow, against look-ups'
    crop_note = 'normalised whole and cropped, against cropped and normalised'
    return [
        row('hue shift of a training picture', 's', plain_hue, our_hue, hue_note),
        row('normalised crop of it', 's', seconds(plain_crop, 9), seconds(our_crop, 9), crop_note),
    ]


def _picture(size: tuple[int, int]) -> Image.Image:
    """A generated picture of (H, W) pixels."""
    pixels, _, _ = scene(np.random.default_rng(0))
    height, width = size
    return Image.fromarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_CUBIC))


def _bytes_of(tensors: list[torch.Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def parse_args() -> argparse.Namespace:
    parser = command_line.Parser(__doc__)
    parser.run.add_argument(
        '--only',
        nargs='+',
        choices=sorted([*BENCHMARKS, *SECTIONS]),
        help=f'run only these; with --device: {", ".join(SECTIONS)}; without: the others',
    )
    parser.run.add_argument(
        '--device',
        help='measure the stages on this device: cuda, cuda:1, mps or cpu (default: compare with '
        'the plain formulation, on the CPU)',
    )
    parser.run.add_argument(
        '--tiny',
        action='store_true',
        help='with --device: small sizes and few repetitions, to see that everything runs; the '
        'figures mean nothing',
    )
    parser.run.add_argument(
        '--pictures',
        type=command_line.number(int, 1),
        help='with --device: how many pictures of inference and of the dense CRF are measured '
        f'(default: {Setting.pictures})',
    )
    parser.data.add_argument(
        '--voc12_root',
        help='with --device: take the pictures of the section crf from this folder of VOC 2012, '
        'those that have a mask (default: generated ones)',
    )
    parser.output.add_argument('--json', help='file for the rows of the table as JSON')
    args = parser.parse_args()
    known = SECTIONS if args.device else BENCHMARKS
    for name in args.only or ():
        if name not in known:
            other = 'without' if args.device else 'with'
            parser.error(f'--only {name}: is run {other} --device')
    for flag in ('tiny', 'pictures', 'voc12_root'):
        if getattr(args, flag) and not args.device:
            parser.error(f'--{flag}: is for --device; give it too')
    return args


def main(args: argparse.Namespace) -> None:
    check_writable(args.json)
    if args.device:
        machine, rows = measure_device(args)
    else:
        machine, rows = compare(args)
    if args.json:
        write_text(args.json, json.dumps({'machine': machine, 'rows': rows}, indent=1) + '\n')


def measure_device(args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Measure the stages on --device, and print the rows.

    Returns:
        The machine, and the rows.
    """
    device = command_line.pick_device(args.device)
    machine = f'{device}, {versions()}'
    if device.type == 'cuda':
        machine = f'{torch.cuda.get_device_name(device)}, {machine}'
    print(machine, flush=True)
    setting = Setting(device)
    if args.tiny:
        setting = dataclasses.replace(setting, **TINY)
    if args.pictures:
        setting = dataclasses.replace(setting, pictures=args.pictures)
    if args.voc12_root:
        setting = dataclasses.replace(setting, voc12_root=args.voc12_root)
    rows = []
    for name in args.only or SECTIONS:
        for measured in SECTIONS[name](setting):
            rows.append(dataclasses.asdict(measured))
            print(format_measured(measured), flush=True)
    return machine, rows


def format_measured(measured: Row) -> str:
    """A row of `measure_device` as a line of the table."""
    value = f'{measured.value:>10.4g} {measured.unit:11}'
    return f'{measured.section:10}{measured.what:34}{value}  {measured.note}'


def compare(args: argparse.Namespace) -> tuple[str, list[dict]]:
    """Compare with the plain formulation, and print the rows.

    Returns:
        The machine, and the rows.
    """
    processor = platform.processor() or platform.machine()
    machine = f'{processor}, {torch.get_num_threads()} threads, {versions()}'
    print(machine, flush=True)
    print(f'{"":44}{"plain":>12}{"ours":>12}{"ratio":>9}')
    rows = []
    for name in args.only or BENCHMARKS:
        for result in BENCHMARKS[name]():
            rows.append(result)
            print(format_row(result), flush=True)
    return machine, rows


def format_row(result: dict) -> str:
    """A row as a line of the table."""
    unit = result['unit']
    values = f'{result["plain"]:>10.4g} {unit}{result["ours"]:>10.4g} {unit}'
    return f'{result["what"]:44}{values}{result["ratio"]:>8.1f}x  {result["note"]}'


if __name__ == '__main__':
    command_line.run(main, parse_args)
