"""Ours against the plain formulation (tool.method.plain), same inputs, one run.

    python -m tool.benchmark [--only NAME ...] [--json FILE]

Prints a table of ratios. Quote the ratios: seconds are of this machine alone.
"""

import functools
import importlib.util
import json
import os
import platform
import tempfile
from collections.abc import Callable

import cv2
import numpy as np
import torch

from network import cam_net
from network.baselines import BASELINES
from network.baselines.baseline import LossOptions
from network.device import to_device
from network.weights import find_net
from tool.files.atomic import write_text
from tool.files.maps import read_cam
from tool.files.npy import write_npy
from tool.files.pictures import read_mask, write_mask
from tool.method import contrast, crf, plain, seam_losses
from tool.method import random_walk as walk
from tool.method.metrics import THRESHOLDS, confusion, curve_confusions, curve_histogram, iou
from tool.run import command_line
from tool.run.measure import in_a_process, seconds
from tool.train.log import versions
from tool.train.memory import keep_freed_memory, return_freed_memory
from tool.train.optimiser import make_optimizer, param_groups
from tool.train.precision import amp_dtype, fast_forward, has_bf16, hold_convolutions
from voc12.classes import NUM_CLASSES, VOC
from voc12.synth import scene

BENCHMARKS: dict[str, Callable[[], list[dict]]] = {}


def benchmark(function: Callable[[], list[dict]]) -> Callable:
    """Register a benchmark: a function that returns rows of `row`."""
    BENCHMARKS[function.__name__] = function
    return function


def row(what: str, unit: str, plain_value: float, our_value: float, note: str = '') -> dict:
    return {
        'what': what,
        'unit': unit,
        'plain': plain_value,
        'ours': our_value,
        'ratio': plain_value / our_value,
        'note': note,
    }


def _labels(n: int, generator: torch.Generator) -> torch.Tensor:
    """One to four classes a picture."""
    label = torch.zeros(n, 20)
    for picture in range(n):
        label[picture, torch.randperm(20, generator=generator)[: 1 + picture % 4]] = 1
    return label


@benchmark
def contrast_loss() -> list[dict]:
    """Forward and backward at N = 8."""
    generator = torch.Generator().manual_seed(0)
    label = _labels(8, generator)
    leaves = [
        torch.rand(8, channels, side, side, generator=generator, requires_grad=True)
        for side in (56, 16)
        for channels in (128, 21)
    ]
    theirs = seconds(lambda: plain.contrast_loss(*leaves, label).backward(), 9)
    ours = seconds(lambda: contrast.contrast_loss(*leaves, label)['loss_nce'].backward(), 9)
    return [row('contrast loss, N = 8', 's', theirs, ours, 'forward + backward')]


@benchmark
def seam_loss() -> list[dict]:
    """Forward and backward at N = 8, views of 448 and 128 pixels."""
    generator = torch.Generator().manual_seed(0)
    label = _labels(8, generator)
    leaves = [
        torch.randn(8, 21, side, side, generator=generator, requires_grad=True)
        for side in (56, 56, 16, 16)
    ]
    sizes = {'size1': (448, 448), 'size2': (128, 128)}
    theirs = seconds(lambda: sum(plain.seam_loss(*leaves, label, **sizes).values()).backward(), 3)
    ours = seconds(
        lambda: sum(
            seam_losses.seam_loss(*leaves, label, **sizes, max_classes=4).values()
        ).backward(),
        3,
    )
    return [
        row(
            'SEAM losses, N = 8, 448',
            's',
            theirs,
            ours,
            'forward + backward, 21 channels against at most 4',
        )
    ]


