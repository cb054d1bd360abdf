"""Maps of the regions that are sure: IRN's boundary head learns from them (docs/method.md §10.13).

This module does not import torch, so that the worker processes of aff_prepare.py start quickly.
"""

import argparse
import functools
from dataclasses import dataclass

import numpy as np

from network.refiners.preparation import Preparation
from tool.files.manifest import fingerprint
from tool.files.maps import read_cam
from tool.files.picture_stage import Output
from tool.files.pictures import read_image, write_mask
from tool.files.stage_of_input import BOUNDARY_LABELS
from tool.method.boundary_label import BG_SCORE, FG_SCORE, boundary_label
from tool.method.class_set import ClassSet
from tool.run.errors import UserError
from voc12.layout import mask_bytes


@dataclass(frozen=True)
class LabelOptions:
    """Settings that the label map of a picture is made with, the same for all pictures."""

    # a class is sure where its CAM wins against this background score
    fg_score: float
    # the background is sure where no CAM wins against this background score
    bg_score: float
    # mean-field iterations of the CRF
    crf_iters: int
    # what computes the CRF: one of tool.method.crf.BACKENDS
    crf_backend: str
    # the classes of the data
    classes: ClassSet


class SureRegions(Preparation):
    """Label maps <out_crf>/<name>.png: class ids, 0 for the background, 255 where unsure."""

    flags = {'conf_fg_thres': FG_SCORE, 'conf_bg_thres': BG_SCORE}

    def outputs(self, args: argparse.Namespace) -> list[Output]:
        if args.conf_bg_thres > args.conf_fg_thres:
            raise UserError(
                f'--conf_bg_thres {args.conf_bg_thres} is above --conf_fg_thres '
                f'{args.conf_fg_thres}; a pixel would be sure to be both'
            )
        settings = {
            'stage': BOUNDARY_LABELS.stages[0],
            'cam_dir': fingerprint(args.cam_dir),
            'crf_iters': args.crf_iters,
            'conf_fg_thres': args.conf_fg_thres,
            'conf_bg_thres': args.conf_bg_thres,
            'crf_backend': args.crf_backend,
        }
        size = functools.partial(mask_bytes, args.voc12_root)
        return [Output(args.out_crf, '.png', settings, size)]

    def arguments(
        self, args: argparse.Namespace, classes: ClassSet, name: str, outputs: list[Output]
    ) -> tuple[str, LabelOptions]:
        (output,) = outputs
        options = LabelOptions(
            args.conf_fg_thres, args.conf_bg_thres, args.crf_iters, args.crf_backend, classes
        )
        return output.path(name), options

    @staticmethod
    def prepare(image_file: str, cam_file: str, path: str, options: LabelOptions) -> None:
        """Make and write the label map of one picture.

        Args:
            image_file: the picture.
            cam_file: its CAMs.
            path: the file to write.
            options: how the label map is made.
        """
        image = np.array(read_image(image_file))
        cam = read_cam(cam_file, options.classes, image.shape[:2])
        label = boundary_label(
            image,
            cam,
            options.fg_score,
            options.bg_score,
            options.crf_iters,
            options.crf_backend,
        )
        write_mask(path, label)

    def about(self, args: argparse.Namespace) -> str:
        return f'label maps at {args.conf_fg_thres} and {args.conf_bg_thres}'


PREPARATION = SureRegions()
