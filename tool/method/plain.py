"""The method written down plainly, with loops: what the tests and tool.benchmark compare with.

No stage uses this module. It is slow on purpose, and takes every step as docs/method.md has it.
"""

import math
import random
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tool.method.affinity import dense_affinity
from tool.method.class_set import IGNORE
from tool.method.crf import AFFINITY_CRF, dense_crf


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


# ---------------------------------------------------------------- SEAM's losses (§3.1, §3.2)


def scale(maps: torch.Tensor) -> torch.Tensor:
    """norm(p) of §3.1."""
    maps = F.relu(maps)
    low = maps.amin((2, 3), keepdim=True)
    high = maps.amax((2, 3), keepdim=True)
    return F.relu(maps - low - 1e-5) / (high - low + 1e-5)


def one_hot(maps: torch.Tensor) -> torch.Tensor:
    """Maps without gradient whose pixels keep only their strongest foreground class."""
    maps = maps.detach()
    background = maps[:, :1]
    foreground = maps[:, 1:]
    strongest = foreground.amax(1, keepdim=True)
    return torch.cat([background, foreground * (foreground == strongest)], 1)


def with_new_background(maps: torch.Tensor) -> torch.Tensor:
    """Maps whose background is 1 − the strongest foreground."""
    foreground = maps[:, 1:]
    return torch.cat([1 - foreground.amax(1, keepdim=True), foreground], 1)


