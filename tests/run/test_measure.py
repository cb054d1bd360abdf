"""tool/run/measure.py: memory of a process of its own."""

from tool.run import measure


def test_memory_is_that_of_the_process_of_its_own():
    seconds, megabytes = measure.in_a_process(_fill, 64)
    assert 60 < megabytes < 200 and seconds >= 0


def _fill(megabytes):
    return lambda: bytearray(megabytes << 20).count(1)
