"""A VOC2012 folder of a few generated pictures, and where the shared data are."""

from pathlib import Path

import numpy as np
from PIL import Image

from recipe import uniform
from tool.files.npy import write_npy
from tool.files.pictures import write_mask

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / 'shared'
E2E = SHARED / 'golden' / 'e2e'
GOLDEN = Path(__file__).parent / 'golden'


def make_voc(root: Path, count: int = 4) -> list[str]:
    """Write `count` pictures with a coloured box of class 1 + i % 2 (every third also class 12),
    masks, saliency, labels."""
    names, labels = [f'2007_{i:06d}' for i in range(count)], {}
    (root / 'JPEGImages').mkdir(parents=True)
    for i, name in enumerate(names):
        height, width = 80 + 7 * i, 101 - 5 * i
        pixels = (uniform(name, height, width, 3).numpy() * 120).astype(np.uint8)
        mask = np.zeros((height, width), np.uint8)
        classes = [1 + i % 2] + [12] * (i % 3 == 2)
        for box, class_id in enumerate(classes):
            area = (slice(20, 50), slice(10 + 40 * box, 40 + 40 * box))
            pixels[area] += np.array([100, 20, 60], np.uint8)[(class_id + np.arange(3)) % 3]
            mask[area] = class_id
        Image.fromarray(pixels).save(root / 'JPEGImages' / f'{name}.jpg')
        write_mask(str(root / 'SegmentationClass' / f'{name}.png'), mask)
        (root / 'SALImages').mkdir(exist_ok=True)
        Image.fromarray(((mask > 0) * 255).astype(np.uint8)).save(
            root / 'SALImages' / f'{name}.png'
        )
        labels[name] = np.isin(np.arange(1, 21), classes).astype(np.float32)
    (root / 'list.txt').write_text('\n'.join(names))
    write_npy(str(root / 'cls_labels.npy'), labels)
    return names
