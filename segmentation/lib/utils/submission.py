"""Writes and checks the archive of test predictions for the VOC evaluation server."""

import io
import os
import tarfile

import numpy as np

from tool.files.atomic import atomic, check_writable
from tool.files.pictures import check_size, image_size, open_picture, read_mask
from tool.run.errors import UserError
from voc12.classes import NUM_CLASSES, VOC
from voc12.layout import image_path

# the server's name for results of networks that may be trained on anything but the test data
FOLDER = 'results/VOC2012/Segmentation/comp6_test_cls'


def check_place(path: str) -> None:
    """Check before the work that the archive has a good name and can be written.

    Raises:
        UserError: it has not, or cannot.
    """
    if not path.endswith(('.tgz', '.tar.gz')):
        raise UserError(f'--submission {path}: the server takes a .tgz; use such a name')
    check_writable(path)


def write_submission(path: str, out_dir: str, root: str, names: list[str]) -> None:
    """Pack the prediction out_dir/<name>.png of every name into a .tgz and check the archive.

    An archive with an error is removed.

    Args:
        path: the archive to write.
        out_dir: folder of the predictions.
        root: the VOC2012 folder.
        names: names of the test pictures.
    Raises:
        UserError: a prediction is missing, has another size than its picture, or holds a value that
            is no class.
    """
    check_place(path)
    with atomic(path) as temporary:
        # of a prediction that is a link the archive gets the file, not the link
        with tarfile.open(temporary, 'w:gz', dereference=True) as archive:
            for name in names:
                source = os.path.join(out_dir, name + '.png')
                read_mask(source, VOC)  # raises an error for a missing or damaged file
                archive.add(source, f'{FOLDER}/{name}.png')
        check_submission(temporary, root, names)


def check_submission(path: str, root: str, names: list[str]) -> None:
    """Check an archive for the VOC evaluation server.

    Args:
        path: the archive.
        root: the VOC2012 folder.
        names: names of the test pictures.
    Raises:
        UserError: unless the archive holds exactly one palette PNG for every name, which has the
            size of the picture and the class ids 0…K only.
    """
    wanted = {f'{FOLDER}/{name}.png': name for name in names}
    with tarfile.open(path, 'r:gz') as archive:
        members = archive.getnames()
        for member in [*wanted, *members]:
            in_archive = members.count(member)
            in_list = int(member in wanted)
            if in_archive != 1 or in_list != 1:
                raise UserError(
                    f'{member}: is in the archive {in_archive} times, in the list '
                    f'{in_list} times; test again with --overwrite'
                )
        for member, name in wanted.items():
            packed = archive.extractfile(member)
            if packed is None:
                raise UserError(f'{member}: is no file in the archive; test again with --overwrite')
            # a mask, so it is read as it is stored
            with open_picture(io.BytesIO(packed.read()), member) as image:
                mode = image.mode
                mask = np.array(image)
            picture_size = image_size(image_path(root, name))
            if mode != 'P':
                raise UserError(
                    f'{member}: is {mode} instead of P, the mode of a palette PNG; '
                    'test again with --overwrite'
                )
            check_size(member, mask.shape, picture_size, fix='test again with --overwrite')
            if mask.max() >= NUM_CLASSES:
                raise UserError(
                    f'{member}: holds value {mask.max()}; the server takes class ids '
                    f'0…{NUM_CLASSES - 1} only'
                )
