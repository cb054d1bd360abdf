"""tool/run/groups.py: which pictures go through a network together."""

from types import SimpleNamespace

import pytest

from tool.run.groups import ON_GPU, WAITING, group_size, groups_of_equal_size


def items_of(*sizes):
    return [{'name': number, 'size': size} for number, size in enumerate(sizes)]


def names(groups):
    return [[item['name'] for item in group] for group in groups]


WIDE, TALL = (375, 500), (500, 375)


def test_equal_sizes_form_a_group():
    items = items_of(WIDE, TALL, WIDE, WIDE, TALL, WIDE)
    assert names(groups_of_equal_size(items, 2)) == [[0, 2], [1, 4], [3, 5]]


def test_what_finds_no_partner_comes_at_the_end():
    items = items_of(WIDE, TALL, WIDE, (10, 10))
    assert names(groups_of_equal_size(items, 4)) == [[0, 2], [1], [3]]


def test_a_group_of_one_does_not_wait():
    loaded = []

    def loader():
        for item in items_of(WIDE, TALL, WIDE):
            loaded.append(item['name'])
            yield item

    for group in groups_of_equal_size(loader(), 1):
        assert [item['name'] for item in group] == [loaded[-1]]
    assert loaded == [0, 1, 2]


def test_few_items_wait():
    """Pictures that all differ: each waits for a limited number of others."""
    read = 0

    def loader():
        nonlocal read
        for number in range(100):
            read = number + 1
            yield {'name': number, 'size': (number + 1, 10)}

    for made, group in enumerate(groups_of_equal_size(loader(), 2), 1):
        assert [item['name'] for item in group] == [made - 1]
        assert read - made < WAITING * 2
    assert made == 100


def test_every_item_is_in_one_group_and_groups_are_of_one_size():
    sizes = [(300 + 7 * (number * number % 11), 500) for number in range(200)]
    groups = list(groups_of_equal_size(items_of(*sizes), 4))
    assert sorted(name for group in names(groups) for name in group) == list(range(200))
    for group in groups:
        assert len({item['size'] for item in group}) == 1 and len(group) <= 4
    assert max(map(len, groups)) == 4


@pytest.mark.parametrize(
    'size, most', [((500, 500), 4), ((10, 10), 4), ((500, 1000), 2), ((707, 707), 2)]
)
def test_of_large_pictures_fewer_are_grouped(size, most):
    groups = groups_of_equal_size(items_of(*[size] * 8), 4)
    assert [len(group) for group in groups] == [most] * (8 // most)


def test_photos_go_one_by_one():
    groups = groups_of_equal_size(items_of(*[(3000, 4000)] * 3), 4)
    assert names(groups) == [[0], [1], [2]]


def test_only_a_gpu_groups_by_default():
    gpu, cpu = SimpleNamespace(type='cuda'), SimpleNamespace(type='cpu')
    assert (group_size(None, gpu), group_size(None, cpu)) == (ON_GPU, 1)
    assert (group_size(7, gpu), group_size(7, cpu)) == (7, 7)
