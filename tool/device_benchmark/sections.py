"""The sections of `tool.benchmark --device`: each measures one matter and returns rows.

Every section runs on any device; what only a GPU has is left out elsewhere, and the row says so.
"""

import collections
import functools
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from network.baselines import BASELINES
from network.cam_inference import seeds
from network.device import to_device
from network.weights import find_net
from tool.device_benchmark.crf_pictures import crf_pictures
from tool.device_benchmark.stage_step import STAGES, Setting, make_step
from tool.method import random_walk
from tool.method.affinity import FEATURE_STRIDE, pair_indices
from tool.method.crf import (
    TEST_CRFS,
    CrfPreset,
    check_backend,
    crf_from_probs,
    dense_crf,
    prob_unary,
    refine_mask,
)
from tool.method.metrics import cam_prediction
from tool.method.torch_crf import crf_labels, lattices_of
from tool.run.command_line import default_jobs
from tool.run.groups import ON_GPU
from tool.run.pool import Pool
from tool.train.precision import (
    DTYPES,
    allow_tf32,
    choose_algorithms,
    hold_convolutions,
)
from voc12.classes import NUM_CLASSES

GIB = 2**30
CLASSES = [3, 7]  # of a picture in inference


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    section: str
    # what is measured
    what: str
    value: float
    unit: str
    note: str = ''


SECTIONS: dict[str, Callable[[Setting], list[Row]]] = {}


def section(function: Callable[[Setting], list[Row]]) -> Callable:
    """Register a section. It leaves PyTorch's choice of algorithms as it found it."""

    @functools.wraps(function)
    def measured(setting: Setting) -> list[Row]:
        try:
            return function(setting)
        finally:
            torch.use_deterministic_algorithms(False)
            torch.backends.cudnn.benchmark = False

    SECTIONS[function.__name__] = measured
    return measured


def wait(device: torch.device) -> None:
    """Wait until a GPU has done all that it was given."""
    if device.type == 'cuda':
        torch.cuda.synchronize(device)


def precisions(device: torch.device) -> tuple[str, ...]:
    """The values of --amp to measure."""
    return ('off', 'bf16', 'fp16') if device.type == 'cuda' else ('off', 'bf16')


def seconds_a_call(call: Callable[[int], object], count: int, device: torch.device) -> float:
    """Mean time of `count` calls, after two to warm up; each gets its number."""
    for number in range(2):
        call(number)
    wait(device)
    start = time.perf_counter()
    for number in range(count):
        call(number)
    wait(device)
    return (time.perf_counter() - start) / count


@section
def steps(setting: Setting) -> list[Row]:
    """Time and memory of a training step, by stage and precision."""
    device = setting.device
    is_gpu = device.type == 'cuda'
    rows = []
    for stage in STAGES:
        for amp in precisions(device):
            for deterministic in (True, False) if is_gpu else (True,):
                choose_algorithms(device, deterministic)
                step = make_step(stage, setting, amp)
                if is_gpu:
                    torch.cuda.reset_peak_memory_stats(device)
                took = seconds_a_call(step.run, setting.steps, device)
                what = f'{stage}, {amp}, {"deterministic" if deterministic else "fast"}'
                note = f'{setting.batch / took:.1f} pictures/s'
                rows.append(Row('steps', what, 1000 * took, 'ms', note))
                if is_gpu:
                    peak = torch.cuda.max_memory_allocated(device) / GIB
                    rows.append(Row('steps', f'{what}, peak', peak, 'GiB'))
                del step
    return rows


@section
def waits(setting: Setting) -> list[Row]:
    """The number of waits of the host for the GPU in a training step; PyTorch itself watches.

    With fp16 the gradient scaler has to wait once, to learn whether the step is to be skipped.
    """
    device = setting.device
    is_gpu = device.type == 'cuda'
    rows = []
    for stage in STAGES:
        for amp in precisions(device):
            choose_algorithms(device, True)
            step = make_step(stage, setting, amp)
            step.run(0)
            wait(device)
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter('always')
                if is_gpu:
                    torch.cuda.set_sync_debug_mode('warn')
                step.run(1)
                if is_gpu:
                    torch.cuda.set_sync_debug_mode('default')
            places = [f'{warning.filename}:{warning.lineno}' for warning in seen]
            found = [
                place
                for place, warning in zip(places, seen)
                if 'synchroniz' in str(warning.message)
            ]
            note = ' '.join(found) if is_gpu else 'not a GPU: nothing is waited for'
            rows.append(Row('waits', f'{stage}, {amp}', len(found), 'waits', note))
    return rows


