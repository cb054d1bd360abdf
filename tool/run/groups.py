"""Groups of pictures of equal size, which a GPU computes together."""

from collections.abc import Iterable, Iterator
from typing import Any

# Pictures that go through a network together on a GPU, if nothing else is asked for.
ON_GPU = 4
# Pixels of the largest pictures of VOC. Of larger pictures fewer are grouped, so that a group takes
# no more memory than one of those.
PICTURE_PIXELS = 500 * 500
# Pictures that may wait for others of their size, for each one that a group may have.
WAITING = 8


def group_size(asked_for: int | None, device: Any) -> int:
    """The number of pictures of VOC's size that form a group.

    Args:
        asked_for: the value of --batch_size; None: ON_GPU on a GPU, otherwise 1.
        device: the torch.device that the network runs on.
    """
    if asked_for is not None:
        return asked_for
    return ON_GPU if device.type == 'cuda' else 1


def groups_of_equal_size(items: Iterable[dict], count: int) -> Iterator[list[dict]]:
    """The items in groups whose pictures have equal sizes.

    An item waits until its group is full, or until WAITING · count items wait: then the group of
    the one that has waited longest is as large as it can be. Groups of one do not wait.

    Args:
        items: they have 'size', (H, W).
        count: items of a group at most; fewer where they have more than PICTURE_PIXELS.
    """
    waiting: dict[tuple[int, int], list[dict]] = {}  # in the order of their first items
    number_waiting = 0
    for item in items:
        size = item['size']
        height, width = size
        largest_group = count * PICTURE_PIXELS // (height * width)
        group = waiting.setdefault(size, [])
        group.append(item)
        number_waiting += 1
        if len(group) >= min(count, max(1, largest_group)):
            done = size
        elif number_waiting >= WAITING * count:
            done = next(iter(waiting))
        else:
            continue
        number_waiting -= len(waiting[done])
        yield waiting.pop(done)
    yield from waiting.values()
