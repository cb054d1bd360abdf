"""Annotations in COCO's format."""


def rectangle(left, top, right, bottom):
    """The segmentation of a rectangle: a list of one polygon."""
    return [[left, top, right, top, right, bottom, left, bottom]]


def annotation(number, image, category, segmentation, area, crowd=0):
    """One annotation; `number`, `image` and `category` are ids."""
    return {
        'id': number,
        'image_id': image,
        'category_id': category,
        'segmentation': segmentation,
        'area': area,
        'iscrowd': crowd,
    }
