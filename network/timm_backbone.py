"""Any ImageNet network of timm that can be dilated, as a backbone at output stride 8, 16 or 32."""

import difflib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from tool.run.errors import UserError

# timm itself is imported where it is needed: that takes seconds, and ResNet-38 does without

# Key of a checkpoint's 'name/output stride' as ASCII bytes. So a checkpoint needs no flags.
KEY = 'timm_model'


class TimmBackbone(Backbone):
    """A timm network without its classifier; `features` are its last, middle and earlier stages at
    the output stride.

    conv6 is what timm's classifier pools, conv5 and conv4 are the stages before the last one. Where
    a stage is finer than the output stride, its cells are averaged. Frozen when fine-tuning:
    BatchNorm, the stem, and all stages up to stride 4.

    Args:
        model: a model's name in timm, with or without the tag of its weights.
        output_stride: of conv4 … conv6, in pixels.
    Attributes:
        strides: output strides the network works at, the default first.
        model: timm's network; keys of a checkpoint are timm's after 'model.'.
    Raises:
        UserError: no such model, or it cannot be dilated to this stride.
    """

    strides: tuple[int, ...] = (16, 8, 32)
    model: Any
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: str, output_stride: int = 16):
        super().__init__()
        self.name, self.output_stride = model, output_stride
        self.register_buffer(
            KEY, torch.tensor(list(f'{model}/{output_stride}'.encode()), dtype=torch.uint8)
        )
        self.model = _create(model, output_stride)
        for name in ('mean', 'std'):
            self.register_buffer(name, torch.tensor(self.model.pretrained_cfg[name]))
        self.low_stage = max(
            (i for i, stage in enumerate(self._stages()) if stage['reduction'] <= 4), default=0
        )
        self.channels = self._checked_channels()
        self.freeze(True)

    def _stages(self) -> list[dict]:
        return list(self.model.feature_info)

    @torch.no_grad()
    def _checked_channels(self) -> dict[str, int]:
        """Channels of the taps; UserError where they are no maps of the expected sizes."""
        try:
            self.eval()
            taps = self.features(torch.zeros(1, 3, 3 * self.output_stride, 4 * self.output_stride))
            sizes = {name: tuple(tap.shape[2:]) for name, tap in taps.items()}
            low = 3 * self.output_stride // 4, self.output_stride
            expected = {'conv3': low, 'conv4': (3, 4), 'conv5': (3, 4), 'conv6': (3, 4)}
            if sizes != expected:
                raise ValueError(f'its stages have sizes {sizes}')
        except Exception as error:  # whatever a network of another kind raises
            raise _unfit(self.name, self.output_stride, error) from None
        self.train()
        return {name: tap.shape[1] for name, tap in taps.items()}

    @property
    def normalisation(self) -> tuple[tuple, tuple]:
        return tuple(self.mean.tolist()), tuple(self.std.tolist())

    @property
    def description(self) -> str:
        return f'{self.name} at output stride {self.output_stride}'

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Taps of a normalised image [N, 3, H, W]: conv3 (stride 4), conv4, conv5 and conv6 (output
        stride s, ceil(H/s)).

        The image is zero-padded right and below to a multiple of s: not every network rounds its
        sizes up, and those that pad like TensorFlow would otherwise shift their cells with the size
        of the picture.
        """
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.output_stride, 0, -height % self.output_stride))
        last, stages = self.model.forward_intermediates(x)
        return {
            'conv3': stages[self.low_stage],
            'conv4': averaged_to(stages[-3], last),
            'conv5': averaged_to(stages[-2], last),
            'conv6': last,
        }

    def early(self) -> Iterator[nn.Parameter]:
        prefix = self._stages()[self.low_stage]['module'] + '.'
        named = list(self.model.named_parameters())  # in the order of the forward pass
        end = max(
            (i + 1 for i, (name, _) in enumerate(named) if name.startswith(prefix)), default=0
        )
        return (parameter for _, parameter in named[:end])


def averaged_to(stage: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """A stage's map with its cells averaged to the size of the last stage's, if it is finer."""
    factor = stage.shape[2] // last.shape[2]
    return F.avg_pool2d(stage, factor) if factor > 1 else stage


def read_description(state: dict, path: str) -> tuple[str, int] | None:
    """(model, output stride) of a checkpoint, None where it is over no timm backbone.

    Raises:
        UserError: damaged.
    """
    if KEY not in state:
        return None
    try:
        name, stride = bytes(state[KEY].tolist()).decode('ascii').split('/')
        return name, int(stride)
    except (ValueError, TypeError):
        raise UserError(
            f'{path}: damaged: its {KEY} names no timm model and output stride'
        ) from None


def import_timm():
    """The timm package; UserError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f'timm is not installed ({error}): pip install -r requirements.txt'
        ) from None
    return timm


def _create(name: str, stride: int) -> nn.Module:
    """timm's network without classifier and without weights."""
    timm = import_timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        raise UserError(
            f'backbone {name}: timm has no such model'
            + (f'; did you mean {", ".join(close)}?' if close else '')
        )
    try:
        model = timm.create_model(
            name, pretrained=False, num_classes=0, global_pool='', output_stride=stride
        )
        # what is left of the classifier, e.g. a norm, takes no part here
        setattr(model, model.pretrained_cfg['classifier'].split('.')[0], nn.Identity())
    except Exception as error:  # constructors refuse an output stride in many ways
        raise _unfit(name, stride, error) from None
    return model


def _unfit(name: str, stride: int, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:120].rstrip('. ')
    return UserError(
        f'backbone {name}: cannot be used at output stride {stride} '
        f'({reason or type(error).__name__}); take another stride or a convolutional network, e.g. '
        'tf_efficientnet_lite0, resnet50, convnext_tiny'
    )