@section
def parity(setting: Setting) -> list[Row]:
    """Losses and gradients of a step against those of the CPU, at a small width and size."""
    rows = []
    small = replace(setting, width=min(setting.width, 1 / 8), crop=min(setting.crop, 128), batch=2)
    on_cpu = replace(small, device=torch.device('cpu'))
    for stage in STAGES:
        expected = _terms_and_gradients(stage, on_cpu)
        for tf32 in (False, True) if setting.device.type == 'cuda' else (False,):
            choose_algorithms(setting.device, True)
            allow_tf32(tf32)
            terms, gradients = _terms_and_gradients(stage, small)
            allow_tf32(True)
            what = f'{stage}, {"TF32" if tf32 else "float32"}'
            loss = _difference([expected[0]['loss']], [terms['loss']])
            worst = _difference(expected[1], gradients)
            rows.append(Row('parity', f'{what}, loss', loss, 'relative'))
            rows.append(Row('parity', f'{what}, gradients', worst, 'relative', 'the worst tensor'))
    return rows


def _terms_and_gradients(
    stage: str, setting: Setting
) -> tuple[dict[str, torch.Tensor], list[torch.Tensor]]:
    """Of the first step of a stage, without random choices, on the CPU."""
    step = make_step(stage, setting, random_choices=False)
    terms = {name: value.cpu() for name, value in step.run(0).items()}
    gradients = []
    for parameter in step.net.parameters():
        if parameter.grad is not None:
            gradients.append(parameter.grad.cpu())
    return terms, gradients


def _difference(expected: list[torch.Tensor], found: list[torch.Tensor]) -> float:
    """The largest ‖found − expected‖ / ‖expected‖ of pairs of tensors."""
    worst = 0.0
    for one, other in zip(expected, found):
        size = one.norm().clamp(min=1e-12)
        worst = max(worst, float((other - one).norm() / size))
    return worst


