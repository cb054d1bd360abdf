"""The interface of what makes, of pictures and CAMs, the files that a refiner learns from."""

import argparse
from collections.abc import Mapping
from typing import Any

from tool.files.picture_stage import Output
from tool.method.class_set import ClassSet


class Preparation:
    """A refiner as aff_prepare.py sees it.

    A subclass sets the attribute and defines the methods that raise NotImplementedError here.
    """

    # the flags of aff_prepare.py that are its own, {flag: default}
    flags: Mapping[str, Any]

    def outputs(self, args: argparse.Namespace) -> list[Output]:
        """The output folders, with the settings that decide their files.

        Raises:
            UserError: a value of the flags cannot be used.
        """
        raise NotImplementedError

    def arguments(
        self, args: argparse.Namespace, classes: ClassSet, name: str, outputs: list[Output]
    ) -> tuple:
        """The arguments of `prepare` for a picture, but for its two files.

        Args:
            args: the command line.
            classes: the classes of the data.
            name: the picture.
            outputs: those that lack its file.
        """
        raise NotImplementedError

    @staticmethod
    def prepare(image_file: str, cam_file: str, *arguments: Any) -> None:
        """Make and write the files of one picture, in a worker process.

        Args:
            image_file: the picture.
            cam_file: its CAMs.
            arguments: of `arguments`.
        """
        raise NotImplementedError

    def about(self, args: argparse.Namespace) -> str:
        """The files that are made, in words for the report."""
        raise NotImplementedError
