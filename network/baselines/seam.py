"""The SEAM baseline (method §2.1, §3.2, §5)."""

from collections.abc import Callable

import torch

from network.backbone import Backbone
from network.baselines.baseline import Baseline, LossOptions
from tool.method.maps import scale_scores
from tool.method.seam_losses import classification_loss, seam_loss


class Seam(Baseline):
    name = 'seam'
    network = 'network.resnet38_contrast'
    timm_network = 'network.timm_contrast'
    projection = 'fc_proj'
    bg_index = 0
    bg_threshold = 0.20
    top_fraction = 1 / 8
    png_threshold = 0.26
    max_epochs = 8
    upsampled = True
    pcm_seeds = True

    def one_view_losses(
        self, net: Callable, image: torch.Tensor, batch: dict, options: LossOptions
    ) -> dict:
        return {'loss_cls': classification_loss(net(image, classify=True)[:, 1:], batch['label'])}

    def two_view_losses(
        self,
        net: Callable,
        image: torch.Tensor,
        small: torch.Tensor,
        batch: dict,
        options: LossOptions,
    ) -> tuple[dict, tuple]:
        cam1, cam_rv1, f_proj1, cam_rv_down1 = net(image, upsample=False)
        cam2, cam_rv2, f_proj2, cam_rv_down2 = net(small, upsample=False)
        sizes = (
            [(options.loss_size,) * 2] * 2
            if options.loss_size
            else [image.shape[2:], small.shape[2:]]
        )
        terms = seam_loss(
            cam1,
            cam_rv1,
            cam2,
            cam_rv2,
            batch['label'],
            size1=sizes[0],
            size2=sizes[1],
            max_classes=options.max_classes,
        )
        if not options.consistency:
            terms = {'loss_cls': terms['loss_cls']}
        return terms, (f_proj1, cam_rv_down1, f_proj2, cam_rv_down2)

    def pass_maps(
        self,
        net: Backbone,
        view: torch.Tensor,
        channels: torch.Tensor,
        gate_pcm: bool,
        lifted: torch.Tensor | None,
    ) -> torch.Tensor:
        return net.forward_cam_rv(view, channels, gate_pcm, lifted)

    def finish(self, maps: torch.Tensor) -> torch.Tensor:
        return scale_scores(maps)


BASELINE = Seam()