@section
def same_bits(setting: Setting) -> list[Row]:
    """Tensors of the weights that differ after two runs of the same steps."""
    rows = []
    for stage in STAGES:
        for amp in precisions(setting.device):
            choose_algorithms(setting.device, True)
            weights = []
            for _ in range(2):
                step = make_step(stage, setting, amp)
                for number in range(max(2, setting.steps // 2)):
                    step.run(number)
                weights.append([value.cpu() for value in step.net.state_dict().values()])
                del step
                # so that the second run finds the memory laid out differently
                torch.empty(1 << 20, device=setting.device)
            different = sum(not torch.equal(one, two) for one, two in zip(*weights))
            note = f'of {len(weights[0])}, between two runs'
            rows.append(Row('same_bits', f'{stage}, {amp}', different, 'tensors', note))
    return rows


@section
def inference(setting: Setting) -> list[Row]:
    """Pictures a second of CAM inference, without and with dense CRF in the worker processes."""
    device = setting.device
    height, width = setting.picture
    generator = torch.Generator().manual_seed(1)
    pictures = []
    for scale in setting.scales:
        size = (round(height * scale), round(width * scale))
        pixels = torch.randint(0, 256, (*size, 3), dtype=torch.uint8, generator=generator)
        pictures.append(pixels.pin_memory() if device.type == 'cuda' else pixels)
    item = {'classes': CLASSES, 'pictures': pictures, 'size': setting.picture}
    picture = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    jobs = default_jobs()
    rows = []
    for name, baseline in BASELINES.items():
        for amp in precisions(device):
            torch.manual_seed(0)
            net = to_device(find_net(baseline.network)(setting.width), device).eval()
            dtype = DTYPES[amp]
            if dtype is not None:
                hold_convolutions(net, dtype)

            def infer_group(count: int, net=net, baseline=baseline, dtype=dtype) -> list[dict]:
                return seeds(net, baseline, [item] * count, device, dtype)

            def infer(number: int, infer_group=infer_group) -> dict:
                return infer_group(1)[0]

            def infer_together(number: int, infer_group=infer_group) -> None:
                infer_group(ON_GPU)

            what = f'{name}, {amp}'
            rate = 1 / seconds_a_call(infer, setting.pictures, device)
            rows.append(Row('inference', what, rate, 'pictures/s'))
            groups = max(1, setting.pictures // ON_GPU)
            rate = ON_GPU / seconds_a_call(infer_together, groups, device)
            note = f'{ON_GPU} pictures of equal size together'
            rows.append(
                Row('inference', f'{what}, --batch_size {ON_GPU}', rate, 'pictures/s', note)
            )
            with_crf = _rate_with_crf(infer, picture, setting.pictures, jobs)
            note = f'dense CRF in {jobs} processes'
            rows.append(Row('inference', f'{what}, with CRF', with_crf, 'pictures/s', note))
    return rows


def _rate_with_crf(
    infer: Callable[[int], dict], picture: np.ndarray, count: int, jobs: int
) -> float:
    """Pictures a second of inference while a pool computes the dense CRF of the seeds."""
    with Pool(jobs) as pool:
        for _ in range(jobs):  # to start the workers
            pool.submit(crf_of_seeds, infer(0), picture)
        list(pool.finish())
        start = time.perf_counter()
        for number in range(count):
            pool.submit(crf_of_seeds, infer(number), picture)
        list(pool.finish())
        return count / (time.perf_counter() - start)


def crf_of_seeds(cam: dict[int, np.ndarray], picture: np.ndarray) -> None:
    """The dense CRF of the seeds of a picture, as contrast_infer.py --out_crf computes it."""
    labels = cam_prediction(cam, picture.shape[:2], BASELINES['seam'].png_threshold)
    class_ids = [class_index + 1 for class_index in cam]
    refine_mask(picture, labels, class_ids, num_labels=NUM_CLASSES)


@section
def crf(setting: Setting) -> list[Row]:
    """The dense CRF of DeepLab's test: core-seconds of a picture by backend, the time of the mean
    field on the device, and how many pixels get the label that numba gives them with all labels."""
    preset = TEST_CRFS['deeplab']
    assert preset is not None
    core_seconds: dict[str, list[float]] = collections.defaultdict(list)
    equal: dict[str, list[float]] = collections.defaultdict(list)
    on_device = []
    check_backend('numba')
    for picture, probs in crf_pictures(setting):

        def all_labels(picture=picture, probs=probs) -> np.ndarray:
            return dense_crf(picture, [prob_unary(probs)], preset)[0].argmax(0)

        expected = _timed('all labels', all_labels, core_seconds)
        for backend in ('numba', 'numba_fast'):
            run = functools.partial(crf_from_probs, picture, probs, preset, backend)
            mask = _timed(backend, run, core_seconds)
            equal[backend].append((mask == expected).mean())
        run = functools.partial(lattices_of, picture, preset)
        lattices = _timed('torch', run, core_seconds)
        probs_on_device = torch.from_numpy(probs).to(setting.device)
        wait(setting.device)
        start = time.perf_counter()
        mask = crf_labels(probs_on_device, lattices, preset).cpu().numpy()
        on_device.append(time.perf_counter() - start)
        equal['torch'].append((mask == expected).mean())
    rows = []
    for backend, values in core_seconds.items():
        note = 'of a picture whose size was met before'
        if backend == 'torch':
            note = f'the lattices, {note}'
        rows.append(Row('crf', backend, float(np.median(values)), 'core-s', note))
    note = 'with all copies, on the device'
    rows.append(Row('crf', 'torch, mean field', 1000 * float(np.median(on_device)), 'ms', note))
    for backend, shares in equal.items():
        note = f'mean of {len(shares)} pictures; the worst {100 * min(shares):.4f} %'
        rows.append(Row('crf', f'{backend}, equal', 100 * float(np.mean(shares)), '%', note))
    return rows + _crf_in_a_pool(setting, preset)


def _timed(what: str, run: Callable[[], Any], core_seconds: dict[str, list[float]]) -> Any:
    """The result of run(); the core-seconds that it takes are noted under `what`."""
    start = time.process_time()
    result = run()
    core_seconds[what].append(time.process_time() - start)
    return result


def _crf_in_a_pool(setting: Setting, preset: CrfPreset) -> list[Row]:
    """Pictures a second of a pool of one process and of as many as there are cores for, and what
    handing over a picture and its probabilities takes."""
    picture, probs = next(crf_pictures(setting))
    rows = []
    for jobs in sorted({1, max(1, default_jobs())}):
        with Pool(jobs) as pool:
            rates = {}
            for what, work in (('CRFs', crf_from_probs), ('hand-overs', _nothing)):
                for _ in range(jobs):  # to start the workers, and their lattices
                    pool.submit(work, picture, probs, preset)
                list(pool.finish())
                start = time.perf_counter()
                for _ in range(setting.pictures):
                    pool.submit(work, picture, probs, preset)
                list(pool.finish())
                rates[what] = setting.pictures / (time.perf_counter() - start)
        note = f'{probs.nbytes / 1e6:.1f} MB of probabilities a picture'
        for what, rate in rates.items():
            rows.append(Row('crf', f'{what}, processes: {jobs}', rate, 'pictures/s', note))
    return rows


def _nothing(picture: np.ndarray, probs: np.ndarray, preset: CrfPreset) -> None:
    """A worker that only takes what it is handed."""


@section
def walk(setting: Setting) -> list[Row]:
    """The random walk of three classes: time, and difference to the one on the CPU."""
    device = setting.device
    height = -(-setting.picture[0] // FEATURE_STRIDE)
    width = -(-setting.picture[1] // FEATURE_STRIDE)
    generator = torch.Generator().manual_seed(1)
    _, end = pair_indices(height, width)
    pairs = torch.rand(*end.shape, generator=generator)
    cam = torch.rand(3, height, width, generator=generator)
    expected = random_walk.random_walk(cam, pairs)
    on_device = (cam.to(device), pairs.to(device))

    def run(number: int) -> torch.Tensor:
        return random_walk.random_walk(*on_device)

    took = seconds_a_call(run, setting.steps, device)
    first = run(0).cpu()
    is_same = torch.equal(first, run(1).cpu())
    difference = float((first - expected).abs().max())
    return [
        Row('walk', f'{height}×{width} features', 1000 * took, 'ms'),
        Row('walk', 'difference to the CPU', difference, '', 'the largest of a value'),
        Row('walk', 'same bits twice', float(is_same), '', '1: yes'),
    ]
