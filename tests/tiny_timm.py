"""Small networks of timm's families, registered with timm under names of their own.

timm has networks for tests of some families; these are of the others. They are made by timm's own
constructors, with fewer channels and blocks.
"""

from typing import Any

import timm
from timm.models import register_model
from torch import nn


def _small(original: str, small: dict[str, Any], pretrained: bool, asked: dict) -> nn.Module:
    """A network of timm with other sizes; `asked` are the arguments that its caller gives."""
    return timm.create_model(original, pretrained=pretrained, **{**small, **asked})


VIT = {'embed_dim': 32, 'depth': 4, 'num_heads': 2}


@register_model
def tiny_dinov2(pretrained=False, **asked):
    """Patches of 14 pixels, LayerScale; position embeddings of 4×4 patches."""
    return _small('vit_small_patch14_dinov2', {**VIT, 'img_size': 56}, pretrained, asked)


@register_model
def tiny_dinov2_reg(pretrained=False, **asked):
    """The same with four register tokens, which have no position."""
    return _small('vit_small_patch14_reg4_dinov2', {**VIT, 'img_size': 56}, pretrained, asked)


@register_model
def tiny_clip(pretrained=False, **asked):
    """The image tower of CLIP: a norm before the blocks."""
    return _small('vit_base_patch16_clip_224', {**VIT, 'img_size': 64}, pretrained, asked)


@register_model
def tiny_siglip(pretrained=False, **asked):
    """The image tower of SigLIP: no class token, and a pooling with weights."""
    return _small('vit_base_patch16_siglip_224', {**VIT, 'img_size': 64}, pretrained, asked)


@register_model
def tiny_swin(pretrained=False, **asked):
    """Windows of 7×7 patches; its output is [N, h, w, C]."""
    small = {'embed_dim': 16, 'depths': (1, 1, 2, 1), 'num_heads': (1, 2, 2, 4)}
    return _small('swin_tiny_patch4_window7_224', small, pretrained, asked)


@register_model
def tiny_convnextv2(pretrained=False, **asked):
    """ConvNeXt V2, which can be dilated."""
    small = {'depths': (1, 1, 2, 1), 'dims': (16, 32, 48, 64)}
    return _small('convnextv2_atto', small, pretrained, asked)


@register_model
def tiny_hiera(pretrained=False, **asked):
    """Hiera: one picture size only, tokens in the order of its windows."""
    small = {'embed_dim': 16, 'num_heads': 1, 'stages': (1, 1, 2, 1)}
    return _small('hiera_tiny_224', small, pretrained, asked)