@benchmark
def eval_curve() -> list[dict]:
    """60 background scores over files of 500×375."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        names = [f'{i:04d}' for i in range(4)]
        for name in names:
            classes = rng.choice(20, 3, replace=False)
            write_npy(
                os.path.join(folder, name + '.npy'),
                {int(c): rng.random((375, 500), np.float32) for c in classes},
            )
            write_mask(
                os.path.join(folder, name + '.png'), rng.integers(0, NUM_CLASSES, (375, 500))
            )

        def ours():
            histogram = 0
            for name in names:
                truth = read_mask(os.path.join(folder, name + '.png'), VOC)
                histogram = histogram + curve_histogram(
                    read_cam(os.path.join(folder, name + '.npy'), VOC, truth.shape),
                    truth,
                    NUM_CLASSES,
                )
            return iou(curve_confusions(histogram)).mean(1)

        def pictures():
            for name in names:
                yield (
                    read_cam(os.path.join(folder, name + '.npy'), VOC),
                    read_mask(os.path.join(folder, name + '.png'), VOC),
                )

        theirs = seconds(lambda: [plain.miou(pictures(), t, NUM_CLASSES) for t in THRESHOLDS], 1)
        return [
            row(
                'eval --curve, 500×375',
                's',
                theirs,
                seconds(ours),
                '4 pictures, 60 background scores',
            )
        ]


@benchmark
def random_walk() -> list[dict]:
    """Three classes on the features of a picture of 500×375, the published β and t."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(34, 43 * 55, generator=generator)
    cam = torch.zeros(NUM_CLASSES, 47, 63)
    cam[:3] = torch.rand(3, 47, 63, generator=generator)
    theirs = seconds(lambda: plain.random_walk(cam, pairs, 8, 6), 3)
    ours = seconds(lambda: walk.random_walk(cam, pairs))
    return [
        row('random walk, 63×47', 's', theirs, ours, '64 sparse steps against T squared 6 times')
    ]


