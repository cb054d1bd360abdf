"""An ImageNet network of timm as a backbone at output stride 8, 16 or 32.

It can be any network of timm that can be dilated.
"""

import difflib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from tool.run.errors import UserError

# The package timm is imported in functions: this takes seconds, and ResNet-38 does not need it.

# A checkpoint holds 'name/output stride' of its backbone under this key, as ASCII bytes. So no flag
# has to name the backbone again.
KEY = 'timm_model'
# Bytes that such a text may have.
LONGEST_DESCRIPTION = 200
# A model that a checkpoint names has at most this many times the weights that the checkpoint holds.
# It would be 1 if timm's models had no layers of their classifier that are not used here.
LARGEST_PART = 2


class TimmBackbone(Backbone):
    """A network of timm without its classifier.

    Its taps: conv6 is the map that timm's classifier pools, conv5 and conv4 are the two stages
    before the last one. Where a stage is finer than the output stride, its cells are averaged.
    conv3 is the last stage whose stride is at most 4. Fine-tuning freezes BatchNorm, the stem, and
    all stages up to conv3.

    Args:
        model: the model's name in timm, with or without the tag of its weights.
        output_stride: image pixels per cell of conv4, conv5 and conv6.
    Attributes:
        strides: the output strides that the network can have, the default first.
        model: timm's network. Its keys in a checkpoint are timm's after 'model.'.
        mean, std: normalisation of the input's RGB channels, [3].
    Raises:
        UserError: timm has no such model, or it cannot be dilated to this stride.
    """

    strides: tuple[int, ...] = (16, 8, 32)
    model: Any
    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, model: str, output_stride: int = 16):
        super().__init__()
        self.name = model
        self.output_stride = output_stride
        description = f'{model}/{output_stride}'.encode()
        self.register_buffer(KEY, torch.tensor(list(description), dtype=torch.uint8))
        self.model = _create(model, output_stride)
        self.register_buffer('mean', torch.tensor(self.model.pretrained_cfg['mean']))
        self.register_buffer('std', torch.tensor(self.model.pretrained_cfg['std']))
        self.low_stage = self._last_stage_up_to_stride_4()
        self.channels = self._checked_channels()
        self.freeze(True)

    def _stages(self) -> list[dict]:
        """timm's description of each stage: 'reduction' is its stride, 'module' its name."""
        return list(self.model.feature_info)

    def _last_stage_up_to_stride_4(self) -> int:
        """The number of the stage that is conv3; 0 if every stage has a larger stride."""
        last = 0
        for number, stage in enumerate(self._stages()):
            if stage['reduction'] <= 4:
                last = number
        return last

    @torch.no_grad()
    def _checked_channels(self) -> dict[str, int]:
        """The number of channels of each tap, from a pass of the network.

        Raises:
            UserError: a tap is no map, or does not have the size that its stride gives.
        """
        stride = self.output_stride
        image = torch.zeros(1, 3, 3 * stride, 4 * stride)
        at_stride_4 = (3 * stride // 4, stride)
        at_output_stride = (3, 4)
        expected = {
            'conv3': at_stride_4,
            'conv4': at_output_stride,
            'conv5': at_output_stride,
            'conv6': at_output_stride,
        }
        try:
            self.eval()
            taps = self.features(image)
            sizes = {name: tuple(tap.shape[2:]) for name, tap in taps.items()}
            if sizes != expected:
                raise ValueError(f'its stages have sizes {sizes}')
        except Exception as error:  # a network of another kind can raise anything
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
        """The taps of normalised images [N, 3, H, W].

        The images are zero-padded on the right and below to a multiple of the output stride s. Not
        every network rounds its sizes up, and networks that pad like TensorFlow would otherwise
        shift their cells with the size of the image.

        Returns:
            'conv3' at stride 4, and 'conv4', 'conv5' and 'conv6', [N, channels, ceil(H/s),
            ceil(W/s)].
        """
        height, width = x.shape[2:]
        below = -height % self.output_stride
        right = -width % self.output_stride
        x = F.pad(x, (0, right, 0, below))
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
        end = 0  # all parameters before this one are early
        for number, (name, _) in enumerate(named):
            if name.startswith(prefix):
                end = number + 1
        for _, parameter in named[:end]:
            yield parameter


def averaged_to(stage: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
    """A stage's map at the size of the last stage's map; cells of a finer one are averaged."""
    factor = stage.shape[2] // last.shape[2]
    if factor <= 1:
        return stage
    return F.avg_pool2d(stage, factor)


def read_description(state: dict, path: str) -> tuple[str, int] | None:
    """The name in timm and the output stride of a checkpoint's backbone.

    Args:
        state: the checkpoint's state dict.
        path: the checkpoint's file, for messages.
    Returns:
        (name, output stride), or None where the backbone is not of timm.
    Raises:
        UserError: the entry is damaged, or names a model that is larger than what the checkpoint
            holds.
    """
    if KEY not in state:
        return None
    try:
        # looked at first, because `tolist` takes 60 bytes for each byte of a tensor
        if state[KEY].numel() > LONGEST_DESCRIPTION:
            raise ValueError('a longer text than the name of a model')
        name, stride_text = bytes(state[KEY].tolist()).decode('ascii').split('/')
        stride = int(stride_text)
    except (ValueError, TypeError):
        raise UserError(
            f'{path}: damaged: its {KEY} names no timm model and output stride'
        ) from None
    there = sum(value.numel() for value in state.values() if torch.is_tensor(value))
    needed = _size(name, stride)
    if needed > LARGEST_PART * there:
        raise UserError(
            f'{path}: damaged: names the backbone {name} of {needed:,} weights, and holds {there:,}'
        )
    return name, stride


def _size(name: str, stride: int) -> int:
    """The number of weights of a model of timm; 0 where it cannot be told without making them.

    The meta device gives tensors a shape and no memory, so that a small checkpoint that names a
    model of billions of weights does not fill the memory.
    """
    timm = import_timm()
    if not timm.is_model(name):
        return 0
    try:
        with torch.device('meta'):
            model = timm.create_model(
                name, pretrained=False, num_classes=0, global_pool='', output_stride=stride
            )
    except Exception:  # `_create` says what is wrong with it, where anything is
        return 0
    return sum(weight.numel() for weight in model.parameters())


def import_timm() -> ModuleType:
    """The package timm; UserError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f'timm is not installed ({error}): pip install -r requirements.txt'
        ) from None
    return timm


def _create(name: str, stride: int) -> nn.Module:
    """timm's network without classifier and without weights.

    Raises:
        UserError: timm has no such model, or it cannot be dilated to this stride.
    """
    timm = import_timm()
    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), 3)
        message = f'backbone {name}: timm has no such model'
        if close:
            message += f'; did you mean {", ".join(close)}?'
        raise UserError(message)
    try:
        model = timm.create_model(
            name, pretrained=False, num_classes=0, global_pool='', output_stride=stride
        )
        # a part of the classifier can be left, for example a norm; it is not used here
        classifier = model.pretrained_cfg['classifier'].split('.')[0]
        setattr(model, classifier, nn.Identity())
    except Exception as error:  # constructors refuse an output stride in many ways
        raise _unfit(name, stride, error) from None
    return model


def short_reason(error: Exception) -> str:
    """The first line of an error's message, at most 120 characters; its type if it has none."""
    lines = str(error).splitlines()
    if not lines:
        return type(error).__name__
    return lines[0][:120].rstrip('. ')


def _unfit(name: str, stride: int, error: Exception) -> UserError:
    """The error of a model that cannot be a backbone; `error` is the one that it raised."""
    reason = short_reason(error) or type(error).__name__
    return UserError(
        f'backbone {name}: cannot be used at output stride {stride} ({reason}); take '
        'another stride or a convolutional network, e.g. tf_efficientnet_lite0, resnet50, '
        'convnext_tiny'
    )
