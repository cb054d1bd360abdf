"""The EPS baseline: saliency maps as a second supervision (method §2.2, §3.4, §5)."""

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F

from network.backbone import Backbone
from network.baselines.baseline import Baseline, LossOptions
from tool.method.eps_losses import eps_loss
from tool.method.seam_losses import classification_loss, consistency_losses, rvmin_loss


class Eps(Baseline):
    name = 'eps'
    network = 'network.resnet38_contrast_eps'
    timm_network = 'network.timm_contrast_eps'
    projection = 'proj_fc'
    bg_index = 20  # of VOC: the last channel
    bg_threshold = 0.10
    top_fraction = 1 / 16
    png_threshold = 0.22
    max_epochs = 15  # of the learning-rate schedule
    max_steps = 20000
    saliency = True

    def for_classes(self, num_classes: int) -> 'Eps':
        baseline = copy.copy(self)
        baseline.bg_index = num_classes - 1
        return baseline

    def one_view_losses(
        self, net: Callable, image: torch.Tensor, batch: dict, options: LossOptions
    ) -> dict:
        pred, cam, *_ = net(image)
        return {
            'loss_cls': classification_loss(pred[:, : self.bg_index], batch['label']),
            'loss_sal': eps_loss(cam, batch['saliency'], batch['label'], tau=options.tau),
        }

    def two_view_losses(
        self,
        net: Callable,
        image: torch.Tensor,
        small: torch.Tensor,
        batch: dict,
        options: LossOptions,
    ) -> tuple[dict, tuple]:
        label, saliency = batch['label'], batch['saliency']
        saliency2 = F.interpolate(saliency, small.shape[2:], mode='bilinear', align_corners=True)
        pred1, cam1, _, cam_rv1, f_proj1 = net(image)
        pred2, cam2, _, cam_rv2, f_proj2 = net(small)
        common = {'bg_index': self.bg_index, 'max_classes': options.max_classes}
        cls = (
            sum(classification_loss(pred[:, : self.bg_index], label) for pred in (pred1, pred2)) / 2
        )
        rvmin = sum(rvmin_loss(cam_rv, label, **common) for cam_rv in (cam_rv1, cam_rv2)) / 2
        sal = (
            sum(
                eps_loss(maps, view, label, tau=options.tau)
                for maps, view in (
                    (cam1, saliency),
                    (cam2, saliency2),
                    (cam_rv1, saliency),
                    (cam_rv2, saliency2),
                )
            )
            / 2
        )
        terms = {'loss_cls': cls + rvmin, 'loss_sal': sal}
        if options.consistency:
            terms['loss_er'], terms['loss_ecr'] = consistency_losses(
                cam1, cam_rv1, cam2, cam_rv2, label, **common
            )
        return terms, (f_proj1, cam_rv1, f_proj2, cam_rv2)

    def pass_maps(
        self,
        net: Backbone,
        view: torch.Tensor,
        channels: torch.Tensor,
        gate_pcm: bool,
        lifted: torch.Tensor | None,
    ) -> torch.Tensor:
        return net.forward_cam(view).softmax(1)[:, channels]

    def finish(self, maps: torch.Tensor) -> torch.Tensor:
        return maps / (maps.amax((1, 2), keepdim=True) + 1e-5)


BASELINE = Eps()