@benchmark
def affinity_crf() -> list[dict]:
    """A picture of 500×375 with two classes, five α: time, and bytes of the maps on disk."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels, cells):
        noise = torch.rand(1, channels, cells, cells, generator=generator)
        return (
            torch.nn.functional.interpolate(noise, (375, 500), mode='bicubic')
            .clamp(0, 1)[0]
            .numpy()
        )

    image = (smooth(3, 25).transpose(1, 2, 0) * 255).astype(np.uint8)
    cam, alphas = dict(zip((7, 14), smooth(2, 5))), [4, 8, 16, 24, 32]
    results = {}
    theirs = seconds(
        lambda: results.update(plain=plain.affinity_maps(image, cam, alphas, NUM_CLASSES)), 1
    )
    ours = seconds(
        lambda: results.update(ours=crf.affinity_maps(image, cam, alphas, num_labels=NUM_CLASSES)),
        3,
    )
    with tempfile.TemporaryDirectory() as folder:
        path, sizes = os.path.join(folder, 'maps.npy'), []
        for maps in (
            results['plain'][0],
            results['ours'][0],
            {label: values.astype(np.float16) for label, values in results['ours'][0].items()},
        ):
            write_npy(path, maps)
            sizes.append(os.path.getsize(path) / 1e6)
    return [
        row(
            'aff_prepare, five α a picture',
            's',
            theirs,
            ours,
            'two classes, 500×375; against five CRFs of 21 labels',
        ),
        row(
            'la/ha file, float32',
            'MB',
            sizes[0],
            sizes[1],
            'background and two classes against 21 maps',
        ),
        row('la/ha file, float16', 'MB', sizes[0], sizes[2], 'the same with --dtype float16'),
    ]


@benchmark
def dense_crf() -> list[dict]:
    """Seeds of two classes, 500×375, ten iterations: 21 labels against the present ones and a
    stand-in."""
    rng = np.random.default_rng(0)
    image = cv2.resize(
        rng.integers(0, 256, (12, 16, 3), np.uint8), (500, 375), interpolation=cv2.INTER_CUBIC
    )
    label = cv2.resize(
        rng.choice([0, 8, 15], (12, 16)).astype(np.uint8),
        (500, 375),
        interpolation=cv2.INTER_NEAREST,
    )
    every = list(range(NUM_CLASSES))
    theirs = seconds(
        lambda: crf.crf_from_labels(image, [label], every, crf.SEED_CRF, num_labels=NUM_CLASSES), 1
    )
    ours = seconds(
        lambda: crf.crf_from_labels(
            image, [label], [0, 8, 15], crf.SEED_CRF, num_labels=NUM_CLASSES
        ),
        3,
    )
    return [
        row(
            'dense CRF from labels, 500×375',
            's',
            theirs,
            ours,
            'two classes; against all 21 labels',
        )
    ]


@benchmark
def crf_backends() -> list[dict]:
    """One picture of 500×375: numba against pydensecrf, as each is used by the stages, in
    core-seconds."""
    if importlib.util.find_spec('pydensecrf') is None:
        print('(no rows of numba against pydensecrf: the package is not installed)', flush=True)
        return []
    picture, _, _ = scene(np.random.default_rng(0))
    picture = cv2.resize(picture, (500, 375), interpolation=cv2.INTER_CUBIC)
    rng = np.random.default_rng(1)
    maps = [
        cv2.resize(rng.random((6, 8), np.float32), (500, 375), interpolation=cv2.INTER_CUBIC).clip(
            0, 1
        )
        for _ in range(NUM_CLASSES)
    ]
    three = np.stack(maps[:3]) / np.sum(maps[:3], axis=0)
    # as a trained network gives them: three labels that occur and 18 that are improbable everywhere
    probs = np.stack(maps) * np.array([1] * 3 + [0.004] * 18, np.float32)[:, None, None]
    probs /= probs.sum(0)
    cam, alphas = dict(zip((7, 14), maps)), [4, 8, 16, 24, 32]

    def seeds(backend: str) -> None:
        crf.dense_crf(picture, [crf.prob_unary(three)], crf.SEED_CRF, backend=backend)

    def affinity(backend: str) -> None:
        crf.affinity_maps(picture, cam, alphas, backend=backend)

    def deeplab(backend: str) -> None:
        crf.crf_from_probs(picture, probs, crf.DEEPLAB_CRF, backend=backend)

    rows = []
    for what, function, note in (
        ('CRF of the seeds, 3 labels', seeds, 'kernel 50/5'),
        ('CRF of aff_prepare, five α', affinity, 'kernel 80/13, two classes'),
        ('CRF of the DeepLab test', deeplab, 'kernel 67/3, 21 labels against those that can win'),
    ):
        theirs, ours = (
            seconds(functools.partial(function, backend), 5) for backend in ('pydensecrf', 'numba')
        )
        rows.append(row(what, 's', theirs, ours, f'{note}; pydensecrf against numba, one core'))
    return rows


@benchmark
def eval_png() -> list[dict]:
    """One picture of 500×375."""
    rng = np.random.default_rng(0)
    prediction, truth = (
        rng.integers(0, NUM_CLASSES, (375, 500)).astype(np.uint8) for _ in range(2)
    )
    theirs = seconds(lambda: plain.confusion_counts(prediction, truth, NUM_CLASSES), 20)
    return [
        row(
            'eval of a mask, 500×375',
            's',
            theirs,
            seconds(lambda: confusion(prediction, truth, NUM_CLASSES), 20),
            'counting only, without reading',
        )
    ]


@benchmark
def training_step() -> list[dict]:
    """SEAM with the contrast, crop 448, batch 2: forward, losses, backward, update."""
    rows, precisions = [], dict(_precisions())
    for width in (1.0, 0.25):
        times = {
            kind: in_a_process(_run_step, width, kind, repeats=2)[0]
            for kind in ('plain', *precisions)
        }
        rows += [
            row(f'training step, width {width:g}, {kind}', 's', times['plain'], times[kind], note)
            for kind, note in precisions.items()
        ]
    return rows


def _precisions() -> list[tuple[str, str]]:
    """--amp values to time with their notes: bf16 only where the processor has it."""
    off, bf16 = ('off', 'float32'), ('bf16', 'bf16 + channels_last')
    if not has_bf16():
        print('(no bf16 rows: this processor has no 16-bit instructions)', flush=True)
        return [off]
    return [off, bf16]


def _run_step(width: float, kind: str) -> Callable:
    torch.manual_seed(0)
    net = find_net('network.resnet38_contrast')(width).train()
    optimizer = make_optimizer('sgd', param_groups(net, net.new_layers(), 1e-4, 5e-4), 1e-4, 5e-4)
    batch = {'image': torch.randn(2, 3, 448, 448), 'label': torch.eye(20)[[3, 7]]}
    forward = fast_forward(net, torch.device('cpu'), 'off' if kind == 'plain' else kind)
    seam = BASELINES['seam']
    options = LossOptions(max_classes=1, contrast=seam.contrast_options())
    losses_of = seam.losses
    if kind == 'plain':
        losses_of, net.features = _plain_step, functools.partial(plain.resnet38, net)
    else:
        to_device(net, torch.device('cpu'))
        keep_freed_memory()

    def step():
        optimizer.zero_grad()
        losses_of(forward, batch, options)['loss'].backward()
        optimizer.step()

    return step


def _plain_step(forward: Callable, batch: dict, options: LossOptions) -> dict:
    small = plain.upsample(batch['image'], (options.view2_size,) * 2)
    cam1, cam_rv1, f_proj1, _ = forward(batch['image'], upsample=False)
    cam2, cam_rv2, f_proj2, _ = forward(small, upsample=False)
    terms = plain.seam_loss(
        cam1, cam_rv1, cam2, cam_rv2, batch['label'], (448, 448), (options.view2_size,) * 2
    )
    return {
        'loss': sum(terms.values())
        + plain.contrast_loss(f_proj1, cam_rv1, f_proj2, cam_rv2, batch['label'])
    }


@benchmark
def pcm() -> list[dict]:
    """The PCM at scale 2 of a picture of 500×375 (94×125 features), time and peak memory."""
    (theirs, theirs_mb), (ours, ours_mb) = (
        in_a_process(_run_pcm, kind) for kind in ('plain', 'ours')
    )
    note = 'slabs of columns against the whole hw × hw matrix'
    return [
        row('PCM at scale 2', 's', theirs, ours, note),
        row('PCM at scale 2, memory', 'MB', theirs_mb, ours_mb, note),
    ]


def _run_pcm(kind: str) -> Callable:
    if kind == 'plain':
        cam_net.SLAB = 1 << 60
    generator = torch.Generator().manual_seed(0)
    maps, feature = (
        torch.rand(1, channels, 94, 125, generator=generator) for channels in (21, 192)
    )
    return torch.inference_mode()(lambda: cam_net.correlate(maps, feature))


@benchmark
def cam_inference() -> list[dict]:
    """All scales and mirrors of a picture of 500×375 with two classes at width 1, and the peak
    memory of the process."""
    (theirs, theirs_mb), rows = in_a_process(_run_inference, 'plain'), []
    for kind, note in _precisions():
        ours, ours_mb = in_a_process(_run_inference, kind)
        rows += [
            row(
                f'CAM inference, width 1, {kind}',
                's',
                theirs,
                ours,
                note + ', against eight passes one by one',
            ),
            row(
                f'CAM inference, width 1, {kind}, memory',
                'MB',
                theirs_mb,
                ours_mb,
                'weights included',
            ),
        ]
    return rows


def _run_inference(kind: str) -> Callable:
    torch.manual_seed(0)
    net = find_net('network.resnet38_contrast')().eval()
    views = [
        torch.randn(2, 3, round(375 * scale), round(500 * scale)) for scale in (0.5, 1, 1.5, 2)
    ]
    if kind == 'plain':
        cam_net.SLAB = 1 << 60
        return lambda: plain.seam_seeds(net, views, (375, 500), torch.eye(20)[[3, 7]].sum(0))
    to_device(net, torch.device('cpu'))
    dtype = amp_dtype(kind, torch.device('cpu'))
    if dtype is None:
        return_freed_memory()
    else:
        hold_convolutions(net, dtype)

    def run():
        with torch.inference_mode(), torch.autocast('cpu', dtype, enabled=dtype is not None):
            return sum(BASELINES['seam'].maps(net, view, [3, 7], (375, 500)) for view in views)

    return run


def parse_args():
    parser = command_line.Parser(__doc__)
    parser.run.add_argument('--only', nargs='+', choices=sorted(BENCHMARKS), help='run only these')
    parser.output.add_argument('--json', help='file for the rows')
    return parser.parse_args()


def main(args):
    processor = platform.processor() or platform.machine()
    machine = f'{processor}, {torch.get_num_threads()} threads, {versions()}'
    print(machine, flush=True)
    rows = []
    print(f'{"":44}{"plain":>12}{"ours":>12}{"ratio":>9}')
    for name in args.only or BENCHMARKS:
        for result in BENCHMARKS[name]():
            rows.append(result)
            print(
                f'{result["what"]:44}{result["plain"]:>10.4g} '
                f'{result["unit"]}{result["ours"]:>10.4g} {result["unit"]}{result["ratio"]:>8.1f}x '
                f' {result["note"]}',
                flush=True,
            )
    if args.json:
        write_text(args.json, json.dumps({'machine': machine, 'rows': rows}, indent=1) + '\n')


if __name__ == '__main__':
    command_line.run(main, parse_args)
