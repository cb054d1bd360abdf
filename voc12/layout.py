"""Where the files of a VOC2012 folder are (no torch here: the CPU stages and their worker processes start quickly)."""
import os

from tool.errors import UserError
from tool.files import need_folder


def image_path(root: str, name: str) -> str:
    """JPEG of an image in a VOC2012 folder."""
    return os.path.join(root, 'JPEGImages', name + '.jpg')


def check_images(root: str, names: list[str]) -> None:
    """UserError unless `root` is a VOC2012 folder that holds the JPEG of every name."""
    folder = need_folder(os.path.join(need_folder(root, 'set --voc12_root to the devkit\'s VOC2012 folder'), 'JPEGImages'),
                         'set --voc12_root to the devkit\'s VOC2012 folder')
    have = set(os.listdir(folder))
    lost = [name for name in names if name + '.jpg' not in have]
    if lost:
        raise UserError(f'{image_path(root, lost[0])}: no such picture ({len(lost)} of {len(names)} of the list are missing); '
                        'check --voc12_root and the list')
