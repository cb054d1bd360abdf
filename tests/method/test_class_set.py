"""tool/method/class_set.py: names, counts, colours and how two sets differ."""

import pytest

from tool.method.class_set import ClassSet, colour_map
from voc12.classes import VOC


def test_counts_and_equality():
    classes = ClassSet.of(['cat', 'dog'])
    assert classes.names == ('background', 'cat', 'dog')
    assert (classes.num_classes, classes.num_foreground) == (3, 2)
    assert classes == ClassSet(('background', 'cat', 'dog')) != ClassSet.of(['dog', 'cat'])
    assert (VOC.num_classes, VOC.num_foreground) == (21, 20)
    assert (classes.colour_map == colour_map()).all()


def test_a_set_says_what_it_is_and_how_it_differs():
    assert str(VOC) == '20 classes (aeroplane, bicycle, bird, …)'
    assert str(ClassSet.of(['cat'])) == '1 class (cat)'
    assert VOC.difference(VOC) == ''
    assert ClassSet.of(['cat', 'dog']).difference(ClassSet.of(['cat', 'cow'])) == (
        'class 2 is dog in one and cow in the other'
    )
    assert ClassSet.of(['cat']).difference(ClassSet.of(['cat', 'cow'])) == (
        'one has 1 and the other 2'
    )


@pytest.mark.parametrize(
    'names, message',
    [
        ([], 'at least one foreground class'),
        (['cat', ' '], 'a class has an empty name'),
        (['cat', 'cat'], 'the class name cat occurs 2 times'),
        (['background'], 'the class name background occurs 2 times'),
        (list(map(str, range(255))), '255 foreground classes: a mask has 8 bits'),
    ],
)
def test_what_is_no_class_set_is_refused(names, message):
    with pytest.raises(ValueError, match=message):
        ClassSet.of(names)
