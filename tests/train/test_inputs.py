"""tool/train/inputs.py: what a training learns from, and which of it changed."""

import numpy as np

from tool.train.inputs import files_input, first_change, labels_input, list_input, record


def test_the_order_of_a_list_counts_and_its_place_does_not():
    before = list_input('a.txt', ['x', 'y'])
    assert list_input('b.txt', ['x', 'y']).fingerprint == before.fingerprint
    assert list_input('a.txt', ['y', 'x']).fingerprint != before.fingerprint
    assert list_input('a.txt', ['x']).fingerprint != before.fingerprint


def test_the_first_kind_that_changed_is_named(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(b'1')

    def inputs(label):
        return [
            list_input('l.txt', ['a']),
            labels_input('c.npy', np.array([[label]], np.float32)),
            files_input('pseudo masks', 'masks', [str(path)]),
        ]

    before = record(inputs(1))
    assert list(before) == ['list', 'labels', 'pseudo masks']
    assert first_change(before, inputs(1)) is None
    path.write_bytes(b'2')
    assert first_change(before, inputs(1)) == 'the pseudo masks in masks'
    assert first_change(before, inputs(0)) == 'the labels in c.npy'
    assert first_change({}, inputs(1)) == 'the list l.txt'
