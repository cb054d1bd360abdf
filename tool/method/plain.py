"""The method written down plainly, step by step, with loops: the oracle of the tests and what
tool.benchmark beats.

Nothing in a stage uses this module.
"""

import random
from collections.abc import Iterable

import numpy as np
import torch
import torch.nn.functional as F

from tool.method.affinity import dense_affinity
from tool.method.class_set import IGNORE
from tool.method.crf import AFFINITY_CRF, dense_crf


def upsample(maps: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return F.interpolate(maps, size, mode='bilinear', align_corners=True)


def seam_loss(cam1, cam_rv1, cam2, cam_rv2, label, size1, size2) -> dict[str, torch.Tensor]:
    """SEAM's losses with all 21 channels at full size (method §3.2); maps at feature size,
    background first."""
    label21 = torch.cat([torch.ones_like(label[:, :1]), label], 1)[..., None, None]
    views = [
        (upsample(cam, size), upsample(cam_rv, size))
        for cam, cam_rv, size in ((cam1, cam_rv1, size1), (cam2, cam_rv2, size2))
    ]

    def scaled(maps):
        maps = F.relu(maps)
        low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
        return F.relu(maps - low - 1e-5) / (high - low + 1e-5)

    def one_hot(maps):
        maps = maps.detach().clone()
        maps[:, 1:][maps[:, 1:] != maps[:, 1:].amax(1, keepdim=True)] = 0
        return maps

    cls = 0
    for cam, cam_rv in views:
        cls = cls + F.multilabel_soft_margin_loss(cam.mean((2, 3))[:, 1:], label) / 2
        strongest = (cam_rv * label21)[:, 1:].amax(1).flatten(1)
        cls = cls + F.relu(strongest.topk(strongest.shape[1] // 4, largest=False).values).mean() / 2
    first, first_rv, second, second_rv = (
        upsample(scaled(maps), size2) * label21 for view in views for maps in view
    )
    er = (first[:, 1:] - second[:, 1:]).abs().mean()
    first, second = (
        torch.cat([1 - maps[:, 1:].amax(1, keepdim=True), maps[:, 1:]], 1)
        for maps in (first, second)
    )
    count = int(cam1.shape[1] * size2[0] * size2[1] * 0.2)
    ecr = sum(
        (one_hot(a) - b).abs().flatten(1).topk(count).values.mean()
        for a, b in ((second, first_rv), (first, second_rv))
    )
    return {'loss_cls': cls, 'loss_er': er, 'loss_ecr': ecr}


def contrast_loss(
    f_proj1,
    cam_rv_down1,
    f_proj2,
    cam_rv_down2,
    label,
    *,
    bg_index=0,
    bg_threshold=0.20,
    top_fraction=1 / 8,
    temperature=0.1,
    weight=0.1,
    draw=random.sample,
) -> torch.Tensor:
    """The contrast with a loop over classes, a copy of all prototypes for every pixel and Python's
    sampling (method §3.3).

    `draw(pixels, n)` picks the random half of a class.
    """
    label21 = (
        torch.cat([torch.ones_like(label[:, :1]), label], 1)
        if bg_index == 0
        else torch.cat([label, torch.ones_like(label[:, :1])], 1)
    )
    size = f_proj2.shape[2:]
    views = []
    for f_proj, cam_rv in (
        (upsample(f_proj1, size), upsample(cam_rv_down1, size)),
        (f_proj2, cam_rv_down2),
    ):
        with torch.no_grad():
            scores = F.relu(cam_rv)
            low, high = scores.amin((2, 3), keepdim=True), scores.amax((2, 3), keepdim=True)
            scores[scores < low + 1e-5] = 0
            scores = (scores - low - 1e-5) / (high - low + 1e-5)
            scores[:, bg_index] = bg_threshold
            pseudo = (scores * label21[..., None, None]).softmax(1).argmax(1).flatten()
            feature = f_proj.permute(0, 2, 3, 1).flatten(0, 2)
            values, indices = (
                scores.transpose(0, 1).flatten(1).topk(int(size[0] * size[1] * top_fraction), dim=1)
            )
            protos = torch.zeros(len(values), feature.shape[1])
            for c in range(len(values)):
                protos[c] = (values[c][:, None] * feature[indices[c]]).sum(0) / values[c].sum()
            protos = F.normalize(protos, dim=1)
        views.append((F.normalize(f_proj.permute(0, 2, 3, 1).flatten(0, 2), dim=1), pseudo, protos))

    def nce(pixels, labels, protos):
        positive = torch.exp((pixels * protos[labels]).sum(1) / temperature)
        every = protos[None].repeat(len(pixels), 1, 1)
        return -torch.log(
            positive / torch.exp((every * pixels[:, None]).sum(2) / temperature).sum(1)
        ).mean()

    def intra(pixels, labels, protos):
        positive = (pixels * protos[labels]).sum(1)
        similarity = (protos[None].repeat(len(pixels), 1, 1) * pixels[:, None]).sum(2)
        negative = torch.exp(
            similarity.sort(dim=1, descending=True).values[:, 3:13] / temperature
        ).sum(1)
        total, present = 0, labels.unique().tolist()
        for c in present:
            own = (labels == c).nonzero().flatten()
            if len(own) < 2:
                continue
            by_likeness = own[positive[own].argsort(stable=True)]
            chosen = (
                draw(own.tolist(), len(own) // 2)
                + by_likeness[: int(len(own) * 0.6)][-(len(own) // 2) :].tolist()
            )
            top = torch.exp(positive[chosen] / temperature)
            total = total + -torch.log(top / (top + negative[chosen])).mean()
        return total / len(present)

    (pixels1, labels1, protos1), (pixels2, labels2, protos2) = views
    cross = nce(pixels1, labels1, protos2) + nce(pixels2, labels2, protos1)
    cross_cam = nce(pixels1, labels2, protos1) + nce(pixels2, labels1, protos2)
    return (
        weight
        / 2
        * (cross + cross_cam + intra(pixels1, labels1, protos1) + intra(pixels2, labels2, protos2))
    )


def miou(
    pictures: Iterable[tuple[dict[int, np.ndarray], np.ndarray]], threshold: float, num_classes: int
) -> float:
    """mIoU of pictures, each (CAMs {foreground class: [H, W]}, truth [H, W]), at one background
    score.

    It takes a comparison for each class of every picture.
    """
    total = 0
    for cams, truth in pictures:
        stack = np.zeros((num_classes, *truth.shape), np.float32)
        for key, cam in cams.items():
            stack[key + 1] = cam
        stack[0] = threshold
        total = total + confusion_counts(stack.argmax(0), truth, num_classes)
    hits, predicted, true = total
    return float(np.mean(100 * hits / np.maximum(predicted + true - hits, 1)))


def confusion_counts(prediction: np.ndarray, truth: np.ndarray, num_classes: int) -> np.ndarray:
    """Hits, predicted and true pixels [3, 21] of one picture, a comparison for each class."""
    valid, counts = truth != IGNORE, np.zeros((3, num_classes))
    for c in range(num_classes):
        counts[:, c] = [
            ((prediction == c) & (truth == c) & valid).sum(),
            ((prediction == c) & valid).sum(),
            ((truth == c) & valid).sum(),
        ]
    return counts


def resnet38(net, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Taps conv4, conv5, conv6 of a ResNet-38 with its BatchNorm in eval mode, each layer as
    PyTorch computes it (method §1)."""

    def conv(layer, x):
        return F.conv2d(x, layer.weight, None, layer.stride, layer.padding, layer.dilation)

    def bn_relu(bn, x):
        return F.relu(
            F.batch_norm(x, bn.running_mean, bn.running_var, bn.weight, bn.bias, eps=bn.eps),
            inplace=True,
        )

    x, taps = conv(net.conv1a, x), {}
    for name, block in net.named_children():
        if name[0] == 'b' and name != 'bn7':
            first = bn_relu(block.bn_branch2a, x)
            y = bn_relu(block.bn_branch2b1, conv(block.conv_branch2a, first))
            if hasattr(block, 'conv_branch2b2'):
                y = bn_relu(block.bn_branch2b2, conv(block.conv_branch2b1, block.dropout_2b1(y)))
                y = conv(block.conv_branch2b2, block.dropout_2b2(y))
            else:
                y = conv(block.conv_branch2b1, y)
            x = (conv(block.conv_branch1, first) if hasattr(block, 'conv_branch1') else x) + y
            if name in ('b5', 'b6'):
                taps['conv4' if name == 'b5' else 'conv5'] = first
    return {**taps, 'conv6': bn_relu(net.bn7, x)}


@torch.inference_mode()
def seam_seeds(
    net, views: list[torch.Tensor], size: tuple[int, int], label: torch.Tensor
) -> torch.Tensor:
    """Maps [20, H, W] summed over all views, one pass each with every channel brought to full size
    (method §5).

    Args:
        views: [2, 3, h, w] a scale, a picture and its mirror image. label: [20].
    """
    total = 0
    for view in views:
        for mirrored in (0, 1):
            x = view[mirrored : mirrored + 1]
            taps = resnet38(net, x)
            cam_rv = upsample(net.refine(x, taps, net.fc8(taps['conv6'])), x.shape[2:])[:, 1:]
            maps = (
                F.interpolate(cam_rv, size, mode='bilinear', align_corners=False)[0]
                * label[:, None, None]
            )
            total = total + (maps.flip(2) if mirrored else maps)
    return total


def random_walk(cam: torch.Tensor, pairs: torch.Tensor, beta: float, logt: int) -> torch.Tensor:
    """cam · T^(2^logt) by squaring the dense T (method §7); cam [C, h, w], pairs [offsets,
    pixels]."""
    step = dense_affinity(pairs, *cam.shape[1:]) ** beta
    step = step / step.sum(0, keepdim=True)
    for _ in range(logt):
        step = step @ step
    return (cam.flatten(1) @ step).view(cam.shape)


def affinity_maps(
    image: np.ndarray, cam: dict[int, np.ndarray], alphas: list[float], num_labels: int
) -> list[np.ndarray]:
    """AffinityNet's CRF maps float32 [21, H, W], one for each α (method §6): all 21 labels, and new
    kernels each time."""
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
    vertices = {}
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
    by_distance = np.argsort(
        corner - point, kind='stable'
    )  # the coordinate that was rounded down most comes first
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
        # remainder r lies r steps away: + r everywhere, − (d + 1) in the r coordinates that come
        # last
        vertex = corner + remainder
        vertex[order[size - remainder :]] -= size
        if remainder == 0:
            weight = 1 - (sorted_difference[0] - sorted_difference[-1])
        else:
            weight = sorted_difference[size - 1 - remainder] - sorted_difference[size - remainder]
        corners[tuple(int(round(value)) for value in vertex)] = weight
    return corners
