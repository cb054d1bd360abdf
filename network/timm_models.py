"""timm's networks as sources of feature maps: how each of them is built, and how it is asked.

timm's networks differ in what their constructors take, in the picture sizes that they accept and in
the form of their last map. `find_source` finds out about one by building it and running it once.
"""

import contextlib
import difflib
from collections.abc import Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tool.run.errors import UserError

# The package timm is imported in functions: this takes seconds, and ResNet-38 does not need it.

STRIDES = (8, 16, 32)  # the output strides that can be asked for
# What constructors are asked, one after the other, for pictures of any size. timm's networks refuse
# the arguments that they do not know.
ANY_SIZE: tuple[dict[str, bool], ...] = ({'dynamic_img_size': True}, {'strict_img_size': False}, {})


class BackboneError(UserError):
    """A model of timm that cannot be a backbone.

    Args:
        name: the model.
        problem: why not, and what to take in its place.
    """

    def __init__(self, name: str, problem: str):
        super().__init__(f'backbone {name}: {problem}')
        self.problem = problem


@contextlib.contextmanager
def asked_for_by(origin: str) -> Iterator[None]:
    """Let the error of a model say who asks for it: a flag, a key of a config, or a checkpoint.

    Raises:
        UserError: in place of a BackboneError; it begins with `origin`.
    """
    try:
        yield
    except BackboneError as error:
        raise UserError(f'{origin}: {error.problem}') from None


