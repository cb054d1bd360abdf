"""Label-aware prototypes: by hand, in loops, and where hardly anything takes part."""

import pytest
import torch
import torch.nn.functional as F

from loss_golden import contrast_view
from recipe import normal, uniform
from tool.method.label_aware import LabelAwareOptions, label_aware_contrast_loss


def label_aware_by_hand(
    x, label, bg_index, bg_threshold, keys, semi_hard, inside, bg_certain, common
):
    """The label-aware contrast in loops over pictures, classes and pixels; maps and `inside` [n,
    pixels] already at one size."""
    n, side = len(label), x['cam_rv1'].shape[2]
    channel = {c: c + (bg_index == 0) for c in range(20)}
    present = sorted({bg_index} | {channel[c] for c in common if label[:, c].any()})
    views = []
    for view in (1, 2):
        feature = x[f'f_proj{view}'].permute(0, 2, 3, 1).reshape(-1, 128)
        rows = {c: torch.zeros(n, side * side) for c in present}
        pseudo = torch.full((n, side * side), bg_index)
        best, counted = torch.full((n, side * side), bg_threshold), inside.clone()
        highest = torch.zeros(n, side * side)
        for image in range(n):
            for c in range(20):
                if label[image, c]:
                    cam = x[f'cam_rv{view}'][image, channel[c]].detach().flatten()
                    score = (cam - cam.min() - 1e-5) / (cam.max() - cam.min() + 1e-5)
                    pseudo[image][score > best[image]] = channel[c]
                    best[image] = best[image].maximum(score)
                    highest[image] = highest[image].maximum(score)
                    if channel[c] in present:
                        rows[channel[c]][image] = score.clamp(min=0)
        if bg_certain is not None:
            counted[(highest > bg_certain) & (pseudo == bg_index)] = 0
        for image in range(n):
            if any(label[image, c] and c not in common for c in range(20)):
                counted[image][pseudo[image] == bg_index] = 0
            for pixel in range(side * side):
                if pseudo[image, pixel] not in present:
                    pseudo[image, pixel], counted[image, pixel] = bg_index, 0
        rows[bg_index] = 1 - highest
        rows = {c: row * inside for c, row in rows.items()}
        protos = {}
        for c in present:
            weight, index = rows[c].flatten().sort(descending=True)
            weight, index = weight[: side * side // 8], index[: side * side // 8]
            protos[c] = F.normalize((weight[:, None] * feature[index].detach()).sum(0), dim=0)
        views.append(
            (F.normalize(feature, dim=1), pseudo.flatten().tolist(), counted.flatten(), protos)
        )

    def cross(pixels, labels, counted, protos):
        logits = torch.stack([pixels @ protos[c] / 0.1 for c in present], 1)
        values = F.cross_entropy(
            logits, torch.tensor([present.index(c) for c in labels]), reduction='none'
        )
        return (values * counted).sum() / counted.sum()

    intra = 0
    for (pixels, labels, counted, protos), key in zip(views, keys):
        classes = sorted(set(labels))
        for c in classes:
            own = [i for i, found in enumerate(labels) if found == c]
            logits = {k: pixels[own] @ protos[k] / 0.1 for k in present}
            others = torch.stack([logits[k] for k in present if k != c], 1)
            if semi_hard:
                others = others.sort(1, descending=True).values[:, : int(0.6 * (len(present) - 1))]
            value = (torch.cat([logits[c][:, None], others], 1).logsumexp(1) - logits[c]) * counted[
                own
            ]
            half = len(own) // 2
            drawn = sorted(range(len(own)), key=lambda i: key[own[i]])[:half]
            hard = (
                sorted(range(len(own)), key=lambda i: logits[c][i])[: len(own) * 6 // 10][-half:]
                if half
                else []
            )
            intra = (
                intra + (value[drawn].mean() + value[hard].mean()) / 2 / len(classes)
                if half
                else intra
            )
    (pixels1, *labels1, protos1), (pixels2, *labels2, protos2) = views
    return {
        'loss_cross_prototype': 0.05
        * (cross(pixels1, *labels1, protos2) + cross(pixels2, *labels2, protos1)),
        'loss_cross_cam': 0.05
        * (cross(pixels1, *labels2, protos1) + cross(pixels2, *labels1, protos2)),
        'loss_intra_view': 0.05 * intra,
    }


@pytest.mark.parametrize(
    'bg_index, semi_hard, padded, certain, rare',
    [
        (0, True, False, None, ()),
        (0, True, True, None, ()),
        (20, True, True, None, ()),
        (0, False, True, None, ()),
        (0, True, True, 0.2, ()),
        (20, True, False, 0.3, ()),
        (0, True, True, 0.2, (3, 11)),
        (20, False, False, None, (0,)),
    ],
)
def test_label_aware_contrast_by_hand(bg_index, semi_hard, padded, certain, rare):
    x = {
        name: normal(f'aware.{name}', 4, channels, 8, 8).abs().requires_grad_()
        for name, channels in (('cam_rv1', 21), ('cam_rv2', 21), ('f_proj1', 128), ('f_proj2', 128))
    }
    label = torch.zeros(4, 20)
    for image, classes in enumerate(([0, 3], [3], [7, 11, 19], [0])):
        label[image, classes] = 1
    keys = uniform('aware.keys', 2, 256)
    inside = torch.ones(4, 1, 8, 8)
    crop = None
    if padded:
        inside[1, :, 5:], inside[3, :, :, :2] = 0, 0
        # a crop of 22 pixels a side has its cells' centres 3 pixels apart
        crop = F.interpolate(inside, (22, 22), mode='bilinear', align_corners=True)
    common = [c for c in range(20) if c not in rare]
    taking_part = None
    if rare:
        taking_part = F.one_hot(torch.tensor(common), 20).sum(0) > 0
    options = LabelAwareOptions(
        bg_index=bg_index,
        bg_threshold=0.45,
        semi_hard=semi_hard,
        bg_certain=certain,
        common=taking_part,
    )
    loss = label_aware_contrast_loss(
        contrast_view(x['f_proj1'], x['cam_rv1']),
        contrast_view(x['f_proj2'], x['cam_rv2']),
        label,
        options,
        random_keys=keys,
        inside=crop,
    )
    expected = label_aware_by_hand(
        x, label, bg_index, 0.45, keys.tolist(), semi_hard, inside.flatten(1), certain, common
    )
    ours = torch.autograd.grad(loss['loss_nce'], (x['f_proj1'], x['f_proj2']))
    theirs = torch.autograd.grad(sum(expected.values()), (x['f_proj1'], x['f_proj2']))
    for name, value in expected.items():
        assert loss[name].item() == pytest.approx(value.item(), rel=1e-5), name
    for one, other in zip(ours, theirs):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-7)


def test_label_aware_contrast_of_one_class_and_of_empty_maps():
    """One class against the background leaves no semi-hard negative; maps of zeros give no
    prototype: still finite.

    So it is where no pixel counts, and where no class takes part.
    """
    label = F.one_hot(torch.tensor([2, 2]), 20).float()
    feature = normal('aware.f', 2, 128, 8, 8).abs().requires_grad_()
    for maps in (normal('aware.m', 2, 21, 8, 8).abs(), torch.zeros(2, 21, 8, 8)):
        view = contrast_view(feature, maps)
        loss = label_aware_contrast_loss(view, view, label)
        assert loss['loss_intra_view'] == 0 and loss['loss_nce'].isfinite()
        assert torch.autograd.grad(loss['loss_nce'], feature)[0].isfinite().all()
    nothing = torch.zeros(2, 1, 64, 64)
    padding = label_aware_contrast_loss(view, view, label, inside=nothing)
    assert padding['loss_nce'] == 0
    no_class = LabelAwareOptions(common=torch.zeros(20) > 0)
    alone = label_aware_contrast_loss(view, view, label, no_class)
    assert alone['loss_nce'] == 0
    assert torch.autograd.grad(alone['loss_nce'], feature)[0].isfinite().all()
