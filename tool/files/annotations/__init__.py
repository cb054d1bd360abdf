"""Masks as annotations of objects, in the formats of tools in which people correct them.

One module a format: `coco`, `labelme`, `cvat`, `labelstudio`. `objects` has what they share: the
objects of a mask, and their outlines.
"""