@dataclass(frozen=True)
class Source:
    """The way the feature maps of one of timm's networks are read.

    Attributes:
        multiple: height and width of a picture have to be multiples of this many pixels.
        tile: the only picture size (height, width) that the network takes; None: it takes any.
        stages: the numbers of the stages that are conv3, conv4, conv5, and of the last one.
        strides: picture pixels per cell of each tap.
        form: that of the network's output before pooling: 'map' [N, C, h, w], 'cells' [N, h, w, C]
            or 'tokens' [N, T, C].
        is_dilated: whether the network was dilated to the output stride.
        is_flat: whether all its stages have one stride, as the blocks of a Vision Transformer.
    """

    multiple: int
    tile: tuple[int, int] | None
    stages: tuple[int, int, int, int]
    strides: dict[str, int]
    form: str
    is_dilated: bool
    is_flat: bool

    def maps(self, model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The taps of images [N, 3, H, W], each at the stride that it has in the network.

        The images are zero-padded on the right and below to whole patches, windows or tiles.
        """
        height, width = x.shape[2:]
        x = F.pad(x, (0, -width % self.multiple, 0, -height % self.multiple))
        if self.tile is None:
            return self._maps_of(model, x)
        rows = x.shape[2] // self.tile[0]
        columns = x.shape[3] // self.tile[1]
        of_tiles = self._maps_of(model, cut_into_tiles(x, self.tile))
        return {tap: join_tiles(maps, rows, columns) for tap, maps in of_tiles.items()}

    def _maps_of(self, model: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """The taps of images whose size the network takes."""
        numbers = sorted(set(self.stages))
        last, stages = model.forward_intermediates(x, indices=numbers)
        of_number = dict(zip(numbers, stages))
        conv3, conv4, conv5, final = self.stages
        return {
            'conv3': of_number[conv3],
            'conv4': of_number[conv4],
            'conv5': of_number[conv5],
            'conv6': output_map(model, last, of_number[final], self.form),
        }


def output_map(model: Any, output: torch.Tensor, stage: torch.Tensor, form: str) -> torch.Tensor:
    """The output of a network as a map [N, C, h, w], with the network's final norm.

    Args:
        model: timm's network.
        output: its output before pooling; of tokens the class and register tokens come first, and
            are left out.
        stage: the map of its last stage, [N, C, h, w].
        form: see `Source`.
    """
    if form == 'map':
        return output
    if form == 'tokens':
        size = stage.shape[2:]
        if _is_identity(getattr(model, 'norm', None)):
            # the same values; Hiera alone orders its tokens by window, and its stages by row
            output = stage.flatten(2).transpose(1, 2)
        cells = size[0] * size[1]
        output = output[:, output.shape[1] - cells :].unflatten(1, size)
    # some transformers have their final norm behind the pooling; it acts on each cell alone
    if not _is_identity(getattr(model, 'fc_norm', None)):
        output = model.fc_norm(output)
    return output.permute(0, 3, 1, 2).contiguous()


def _is_identity(module: nn.Module | None) -> bool:
    return module is None or isinstance(module, nn.Identity)


def cut_into_tiles(x: torch.Tensor, tile: tuple[int, int]) -> torch.Tensor:
    """Images [N, C, H, W] as their tiles [N · rows · columns, C, height, width], row by row."""
    n, channels, height, width = x.shape
    rows = height // tile[0]
    columns = width // tile[1]
    x = x.view(n, channels, rows, tile[0], columns, tile[1])
    x = x.permute(0, 2, 4, 1, 3, 5)  # [N, rows, columns, C, height, width]
    return x.flatten(0, 2)


def join_tiles(maps: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """The maps of images from those of their tiles [N · rows · columns, C, h, w], row by row."""
    _, channels, height, width = maps.shape
    maps = maps.view(-1, rows, columns, channels, height, width)
    maps = maps.permute(0, 3, 1, 4, 2, 5)  # [N, C, rows, height, columns, width]
    return maps.reshape(-1, channels, rows * height, columns * width)


def import_timm() -> ModuleType:
    """The package timm; UserError where it is not installed."""
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f'timm is not installed ({error}): pip install -r requirements.txt'
        ) from None
    return timm


def model_size(name: str) -> int:
    """The number of weights of a model of timm; 0 where it cannot be told without making them.

    The meta device gives tensors a shape and no memory, so that a small checkpoint that names a
    model of billions of weights does not fill the memory.
    """
    timm = import_timm()
    if not timm.is_model(name):
        return 0
    try:
        with torch.device('meta'):
            model = timm.create_model(name, pretrained=False, num_classes=0)
    except Exception:  # `find_source` says what is wrong with it, where anything is
        return 0
    return sum(weight.numel() for weight in model.parameters())


def find_source(name: str, output_stride: int) -> tuple[Any, Source, dict[str, int]]:
    """Build a network of timm without classifier and without weights, and run it once.

    A network that can be dilated to the output stride is. Of another, the first way is taken in
    which it gives maps of pictures of any size, or else of tiles of its own picture size.

    Args:
        name: the model's name in timm, with or without the tag of its weights.
        output_stride: picture pixels per cell of the maps that are asked for.
    Returns:
        timm's network in evaluation mode; how its maps are read; and the channels of each tap.
    Raises:
        BackboneError: timm has no such model, or it gives no maps.
    """
    check_name(name)
    if output_stride not in STRIDES:
        raise _unfit(name, output_stride, ValueError('the output strides are 8, 16 and 32'))
    try:
        model = _built(name, global_pool='', output_stride=output_stride)
        source, channels = _measured(model, output_stride, is_dilated=True)
        if source.strides['conv6'] == output_stride:
            return model, source, channels
    except Exception:  # constructors refuse an output stride in many ways
        pass
    reason: Exception | None = None
    for keywords in ANY_SIZE:
        try:
            model = _built(name, **keywords)
            _remove_pooling(model)
        except Exception as error:
            reason = error
            continue
        for multiple, tile in _picture_sizes(model):
            try:
                source, channels = _measured(model, multiple, tile)
                return model, source, channels
            except Exception as error:  # a network of another kind can raise anything
                reason = error
    assert reason is not None  # each way has raised something
    raise _unfit(name, output_stride, reason)


def check_name(name: str) -> None:
    """Check that timm has a model, and its weights where the name has their tag.

    Raises:
        BackboneError: it does not, and the message has names that it has.
    """
    timm = import_timm()
    if not timm.is_model(name):
        raise BackboneError(name, f'timm has no such model; {_near_misses(name)}')
    model_name, _, tag = name.partition('.')
    if not tag:
        return
    tagged = timm.list_models(f'{model_name}.*', include_tags=True)
    if name not in tagged:
        tags = ', '.join(known.partition('.')[2] for known in tagged) or 'none'
        raise BackboneError(
            name, f'timm has no weights {tag} of {model_name} (it has: {tags}); leave .{tag} out'
        )


def _near_misses(name: str) -> str:
    """Names that a user may have meant by that of a model, in words.

    They are names that are spelt alike, or else names with a long part of it, because other
    libraries call the same models otherwise (dinov2_vits14).
    """
    models = import_timm().list_models()
    close = difflib.get_close_matches(name, models, 3)
    if not close:
        parts = [part for part in name.split('_') if len(part) > 3]
        close = [model for model in models if any(part in model for part in parts)][:3]
    if not close:
        return 'timm.list_models() has their names'
    return f'did you mean {", ".join(close)}?'


def _built(name: str, **keywords: Any) -> Any:
    """timm's network in evaluation mode, without the layers after its last map."""
    model = import_timm().create_model(name, pretrained=False, num_classes=0, **keywords)
    # a part of the classifier can be left, for example a norm; it is not used here
    classifiers = model.pretrained_cfg['classifier'] or ()
    if isinstance(classifiers, str):
        classifiers = (classifiers,)
    for classifier in classifiers:
        setattr(model, classifier.split('.')[0], nn.Identity())
    return model.eval()


def _picture_sizes(model: Any) -> Iterator[tuple[int, tuple[int, int] | None]]:
    """The picture sizes to try a network with: (multiple, tile) as in `Source`."""
    height, width = model.pretrained_cfg['input_size'][1:]
    stride = max(stage['reduction'] for stage in model.feature_info)
    yield stride, None
    yield 2 * stride, None
    if height == width:
        yield height, None  # networks whose windows divide a picture of this size only
        yield height, (height, width)


def _remove_pooling(model: Any) -> None:
    """Remove a pooling that has weights, which transformers of CLIP's kind have.

    Asked to leave the pooling out, constructors would make other norms than their weights have.
    """
    with contextlib.suppress(Exception):  # a network that cannot do without keeps it unused
        model.reset_classifier(0, '')


@torch.no_grad()
def _measured(
    model: Any,
    multiple: int,
    tile: tuple[int, int] | None = None,
    is_dilated: bool = False,
) -> tuple[Source, dict[str, int]]:
    """Run a network on a picture, and read from the sizes of its maps how to read them.

    Args:
        model: timm's network in evaluation mode.
        multiple, tile, is_dilated: see `Source`.
    Returns:
        How its maps are read, and the channels of each tap.
    Raises:
        ValueError: the sizes do not belong to a picture that is cut into cells.
        Exception: any other, from within the network.
    """
    size = tile or _probe_size(multiple)
    image = torch.zeros(1, 3, *size)
    output, stages = model.forward_intermediates(image)
    strides = [_stride(stage, size) for stage in stages]
    numbers = _tap_stages(strides)
    form = _form(output, stages[-1])
    conv6 = output_map(model, output, stages[-1], form)
    source = Source(
        multiple=multiple,
        tile=tile,
        stages=numbers,
        strides={
            'conv3': strides[numbers[0]],
            'conv4': strides[numbers[1]],
            'conv5': strides[numbers[2]],
            'conv6': _stride(conv6, size),
        },
        form=form,
        is_dilated=is_dilated,
        is_flat=len(set(strides)) == 1,
    )
    channels = {
        'conv3': stages[numbers[0]].shape[1],
        'conv4': stages[numbers[1]].shape[1],
        'conv5': stages[numbers[2]].shape[1],
        'conv6': conv6.shape[1],
    }
    return source, channels


def _form(output: torch.Tensor, stage: torch.Tensor) -> str:
    """The form of a network's output, see `Source`; `stage` is the map of its last stage.

    Raises:
        ValueError: it is no tensor.
    """
    if not isinstance(output, torch.Tensor):
        raise ValueError(f'its output is a {type(output).__name__}, not a map')
    if output.ndim == 3:
        return 'tokens'
    if output.shape[1:3] == stage.shape[2:]:
        return 'cells'
    return 'map'


def _probe_size(multiple: int) -> tuple[int, int]:
    """The size of a small picture that is not square."""
    if multiple <= 64:
        return 3 * multiple, 4 * multiple
    return multiple, 2 * multiple


def _stride(maps: torch.Tensor, size: tuple[int, int]) -> int:
    """Picture pixels per cell of maps [N, C, h, w] of a picture of this size (height, width).

    Raises:
        ValueError: the cells do not cover the picture evenly, or these are no maps.
    """
    height, width = size
    if maps.ndim != 4:
        raise ValueError(f'its stages have sizes {tuple(maps.shape)}')
    rows, columns = maps.shape[2:]
    stride = height // rows
    if (rows * stride, columns * stride) != size:
        raise ValueError(f'a picture of {height}×{width} gives a map of {rows}×{columns}')
    return stride


def _tap_stages(strides: list[int]) -> tuple[int, int, int, int]:
    """The numbers of the stages that are conv3, conv4, conv5, and of the last one.

    Args:
        strides: that of each stage. The blocks of a Vision Transformer all have the same.
    """
    count = len(strides)
    last = count - 1
    if len(set(strides)) == 1:
        quarter = max(0, round(count / 4) - 1)
        half = max(0, round(count / 2) - 1)
        three_quarters = max(0, round(3 * count / 4) - 1)
        return quarter, half, three_quarters, last
    low = 0
    for number, stride in enumerate(strides):
        if stride <= 4:
            low = number
    return low, max(0, count - 3), max(0, count - 2), last


def short_reason(error: Exception) -> str:
    """The first line of an error's message, at most 120 characters; its type if that is empty."""
    lines = str(error).splitlines() or ['']
    return lines[0][:120].rstrip('. ') or type(error).__name__


def _unfit(name: str, stride: int, error: Exception) -> BackboneError:
    """The error of a model that cannot be a backbone; `error` is the one that it raised."""
    return BackboneError(
        name,
        f'cannot be used at output stride {stride} ({short_reason(error)}); take another stride or '
        'network, e.g. tf_efficientnet_lite0, resnet50, vit_small_patch14_dinov2',
    )
