"""The EPS baseline, which also learns from saliency maps (docs/method.md §2.2, §3.4, §5)."""

import copy
from collections.abc import Callable
from typing import Any

import torch

from network.baselines.baseline import Baseline, LossOptions
from network.pcm_additions import ChangeMaps
from tool.method.eps_losses import eps_loss
from tool.method.maps import ViewMaps, resize
from tool.method.seam_losses import classification_loss, consistency_losses, rvmin_loss


class Eps(Baseline):
    """EPS. The attributes are explained in Baseline."""

    name = 'eps'
    network = 'network.resnet38_contrast_eps'
    timm_network = 'network.timm_contrast_eps'
    projection = 'proj_fc'
    bg_index = 20  # the last channel, here of VOC; see for_classes
    bg_threshold = 0.10
    top_fraction = 1 / 16
    png_threshold = 0.22
    max_epochs = 15
    max_steps = 20000
    saliency = True

    def for_classes(self, num_classes: int) -> 'Eps':
        baseline = copy.copy(self)
        baseline.bg_index = num_classes - 1
        return baseline

    def view_maps(self, net: Callable, view: torch.Tensor) -> ViewMaps:
        pred, cam, _, cam_rv, f_proj = net(view)
        return ViewMaps(cam=cam, cam_rv=cam_rv, f_proj=f_proj, pred=pred)

    def foreground_scores(self, view: ViewMaps) -> torch.Tensor:
        """Class scores [N, K] of the foreground classes."""
        assert view.pred is not None  # EPS's networks return class scores
        return view.pred[:, : self.bg_index]

    def one_view_losses(
        self, net: Callable, batch: dict[str, torch.Tensor], options: LossOptions
    ) -> dict[str, torch.Tensor]:
        view = self.view_maps(net, batch['image'])
        label = batch['label']
        return {
            'loss_cls': classification_loss(self.foreground_scores(view), label),
            'loss_sal': eps_loss(view.cam, batch['saliency'], label, tau=options.tau),
        }

    def two_view_losses(
        self,
        view1: ViewMaps,
        view2: ViewMaps,
        batch: dict[str, torch.Tensor],
        options: LossOptions,
    ) -> dict[str, torch.Tensor]:
        label = batch['label']
        bg_index = self.bg_index
        max_classes = options.max_classes

        classification1 = classification_loss(self.foreground_scores(view1), label)
        classification2 = classification_loss(self.foreground_scores(view2), label)
        rvmin1 = rvmin_loss(view1.cam_rv, label, bg_index=bg_index, max_classes=max_classes)
        rvmin2 = rvmin_loss(view2.cam_rv, label, bg_index=bg_index, max_classes=max_classes)
        image_loss = (classification1 + classification2) / 2 + (rvmin1 + rvmin2) / 2

        saliency1 = batch['saliency']
        size2 = (options.view2_size, options.view2_size)
        saliency2 = resize(saliency1, size2)
        saliency_loss = (
            eps_loss(view1.cam, saliency1, label, tau=options.tau)
            + eps_loss(view2.cam, saliency2, label, tau=options.tau)
            + eps_loss(view1.cam_rv, saliency1, label, tau=options.tau)
            + eps_loss(view2.cam_rv, saliency2, label, tau=options.tau)
        ) / 2

        terms = {'loss_cls': image_loss, 'loss_sal': saliency_loss}
        if options.consistency:
            terms['loss_er'], terms['loss_ecr'] = consistency_losses(
                view1, view2, label, bg_index=bg_index, max_classes=max_classes
            )
        return terms

    def pass_maps(
        self,
        net: Any,
        view: torch.Tensor,
        channels: torch.Tensor,
        change_maps: ChangeMaps | None,
    ) -> torch.Tensor:
        probabilities = net.forward_cam(view).softmax(1)
        return probabilities[:, channels]

    def finish(self, maps: torch.Tensor) -> torch.Tensor:
        highest = maps.amax((1, 2), keepdim=True)
        return maps / (highest + 1e-5)

    def pass_scores(self, net: Any, view: torch.Tensor) -> torch.Tensor:
        # the mean that `pred` of the network is, without the PCM that its other outputs need
        scores = net.forward_cam(view).mean((2, 3))
        return scores[:, : self.bg_index]


BASELINE = Eps()
