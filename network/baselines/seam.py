"""The SEAM baseline (docs/method.md §2.1, §3.2, §5)."""

from collections.abc import Callable
from typing import Any

import torch

from network.baselines.baseline import Baseline, LossOptions
from network.pcm_additions import ChangeMaps
from tool.method.maps import ViewMaps, scale_scores, spatial_size
from tool.method.seam_losses import classification_loss, seam_loss


class Seam(Baseline):
    """SEAM. The attributes are explained in Baseline."""

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

    def view_maps(self, net: Callable, view: torch.Tensor) -> ViewMaps:
        cam, cam_rv, f_proj, _ = net(view, upsample=False)
        return ViewMaps(cam=cam, cam_rv=cam_rv, f_proj=f_proj)

    def one_view_losses(
        self, net: Callable, batch: dict[str, torch.Tensor], options: LossOptions
    ) -> dict[str, torch.Tensor]:
        scores = net(batch['image'], classify=True)
        foreground_scores = scores[:, 1:]  # [N, K]
        return {'loss_cls': classification_loss(foreground_scores, batch['label'])}

    def two_view_losses(
        self,
        view1: ViewMaps,
        view2: ViewMaps,
        batch: dict[str, torch.Tensor],
        options: LossOptions,
    ) -> dict[str, torch.Tensor]:
        size1 = spatial_size(batch['image'])
        size2 = (options.view2_size, options.view2_size)
        if options.loss_size:
            size1 = (options.loss_size, options.loss_size)
            size2 = size1
        terms = seam_loss(
            view1,
            view2,
            batch['label'],
            size1=size1,
            size2=size2,
            max_classes=options.max_classes,
        )
        if not options.consistency:
            terms = {'loss_cls': terms['loss_cls']}
        return terms

    def pass_maps(
        self,
        net: Any,
        view: torch.Tensor,
        channels: torch.Tensor,
        change_maps: ChangeMaps | None,
    ) -> torch.Tensor:
        return net.forward_cam_rv(view, channels, change_maps)

    def finish(self, maps: torch.Tensor) -> torch.Tensor:
        return scale_scores(maps)

    def pass_scores(self, net: Any, view: torch.Tensor) -> torch.Tensor:
        scores = net(view, classify=True)
        return scores[:, 1:]


BASELINE = Seam()
