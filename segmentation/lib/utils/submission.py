"""The archive of test predictions that the VOC evaluation server takes."""

import io
import os
import tarfile

import numpy as np
from PIL import Image

from tool.files.atomic import atomic
from tool.files.pictures import check_size, image_size, read_mask
from tool.run.errors import UserError
from voc12.classes import NUM_CLASSES, VOC
from voc12.layout import image_path

FOLDER = 'results/VOC2012/Segmentation/comp6_test_cls'  # trained on anything but the test data


def write_submission(path: str, out_dir: str, root: str, names: list[str]) -> None:
    """Pack out_dir/<name>.png of every name into a .tgz and check what was packed; a faulty archive
    is not left behind.

    Raises:
        UserError: a picture is missing, of another size than its JPEG, or holds a value that is no
            class.
    """
    if not path.endswith(('.tgz', '.tar.gz')):
        raise UserError(f'--submission {path}: the server takes a .tgz; use such a name')
    with atomic(path) as temporary:
        with tarfile.open(temporary, 'w:gz') as archive:
            for name in names:
                source = os.path.join(out_dir, name + '.png')
                read_mask(source, VOC)  # a missing or damaged one is named here
                archive.add(source, f'{FOLDER}/{name}.png')
        check_submission(temporary, root, names)


def check_submission(path: str, root: str, names: list[str]) -> None:
    """UserError unless the archive holds exactly one palette PNG for every name, of its JPEG's
    size, with ids 0…20."""
    wanted = {f'{FOLDER}/{name}.png': name for name in names}
    with tarfile.open(path, 'r:gz') as archive:
        members = archive.getnames()
        for member in [*wanted, *members]:
            if members.count(member) != 1 or member not in wanted:
                raise UserError(
                    f'{member}: is in the archive {members.count(member)} times, in the list '
                    f'{int(member in wanted)} times; test again with --overwrite'
                )
        for member, name in wanted.items():
            image = Image.open(io.BytesIO(archive.extractfile(member).read()))
            mask, picture_size = np.array(image), image_size(image_path(root, name))
            if image.mode != 'P':
                raise UserError(
                    f'{member}: is {image.mode} instead of P, the mode of a palette PNG; '
                    'test again with --overwrite'
                )
            check_size(member, mask.shape, picture_size, fix='test again with --overwrite')
            if mask.max() >= NUM_CLASSES:
                raise UserError(
                    f'{member}: holds value {mask.max()}; the server takes class ids '
                    f'0…{NUM_CLASSES - 1} only'
                )
