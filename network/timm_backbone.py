"""A network of timm as a backbone at output stride 8, 16 or 32."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from network.backbone import Backbone
from network.statistics_once import StatisticsOnce
from network.timm_models import find_source, model_size
from tool.method.maps import on_grid
from tool.run.errors import UserError
from tool.train.layer_types import BATCH_NORMS

# A checkpoint holds 'name/output stride' of its backbone under this key, as ASCII bytes. So no flag
# has to name the backbone again.
KEY = 'timm_model'
# Bytes that such a text may have.
LONGEST_DESCRIPTION = 200
# A model that a checkpoint names has at most this many times the weights that the checkpoint holds.
# It would be 1 if timm's models had no layers of their classifier that are not used here.
MOST_TIMES_THE_WEIGHTS = 2

# The choices of --freeze.
FREEZE = ('none', 'half', 'all')


@dataclass(frozen=True)
class TimmTraining:
    """The flags of training that are about a backbone of timm.

    Attributes:
        freeze: what fine-tuning freezes besides BatchNorm, one of `FREEZE`; None: what suits the
            kind of network.
        grad_checkpointing: save memory by computing each block twice.
    """

    freeze: str | None = None
    grad_checkpointing: bool = False


class TimmBackbone(Backbone):
    """A network of timm without its classifier.

    A network that can be dilated is. The maps of another are brought to the output stride: finer
    cells are averaged, coarser ones and those of other sizes are interpolated bilinearly.

    Its taps: conv6 is the map that timm's classifier pools, conv5 and conv4 are the two stages
    before the last one, and conv3 is the last stage whose stride is at most 4. Of a network whose
    stages have one stride, a Vision Transformer for example, conv3, conv4, conv5 and conv6 are the
    blocks at about ¼, ½, ¾ of its depth and the last one; class and register tokens are left out.

    Fine-tuning freezes BatchNorm, and a part of the network that `freeze_part` chooses.

    Args:
        model: the model's name in timm, with or without the tag of its weights.
        output_stride: image pixels per cell of conv4, conv5 and conv6.
    Attributes:
        strides: the output strides that the network can have, the default first.
        model: timm's network. Its keys in a checkpoint are timm's after 'model.'.
        source: how the maps of timm's network are read.
        mean, std: normalisation of the input's RGB channels, [3].
        frozen: the part of the network that fine-tuning freezes besides BatchNorm: 'low', the
            layers up to conv3, or one of `FREEZE`.
    Raises:
        BackboneError: timm has no such model, or it gives no maps.
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
        self.model, self.source, self.channels = find_source(model, output_stride)
        self.register_buffer('mean', torch.tensor(self.model.pretrained_cfg['mean']))
        self.register_buffer('std', torch.tensor(self.model.pretrained_cfg['std']))
        self.frozen = 'half' if self._is_transformer() else 'low'
        self._statistics: StatisticsOnce | None = None  # see `checkpoint_gradients`
        self.train()
        self.freeze(True)

    def _is_transformer(self) -> bool:
        """Whether the network is treated as a transformer in what is frozen.

        It cannot be dilated, and has blocks of one stride or layer norms.
        """
        if self.source.is_dilated:
            return False
        has_layer_norms = any(isinstance(module, nn.LayerNorm) for module in self.model.modules())
        return self.source.is_flat or has_layer_norms

    @property
    def normalisation(self) -> tuple[tuple, tuple]:
        return tuple(self.mean.tolist()), tuple(self.std.tolist())

    @property
    def description(self) -> str:
        return f'{self.name} at output stride {self.output_stride}'

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The taps of normalised images [N, 3, H, W].

        The images are zero-padded on the right and below to whole cells, patches or windows. Not
        every network rounds its sizes up, and networks that pad like TensorFlow would otherwise
        shift their cells with the size of the image.

        Returns:
            'conv3' at stride 4, and 'conv4', 'conv5' and 'conv6', [N, channels, ceil(H/s),
            ceil(W/s)].
        """
        stride = self.output_stride
        rows = -(-x.shape[2] // stride)
        columns = -(-x.shape[3] // stride)
        factor = stride // 4
        taps = {}
        with self._statistics.forward_pass() if self._statistics else contextlib.nullcontext():
            maps_of_taps = self.source.maps(self.model, x)
        for name, maps in maps_of_taps.items():
            own = self.source.strides[name]
            if name == 'conv3':
                taps[name] = at_stride(maps, own, 4, (rows * factor, columns * factor))
            else:
                taps[name] = at_stride(maps, own, stride, (rows, columns))
        return taps

    def freeze_part(self, part: str) -> None:
        """Choose what fine-tuning freezes besides BatchNorm.

        Args:
            part: 'none', nothing; 'half', the first half of timm's layers, which are the patch
                embedding and the first half of the blocks of a Vision Transformer; 'all', the whole
                network.
        """
        self.freeze(False)
        self.frozen = part
        self.freeze(True)

    @property
    def frozen_layers(self) -> str:
        if self.frozen == 'all':
            return 'all layers of the backbone'
        parts = []
        if any(isinstance(module, BATCH_NORMS) for module in self.model.modules()):
            parts.append('BatchNorm')
        if any(True for _ in self.early()):  # of some networks no stage is early
            parts.append(self._early_layers())
        return ' and '.join(parts) or 'no layers'

    def _early_layers(self) -> str:
        """The layers of `early` in words."""
        if self.frozen == 'low':
            return 'the first stages'
        if self._layers_are_numbered():
            return 'the first half of the layers'
        return 'the stages up to conv4'

    def early(self) -> Iterator[nn.Parameter]:
        if self.frozen == 'all':
            yield from self.model.parameters()
        elif self.frozen == 'half':
            yield from self._first_half()
        elif self.frozen == 'low':
            yield from self._up_to(self.source.stages[0])

    def _up_to(self, stage: int) -> list[nn.Parameter]:
        """The parameters of the stem and of all stages up to one; `stage` is its number."""
        prefix = self.model.feature_info[stage]['module'] + '.'
        named = list(self.model.named_parameters())  # in the order of the forward pass
        end = 0  # all parameters before this one are early
        for number, (name, _) in enumerate(named):
            if name.startswith(prefix):
                end = number + 1
        return [parameter for _, parameter in named[:end]]

    def _first_half(self) -> list[nn.Parameter]:
        """The parameters of the first half of the layers, as timm numbers them from the stem on.

        Where timm does not number them, they are those of the stages up to conv4.
        """
        from timm.models import group_parameters

        if not self._layers_are_numbered():
            return self._up_to(self.source.stages[1])
        layers = group_parameters(self.model, self.model.group_matcher(coarse=False), reverse=True)
        count = max(layers.values()) + 1
        half = math.ceil(count / 2)  # the stem is one layer, and each block another
        named = self.model.named_parameters()
        return [parameter for name, parameter in named if layers[name] < half]

    def _layers_are_numbered(self) -> bool:
        """True if timm tells the layer of each parameter."""
        return hasattr(self.model, 'group_matcher')

    def checkpoint_gradients(self, setting: str = 'gradient checkpointing') -> None:
        """Let training keep the input of each block only, and compute a block twice.

        Args:
            setting: the flag or the key of a config that asks for it, for the message.
        Raises:
            UserError: the network has no such way.
        """
        try:
            self.model.set_grad_checkpointing(True)
        except (AssertionError, AttributeError, NotImplementedError):
            raise UserError(f'{setting}: timm has none for {self.name}; leave it out') from None
        self._statistics = StatisticsOnce(self.model)

    def layer_groups(self, layer_decay: float, weight_decay: float) -> list[dict]:
        """The trainable parameters of timm's network in groups of a layer each, as timm makes them.

            learning rate of layer i of L = layer_decay^(L − i) times that of the last layer

        Vectors, such as biases and norms, and what timm names besides (position embeddings, class
        tokens) have no weight decay.

        Returns:
            Groups with 'params', 'lr_scale' and 'weight_decay'.
        """
        from timm.optim import param_groups_layer_decay

        without_decay: set[str] = set()
        if hasattr(self.model, 'no_weight_decay'):
            without_decay = self.model.no_weight_decay()
        return param_groups_layer_decay(
            self.model, weight_decay, without_decay, layer_decay=layer_decay
        )


def at_stride(maps: torch.Tensor, own: int, stride: int, size: tuple[int, int]) -> torch.Tensor:
    """Maps [N, C, h, w] on the grid of another stride.

    Where its cells are made of whole cells of the maps these are averaged, otherwise the maps are
    read bilinearly at the centres of its cells.

    Args:
        maps: the maps, of a picture that may be padded on the right and below.
        own: their stride, in picture pixels.
        stride: that of the grid.
        size: rows and columns of the grid.
    """
    if stride % own:
        return on_grid(maps, stride / own, size)
    if stride > own:
        maps = F.avg_pool2d(maps, stride // own, ceil_mode=True)
    return maps[:, :, : size[0], : size[1]]


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
    needed = model_size(name)
    if needed > MOST_TIMES_THE_WEIGHTS * there:
        raise UserError(
            f'{path}: damaged: names the backbone {name} of {needed:,} weights, and holds {there:,}'
        )
    return name, stride
