"""Ways to damage a file, as strategies of hypothesis, and what reading it costs."""

import tracemalloc
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st


@st.composite
def one_byte_changed(draw, content: bytes, start: int = 0, end: int | None = None):
    """The content with another value for one byte of [start, end)."""
    position = draw(st.integers(start, (len(content) if end is None else end) - 1))
    # the values that sizes and lengths are mistaken at, more often
    value = draw(st.sampled_from([0, 1, 0x7F, 0x80, 0xFF]) | st.integers(0, 255))
    return content[:position] + bytes([value]) + content[position + 1 :]


@st.composite
def several_bytes_changed(draw, content: bytes):
    """The content with other values for up to four bytes."""
    for _ in range(draw(st.integers(1, 4))):
        content = draw(one_byte_changed(content))
    return content


@st.composite
def shorter(draw, content: bytes):
    """The first bytes of the content, at least one less than all."""
    return content[: draw(st.integers(0, len(content) - 1))]


def peak_memory(function: Callable[[], Any]) -> tuple[Any, int]:
    """The result of a call, or the exception that it raised, and the bytes that it allocated at
    the peak."""
    tracemalloc.start()
    try:
        result = function()
    except Exception as error:
        result = error
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    return result, peak
