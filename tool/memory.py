"""What glibc does with freed memory."""
import contextlib
import ctypes
import sys

M_MMAP_THRESHOLD = -3  # of malloc.h


def return_freed_memory() -> None:
    """Give blocks of 4 MB and more back to the system when they are freed; does nothing where there is no glibc.

    By default glibc soon keeps blocks up to 32 MB in one heap, whose holes then add up: 250 MB in CAM inference at four
    scales. The page faults cost up to a twentieth of its time.
    """
    if sys.platform == 'linux':
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, 4 << 20)