def rvmin(cam_rv: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """rvmin of §3.2; cam_rv [N, C, H, W] at full size, label [N, K]."""
    strongest = (cam_rv[:, 1:] * label[..., None, None]).amax(1).flatten(1)
    quarter = strongest.shape[1] // 4
    weakest = strongest.topk(quarter, largest=False).values
    return F.relu(weakest).mean()


def mean_of_largest(difference: torch.Tensor, count: int) -> torch.Tensor:
    """Mean over pictures of the `count` largest absolute values of each."""
    return difference.abs().flatten(1).topk(count).values.mean()


def seam_loss(
    cam1: torch.Tensor,
    cam_rv1: torch.Tensor,
    cam2: torch.Tensor,
    cam_rv2: torch.Tensor,
    label: torch.Tensor,
    size1: tuple[int, int],
    size2: tuple[int, int],
) -> dict[str, torch.Tensor]:
    """SEAM's losses with all channels at full size; maps at feature size, background first."""
    own = torch.cat([torch.ones_like(label[:, :1]), label], 1)[..., None, None]
    cam1 = upsample(cam1, size1)
    cam_rv1 = upsample(cam_rv1, size1)
    cam2 = upsample(cam2, size2)
    cam_rv2 = upsample(cam_rv2, size2)

    cls1 = F.multilabel_soft_margin_loss(cam1.mean((2, 3))[:, 1:], label)
    cls2 = F.multilabel_soft_margin_loss(cam2.mean((2, 3))[:, 1:], label)
    loss_cls = (cls1 + cls2) / 2 + (rvmin(cam_rv1, label) + rvmin(cam_rv2, label)) / 2

    a1 = upsample(scale(cam1), size2) * own
    b1 = upsample(scale(cam_rv1), size2) * own
    a2 = upsample(scale(cam2), size2) * own
    b2 = upsample(scale(cam_rv2), size2) * own
    loss_er = (a1[:, 1:] - a2[:, 1:]).abs().mean()

    count = int(cam1.shape[1] * size2[0] * size2[1] * 0.2)
    ecr1 = mean_of_largest(one_hot(with_new_background(a2)) - b1, count)
    ecr2 = mean_of_largest(one_hot(with_new_background(a1)) - b2, count)
    return {'loss_cls': loss_cls, 'loss_er': loss_er, 'loss_ecr': ecr1 + ecr2}


# ---------------------------------------------------------------- the contrast (§3.3)


@torch.no_grad()
def contrast_scores(cam_rv: torch.Tensor, bg_index: int, bg_threshold: float) -> torch.Tensor:
    """Scores s [N, C, h, w]."""
    scores = F.relu(cam_rv)
    low = scores.amin((2, 3), keepdim=True)
    high = scores.amax((2, 3), keepdim=True)
    scores[scores < low + 1e-5] = 0
    scores = (scores - low - 1e-5) / (high - low + 1e-5)
    scores[:, bg_index] = bg_threshold
    return scores


@torch.no_grad()
def prototypes_of(pixels: torch.Tensor, scores: torch.Tensor, count: int) -> torch.Tensor:
    """Prototypes [C, D] of pixels [M, D], class after class, each of its `count` best pixels."""
    values, indices = scores.transpose(0, 1).flatten(1).topk(count, dim=1)
    prototypes = torch.zeros(len(values), pixels.shape[1])
    for c in range(len(values)):
        weights = values[c][:, None]
        prototypes[c] = (weights * pixels[indices[c]]).sum(0) / weights.sum()
    return F.normalize(prototypes, dim=1)


def similarities(pixels: torch.Tensor, prototypes: torch.Tensor) -> torch.Tensor:
    """q · p of every pixel and prototype [M, C], with a copy of all prototypes for each pixel."""
    copies = prototypes[None].repeat(len(pixels), 1, 1)
    return (copies * pixels[:, None]).sum(2)


def nce(
    pixels: torch.Tensor, labels: torch.Tensor, prototypes: torch.Tensor, temperature: float
) -> torch.Tensor:
    """Mean over pixels of −log(exp(q · p_y / τ) / Σ_c exp(q · p_c / τ))."""
    positive = torch.exp((pixels * prototypes[labels]).sum(1) / temperature)
    every = torch.exp(similarities(pixels, prototypes) / temperature).sum(1)
    return -torch.log(positive / every).mean()


def intra_view(
    pixels: torch.Tensor,
    labels: torch.Tensor,
    prototypes: torch.Tensor,
    temperature: float,
    draw: Callable[[list[int], int], list[int]],
) -> torch.Tensor:
    """Intra-view contrast: semi-hard prototypes (ranks 4 … 13), hard pixels, class after class."""
    positive = (pixels * prototypes[labels]).sum(1)
    ranked = similarities(pixels, prototypes).sort(dim=1, descending=True).values
    negative = torch.exp(ranked[:, 3:13] / temperature).sum(1)
    found = labels.unique().tolist()
    total = torch.zeros(())
    for c in found:
        own = (labels == c).nonzero().flatten()
        half = len(own) // 2
        if half == 0:
            continue
        random_half = draw(own.tolist(), half)
        least_alike = own[positive[own].argsort(stable=True)][: int(len(own) * 0.6)]
        hard_half = least_alike[-half:].tolist()
        chosen = random_half + hard_half
        top = torch.exp(positive[chosen] / temperature)
        total = total - torch.log(top / (top + negative[chosen])).mean()
    return total / len(found)


def contrast_loss(
    f_proj1: torch.Tensor,
    cam_rv_down1: torch.Tensor,
    f_proj2: torch.Tensor,
    cam_rv_down2: torch.Tensor,
    label: torch.Tensor,
    *,
    bg_index: int = 0,
    bg_threshold: float = 0.20,
    top_fraction: float = 1 / 8,
    temperature: float = 0.1,
    weight: float = 0.1,
    draw: Callable[[list[int], int], list[int]] = random.sample,
) -> torch.Tensor:
    """The contrast; `draw(pixels, n)` picks the random half of a class."""
    background_label = torch.ones_like(label[:, :1])
    if bg_index == 0:
        own = torch.cat([background_label, label], 1)
    else:
        own = torch.cat([label, background_label], 1)
    height, width = f_proj2.shape[2:]
    f_proj1 = upsample(f_proj1, (height, width))
    cam_rv_down1 = upsample(cam_rv_down1, (height, width))
    count = int(height * width * top_fraction)

    scores1 = contrast_scores(cam_rv_down1, bg_index, bg_threshold)
    scores2 = contrast_scores(cam_rv_down2, bg_index, bg_threshold)
    labels1 = (scores1 * own[..., None, None]).softmax(1).argmax(1).flatten()
    labels2 = (scores2 * own[..., None, None]).softmax(1).argmax(1).flatten()
    features1 = f_proj1.permute(0, 2, 3, 1).flatten(0, 2)
    features2 = f_proj2.permute(0, 2, 3, 1).flatten(0, 2)
    prototypes1 = prototypes_of(features1, scores1, count)
    prototypes2 = prototypes_of(features2, scores2, count)
    pixels1 = F.normalize(features1, dim=1)
    pixels2 = F.normalize(features2, dim=1)

    cross_prototype = nce(pixels1, labels1, prototypes2, temperature)
    cross_prototype = cross_prototype + nce(pixels2, labels2, prototypes1, temperature)
    cross_cam = nce(pixels1, labels2, prototypes1, temperature)
    cross_cam = cross_cam + nce(pixels2, labels1, prototypes2, temperature)
    intra = intra_view(pixels1, labels1, prototypes1, temperature, draw)
    intra = intra + intra_view(pixels2, labels2, prototypes2, temperature, draw)
    return weight * (cross_prototype / 2 + cross_cam / 2 + intra / 2)


# ---------------------------------------------------------------- scores


def miou(
    pictures: Iterable[tuple[dict[int, np.ndarray], np.ndarray]], threshold: float, num_classes: int
) -> float:
    """mIoU in percent at one background score.

    Args:
        pictures: (CAMs {foreground class: [H, W]}, truth [H, W]) of each.
    """
    hits = np.zeros(num_classes)
    predicted = np.zeros(num_classes)
    true = np.zeros(num_classes)
    for cams, truth in pictures:
        stack = np.zeros((num_classes, *truth.shape), np.float32)
        stack[0] = threshold
        for key, cam in cams.items():
            stack[key + 1] = cam
        counts = confusion_counts(stack.argmax(0), truth, num_classes)
        hits += counts[0]
        predicted += counts[1]
        true += counts[2]
    union = np.maximum(predicted + true - hits, 1)
    return float(np.mean(100 * hits / union))


def confusion_counts(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Hits, predicted and true pixels [3, C] of one picture, a comparison for each class."""
    valid = truth != IGNORE
    counts = np.zeros((3, num_classes))
    for c in range(num_classes):
        is_predicted = (prediction == c) & valid
        is_true = (truth == c) & valid
        counts[0, c] = (is_predicted & is_true).sum()
        counts[1, c] = is_predicted.sum()
        counts[2, c] = is_true.sum()
    return counts


# ---------------------------------------------------------------- networks (§1, §2, §5)


def convolve(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor:
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding, layer.dilation)


def bn_relu(bn: nn.BatchNorm2d, x: torch.Tensor) -> torch.Tensor:
    """ReLU of a BatchNorm in eval mode."""
    x = F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps)
    return F.relu(x, inplace=True)


def resnet38(net: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Taps conv4, conv5, conv6 of a ResNet-38 with its BatchNorm in eval mode, layer by layer."""
    taps = {}
    x = convolve(net.conv1a, x)
    for name, block in net.named_children():
        if not name.startswith('b') or name == 'bn7':
            continue
        first = bn_relu(block.bn_branch2a, x)
        if name == 'b5':
            taps['conv4'] = first
        if name == 'b6':
            taps['conv5'] = first
        y = bn_relu(block.bn_branch2b1, convolve(block.conv_branch2a, first))
        is_bottleneck = hasattr(block, 'conv_branch2b2')
        if is_bottleneck:
            y = convolve(block.conv_branch2b1, block.dropout_2b1(y))
            y = bn_relu(block.bn_branch2b2, y)
            y = convolve(block.conv_branch2b2, block.dropout_2b2(y))
        else:
            y = convolve(block.conv_branch2b1, y)
        shortcut = convolve(block.conv_branch1, first) if hasattr(block, 'conv_branch1') else x
        x = shortcut + y
    taps['conv6'] = bn_relu(net.bn7, x)
    return taps


def views(
    image: Image.Image, scales: Iterable[float], mean: Iterable[float], std: Iterable[float]
) -> list[torch.Tensor]:
    """A PIL picture at every scale, normalised, with its mirror image: [2, 3, h, w] each."""
    width, height = image.size
    made = []
    for scale in scales:
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        resized = image.resize(size, Image.Resampling.BICUBIC)
        pixels = np.asarray(resized, np.float32) / np.float32(255)
        normalised = (pixels - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
        channels_first = np.ascontiguousarray(normalised.transpose(2, 0, 1))
        mirrored = np.ascontiguousarray(channels_first[:, :, ::-1])
        made.append(torch.from_numpy(np.stack([channels_first, mirrored])))
    return made


@torch.inference_mode()
def seam_seeds(
    net: Any, views: list[torch.Tensor], size: tuple[int, int], label: torch.Tensor
) -> torch.Tensor:
    """Maps [K, H, W] summed over all views, one pass each with every channel brought to full size.

    Args:
        views: [2, 3, h, w] for each scale, a picture and its mirror image.
        label: [K].
    """
    total = torch.zeros(len(label), *size)
    for view in views:
        for mirrored in (False, True):
            x = view[int(mirrored)][None]
            taps = resnet38(net, x)
            cam_rv = net.refine(x, taps, net.fc8(taps['conv6']))
            cam_rv = upsample(cam_rv, (x.shape[2], x.shape[3]))[:, 1:]
            maps = F.interpolate(cam_rv, size, mode='bilinear', align_corners=False)[0]
            maps = maps * label[:, None, None]
            if mirrored:
                maps = maps.flip(2)
            total = total + maps
    return total


# ---------------------------------------------------------------- walk and CRF (§6, §7)


def random_walk(cam: torch.Tensor, pairs: torch.Tensor, beta: float, logt: int) -> torch.Tensor:
    """cam · T^(2^logt) by squaring the dense T; cam [C, h, w], pairs [offsets, pixels]."""
    height, width = cam.shape[1:]
    return dense_walk(cam, dense_affinity(pairs, height, width), beta, logt)


def dense_walk(cam: torch.Tensor, affinity: torch.Tensor, beta: float, logt: int) -> torch.Tensor:
    """cam · T^(2^logt) by squaring the dense T; cam [C, h, w], affinity [h·w, h·w]."""
    step = affinity**beta
    step = step / step.sum(0, keepdim=True)
    for _ in range(logt):
        step = step @ step
    return (cam.flatten(1) @ step).view(cam.shape)


def dense_steps(cam: torch.Tensor, affinity: torch.Tensor, beta: float, steps: int) -> torch.Tensor:
    """The same walk, cam · T^steps, in so many products of the scores and the dense T."""
    step = affinity**beta
    step = step / step.sum(0, keepdim=True)
    scores = cam.flatten(1)
    for _ in range(steps):
        scores = scores @ step
    return scores.view(cam.shape)


def boundary_affinity(boundary: torch.Tensor, radius: int) -> torch.Tensor:
    """Affinities of a boundary map [h, w] (§10.13), [h·w, h·w]: 1 on the diagonal.

    Every pixel is paired with all pixels of the map that are less than `radius` away.
    """
    height, width = boundary.shape
    values = boundary.tolist()
    affinity = torch.eye(height * width)
    for first in range(height * width):
        row1, column1 = divmod(first, width)
        for row2 in range(row1, min(row1 + radius, height)):
            for column2 in range(width):
                second = row2 * width + column2
                is_near = (row1 - row2) ** 2 + (column1 - column2) ** 2 < radius**2
                if second <= first or not is_near:
                    continue
                highest = 0.0
                for row, column in pixels_between(row1, column1, row2, column2):
                    highest = max(highest, values[row][column])
                affinity[first, second] = affinity[second, first] = 1 - highest
    return affinity


def pixels_between(row1: int, column1: int, row2: int, column2: int) -> list[tuple[int, int]]:
    """The pixels (row, column) of the rectangle between two pixels that are less than 1 from the
    line through them."""
    length = math.hypot(row2 - row1, column2 - column1)
    found = []
    for row in range(min(row1, row2), max(row1, row2) + 1):
        for column in range(min(column1, column2), max(column1, column2) + 1):
            across = (row2 - row1) * (column - column1) - (column2 - column1) * (row - row1)
            if abs(across) / length < 1:
                found.append((row, column))
    return found


def affinity_maps(
    image: np.ndarray, cam: dict[int, np.ndarray], alphas: list[float], num_labels: int
) -> list[np.ndarray]:
    """AffinityNet's CRF maps float32 [C, H, W], one for each α, with all labels and new kernels."""
    maps = []
    for alpha in alphas:
        scores = np.zeros((num_labels, *image.shape[:2]), np.float32)
        for class_id, values in cam.items():
            scores[class_id + 1] = values
        scores[0] = (1 - scores[1:].max(0)) ** np.float32(alpha)
        unary = np.full(scores.shape, -np.log(0.3 / (num_labels - 1)), np.float32)
        np.put_along_axis(unary, scores.argmax(0)[None], -np.log(0.7), 0)
        maps.append(dense_crf(image, [unary], AFFINITY_CRF)[0])
    return maps


def lattice_filter(features: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A permutohedral lattice with a dictionary of vertices and a loop over pixels (Adams, Baek,
    Davis 2010, section 3).

    Args:
        features: [d, N], divided by their sigmas. values: [N].
    Returns:
        [N], the filtered values without normalisation.
    """
    dimensions, pixels = features.shape
    size = dimensions + 1
    corners = []  # for each pixel {vertex: barycentric weight}
    for pixel in range(pixels):
        point = _embedded(features[:, pixel].astype(np.float64))
        corners.append(_simplex(point))
    vertices: dict[tuple[int, ...], float] = {}
    for pixel in range(pixels):
        for vertex, weight in corners[pixel].items():
            vertices[vertex] = vertices.get(vertex, 0) + weight * values[pixel]
    for direction in range(size):
        step = np.full(size, -1)
        step[direction] = dimensions
        blurred = {}
        for vertex, value in vertices.items():
            after = vertices.get(tuple(np.add(vertex, step)), 0)
            before = vertices.get(tuple(np.subtract(vertex, step)), 0)
            blurred[vertex] = value + (before + after) / 2
        vertices = blurred
    result = np.zeros(pixels)
    for pixel in range(pixels):
        for vertex, weight in corners[pixel].items():
            result[pixel] += weight * vertices[vertex]
    return result / (1 + 2.0**-dimensions)


def _embedded(feature: np.ndarray) -> np.ndarray:
    """A point [d] in the plane of points whose d + 1 coordinates add up to 0, scaled so that the
    blur has variance 1."""
    dimensions = len(feature)
    point = np.zeros(dimensions + 1)
    for i in range(dimensions):
        direction = np.zeros(dimensions + 1)
        direction[: i + 1] = 1
        direction[i + 1] = -(i + 1)
        length = np.sqrt((i + 1) * (i + 2))
        point += feature[i] * direction / length
    return point * np.sqrt(2 / 3) * (dimensions + 1)


def _simplex(point: np.ndarray) -> dict[tuple[int, ...], float]:
    """The corners of the simplex that a point of the plane lies in, with its barycentric
    weights."""
    size = len(point)
    corner = np.round(point / size) * size
    # the coordinate that was rounded down most comes first
    by_distance = np.argsort(corner - point, kind='stable')
    off_plane = int(round(corner.sum() / size))
    if off_plane > 0:  # too many were rounded up: the last ones go down again
        corner[by_distance[size - off_plane :]] -= size
    else:
        corner[by_distance[:-off_plane]] += size
    difference = point - corner
    order = np.argsort(-difference, kind='stable')
    sorted_difference = difference[order] / size
    corners = {}
    for remainder in range(size):
        # the corner of remainder r: + r everywhere, − (d + 1) in the r coordinates that come last
        vertex = corner + remainder
        vertex[order[size - remainder :]] -= size
        if remainder == 0:
            weight = 1 - (sorted_difference[0] - sorted_difference[-1])
        else:
            weight = sorted_difference[size - 1 - remainder] - sorted_difference[size - remainder]
        corners[tuple(int(round(value)) for value in vertex)] = weight
    return corners
