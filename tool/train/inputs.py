"""The inputs of a training: the list, the labels, the pictures and their maps.

A training state and a checkpoint record a fingerprint of each kind. A training continues from a
state only where all of them are what they were.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from tool.files import fingerprints


@dataclass(frozen=True)
class Input:
    """One kind of data that a training learns from."""

    # the kind, the key in the record: 'list', 'labels', 'pictures', …
    kind: str
    # what a message calls it, with its place: 'the labels in voc12/cls_labels.npy'
    name: str
    fingerprint: str


def list_input(path: str, names: list[str]) -> Input:
    """The image list of a training, which also decides the order of the pictures."""
    fingerprint = fingerprints.of_bytes('\n'.join(names).encode())
    return Input('list', f'the list {path}', fingerprint)


def labels_input(path: str, labels: np.ndarray) -> Input:
    """The labels [N, K] of the pictures of the list, in its order."""
    return Input('labels', f'the labels in {path}', fingerprints.of_bytes(labels.tobytes()))


def files_input(kind: str, folder: str, paths: Iterable[str]) -> Input:
    """The files of the pictures of the list, in its order.

    Args:
        kind: what they are, in the plural: 'pictures', 'saliency maps', 'pseudo masks', …
        folder: the folder that they are in, for messages.
        paths: the files.
    """
    return Input(kind, f'the {kind} in {folder}', fingerprints.of_files(paths))


def record(inputs: Iterable[Input]) -> dict[str, str]:
    """{kind: fingerprint}, as states and checkpoints hold it."""
    return {item.kind: item.fingerprint for item in inputs}


def first_change(before: dict, inputs: Iterable[Input]) -> str | None:
    """The name of the first kind of data that is not what it was; None where all are.

    Args:
        before: what `record` gave when the state was written.
        inputs: the data of this run.
    """
    for item in inputs:
        if before.get(item.kind) != item.fingerprint:
            return item.name
    return None
