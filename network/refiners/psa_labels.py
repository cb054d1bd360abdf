"""CRF maps at a low and a high α: AffinityNet learns from them (docs/method.md §4, §6).

This module does not import torch, so that the worker processes of aff_prepare.py start quickly.
"""

import argparse
import functools
import os
from dataclasses import dataclass

import numpy as np

from network.refiners.preparation import Preparation
from tool.files.manifest import fingerprint
from tool.files.maps import read_cam
from tool.files.npy import write_npy
from tool.files.picture_stage import Output
from tool.files.pictures import read_image
from tool.files.stage_of_input import AFFINITY_MAPS
from tool.method.class_set import ClassSet
from tool.method.crf import affinity_maps
from tool.run.errors import UserError
from voc12.layout import maps_bytes


@dataclass(frozen=True)
class MapOptions:
    """Settings that the maps of a picture are made with, the same for all pictures."""

    # what the CRF's unary term is made of: 'labels' or 'probs'
    unary: str
    # mean-field iterations of the CRF
    crf_iters: int
    # number format of the maps on disk: 'float32' or 'float16'
    dtype: str
    # what computes the CRF: one of tool.method.crf.BACKENDS
    crf_backend: str
    # the classes of the data
    classes: ClassSet


class AlphaMaps(Preparation):
    """A folder <out_crf>/<α> for each α, with dicts of the background and the present classes."""

    flags = {'alpha': [4, 8, 16, 24, 32], 'unary': 'labels', 'dtype': 'float32'}

    def outputs(self, args: argparse.Namespace) -> list[Output]:
        settings = {
            'stage': AFFINITY_MAPS.stages[0],
            'cam_dir': fingerprint(args.cam_dir),
            'crf_iters': args.crf_iters,
            'unary': args.unary,
            'dtype': args.dtype,
            'crf_backend': args.crf_backend,
        }
        value_bytes = np.dtype(args.dtype).itemsize

        size = functools.partial(maps_bytes, args.voc12_root, args.cam_dir, value_bytes=value_bytes)
        return [
            Output(os.path.join(args.out_crf, folder), '.npy', {**settings, 'alpha': alpha}, size)
            for folder, alpha in folders_of(args.alpha).items()
        ]

    def arguments(
        self, args: argparse.Namespace, classes: ClassSet, name: str, outputs: list[Output]
    ) -> tuple[dict[str, float], MapOptions]:
        alphas = {output.path(name): output.settings['alpha'] for output in outputs}
        options = MapOptions(args.unary, args.crf_iters, args.dtype, args.crf_backend, classes)
        return alphas, options

    @staticmethod
    def prepare(
        image_file: str, cam_file: str, outputs: dict[str, float], options: MapOptions
    ) -> None:
        """Make and write the maps of one picture.

        Args:
            image_file: the picture.
            cam_file: its CAMs.
            outputs: the files to write, {file: α}.
            options: how the maps are made.
        """
        image = np.array(read_image(image_file))
        cam = read_cam(cam_file, options.classes, image.shape[:2])
        every_map = affinity_maps(
            image,
            cam,
            outputs.values(),
            options.unary,
            options.crf_iters,
            options.crf_backend,
            num_labels=options.classes.num_classes,
        )
        for path, maps in zip(outputs, every_map):
            converted = {label: prob.astype(options.dtype) for label, prob in maps.items()}
            write_npy(path, converted)

    def about(self, args: argparse.Namespace) -> str:
        return f'α {" ".join(folders_of(args.alpha))}'


def folders_of(alphas: list[float]) -> dict[str, float]:
    """The folder of each α, {name of the folder: α}, for example {'4.00': 4}.

    Raises:
        UserError: an α has more decimals than the name of its folder.
    """
    folders = {f'{alpha:.2f}': alpha for alpha in alphas}
    for folder, alpha in folders.items():
        if float(folder) != alpha:
            raise UserError('--alpha: at most two decimals, the folders are named by them')
    return folders


PREPARATION = AlphaMaps()
