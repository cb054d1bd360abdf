"""Ours against the plain formulation (tool.plain), same inputs, one run: python -m tool.benchmark [--only NAME ...] [--json FILE]

Prints a table of ratios. Quote the ratios: seconds are of this machine alone.
"""
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch

from tool import cli, losses, plain
from tool import random_walk as walk
from tool.crf import affinity_maps
from tool.files import read_cam, read_mask, write_mask, write_npy, write_text
from tool.log import versions
from tool.metrics import THRESHOLDS, curve_confusions, curve_histogram, iou
from voc12.classes import NUM_CLASSES

BENCHMARKS: dict[str, Callable[[], list[dict]]] = {}


def benchmark(function: Callable[[], list[dict]]) -> Callable:
    """Register a benchmark: a function that returns rows of `row`."""
    BENCHMARKS[function.__name__] = function
    return function


def row(what: str, unit: str, plain_value: float, our_value: float, note: str = '') -> dict:
    return {'what': what, 'unit': unit, 'plain': plain_value, 'ours': our_value, 'ratio': plain_value / our_value,
            'note': note}


def seconds(function: Callable, repeats: int = 5) -> float:
    """Median time of a call after one to warm up (with one repeat, of the only call)."""
    times = []
    for _ in range(repeats + (repeats > 1)):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return statistics.median(times[repeats > 1:])


def _labels(n: int, generator: torch.Generator) -> torch.Tensor:
    """One to four classes a picture."""
    label = torch.zeros(n, 20)
    for picture in range(n):
        label[picture, torch.randperm(20, generator=generator)[:1 + picture % 4]] = 1
    return label


@benchmark
def contrast_loss() -> list[dict]:
    """Forward and backward at N = 8."""
    generator = torch.Generator().manual_seed(0)
    label = _labels(8, generator)
    leaves = [torch.rand(8, channels, side, side, generator=generator, requires_grad=True)
              for side in (56, 16) for channels in (128, 21)]
    theirs = seconds(lambda: plain.contrast_loss(*leaves, label).backward(), 9)
    ours = seconds(lambda: losses.contrast_loss(*leaves, label)['loss_nce'].backward(), 9)
    return [row('contrast loss, N = 8', 's', theirs, ours, 'forward + backward')]


@benchmark
def seam_loss() -> list[dict]:
    """Forward and backward at N = 8, views of 448 and 128 pixels."""
    generator = torch.Generator().manual_seed(0)
    label = _labels(8, generator)
    leaves = [torch.randn(8, 21, side, side, generator=generator, requires_grad=True) for side in (56, 56, 16, 16)]
    sizes = {'size1': (448, 448), 'size2': (128, 128)}
    theirs = seconds(lambda: sum(plain.seam_loss(*leaves, label, **sizes).values()).backward(), 3)
    ours = seconds(lambda: sum(losses.seam_loss(*leaves, label, **sizes, max_classes=4).values()).backward(), 3)
    return [row('SEAM losses, N = 8, 448', 's', theirs, ours, 'forward + backward, 21 channels against at most 4')]


@benchmark
def eval_curve() -> list[dict]:
    """60 background scores over files of 500×375."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        names = [f'{i:04d}' for i in range(4)]
        for name in names:
            classes = rng.choice(20, 3, replace=False)
            write_npy(os.path.join(folder, name + '.npy'), {int(c): rng.random((375, 500), np.float32) for c in classes})
            write_mask(os.path.join(folder, name + '.png'), rng.integers(0, NUM_CLASSES, (375, 500)))

        def ours():
            histogram = 0
            for name in names:
                truth = read_mask(os.path.join(folder, name + '.png'))
                histogram = histogram + curve_histogram(read_cam(os.path.join(folder, name + '.npy'), truth.shape), truth)
            return iou(curve_confusions(histogram)).mean(1)

        theirs = seconds(lambda: [plain.miou(folder, folder, names, t) for t in THRESHOLDS], 1)
        return [row('eval --curve, 500×375', 's', theirs, seconds(ours), '4 pictures, 60 background scores')]


@benchmark
def random_walk() -> list[dict]:
    """Three classes on the features of a picture of 500×375, the published β and t."""
    generator = torch.Generator().manual_seed(0)
    pairs = torch.rand(34, 43 * 55, generator=generator)
    cam = torch.zeros(NUM_CLASSES, 47, 63)
    cam[:3] = torch.rand(3, 47, 63, generator=generator)
    theirs = seconds(lambda: plain.random_walk(cam, pairs, 8, 6), 3)
    ours = seconds(lambda: walk.random_walk(cam, pairs))
    return [row('random walk, 63×47', 's', theirs, ours, '64 sparse steps against T squared 6 times')]


@benchmark
def affinity_crf() -> list[dict]:
    """A picture of 500×375 with two classes, five α: time, and bytes of the maps on disk."""
    generator = torch.Generator().manual_seed(0)

    def smooth(channels, cells):
        noise = torch.rand(1, channels, cells, cells, generator=generator)
        return torch.nn.functional.interpolate(noise, (375, 500), mode='bicubic').clamp(0, 1)[0].numpy()
    image = (smooth(3, 25).transpose(1, 2, 0) * 255).astype(np.uint8)
    cam, alphas = dict(zip((7, 14), smooth(2, 5))), [4, 8, 16, 24, 32]
    results = {}
    theirs = seconds(lambda: results.update(plain=plain.affinity_maps(image, cam, alphas)), 1)
    ours = seconds(lambda: results.update(ours=affinity_maps(image, cam, alphas)), 3)
    with tempfile.TemporaryDirectory() as folder:
        path, sizes = os.path.join(folder, 'maps.npy'), []
        for maps in (results['plain'][0], results['ours'][0],
                     {label: values.astype(np.float16) for label, values in results['ours'][0].items()}):
            write_npy(path, maps)
            sizes.append(os.path.getsize(path) / 1e6)
    return [row('aff_prepare, five α a picture', 's', theirs, ours, 'two classes, 500×375; against five CRFs of 21 labels'),
            row('la/ha file, float32', 'MB', sizes[0], sizes[1], 'background and two classes against 21 maps'),
            row('la/ha file, float16', 'MB', sizes[0], sizes[2], 'the same with --dtype float16')]


def parse_args():
    parser = cli.Parser(__doc__)
    parser.add_argument('--only', nargs='+', choices=sorted(BENCHMARKS), help='run only these')
    parser.add_argument('--json', help='file for the rows')
    return parser.parse_args()


def main(args):
    machine = f'{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, {versions()}'
    print(machine, flush=True)
    rows = []
    print(f'{"":44}{"plain":>12}{"ours":>12}{"ratio":>9}')
    for name in args.only or BENCHMARKS:
        for result in BENCHMARKS[name]():
            rows.append(result)
            print(f'{result["what"]:44}{result["plain"]:>10.4g} {result["unit"]}{result["ours"]:>10.4g} {result["unit"]}'
                  f'{result["ratio"]:>8.1f}x  {result["note"]}', flush=True)
    if args.json:
        write_text(args.json, json.dumps({'machine': machine, 'rows': rows}, indent=1) + '\n')


if __name__ == '__main__':
    cli.run(main, parse_args)
