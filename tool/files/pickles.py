"""A look at what a pickle asks of its loader, without loading it.

A pickle is a program for a small stack machine. `scan` runs it on a stack that holds numbers,
texts and tuples, and a placeholder for everything else, so that nothing is built. What a loader
does afterwards takes time and memory in proportion to the length of the pickle:

- No tuple is nested deeply, and a tuple that is used in several places is short and flat. With
  other tuples a few hundred bytes are enough for a hash value that takes years, because Python
  does not keep the hash values of tuples.
- Numbers have at most 64 bits; of longer ones thousands can have the same hash value.
- No length and no place in the memo is beyond the length of the pickle.
"""

import os
import pickletools
from collections.abc import Callable
from dataclasses import dataclass
from pickle import UnpicklingError
from typing import Any, BinaryIO

# How deeply tuples may be nested. What PyTorch and numpy write has five levels.
_DEEPEST = 20
# Items that a tuple may have if it is used in several places.
_LONGEST_SHARED = 64


@dataclass(frozen=True)
class Name:
    """The name of a class or a function in a pickle."""

    # with its module, e.g. 'collections.OrderedDict'
    name: str


class Tuple:
    """A tuple in a pickle.

    Attributes:
        items: its items: int, str, Name, Tuple, or None for everything else.
        depth: 1 if none of the items is a tuple.
    """

    def __init__(self, items: list):
        self.items = items
        self.depth: int = 1
        for item in items:
            if isinstance(item, Tuple):
                self.depth = max(self.depth, item.depth + 1)
        if self.depth > _DEEPEST:
            raise UnpicklingError('its tuples are nested too deeply')


@dataclass(frozen=True)
class Scan:
    """The names that a pickle refers to."""

    # its classes and functions
    names: set[str]
    # its persistent ids: of a file of PyTorch, they describe where the numbers of a tensor are
    persistent: list[Tuple]


# What stands on the stack where the opcode MARK stood.
_MARK = object()


def scan(file: BinaryIO) -> Scan:
    """Find out what a pickle asks of its loader; the file is then behind the pickle.

    Args:
        file: an open file or io.BytesIO, at the start of the pickle.
    Raises:
        UnpicklingError, ValueError, IndexError, KeyError: the pickle is damaged, or it would cost
            time or memory out of proportion to its length.
    """
    start = file.tell()
    length = file.seek(0, os.SEEK_END) - start
    file.seek(start)
    machine = _Machine(length)
    operations = machine.operations()
    # genops fails where a length goes beyond the end of the file
    for opcode, argument, _ in pickletools.genops(file):
        operation = operations.get(opcode.name)
        if operation is None:
            raise UnpicklingError(f'it has the opcode {opcode.name}, which data do not need')
        operation(argument)
    return Scan(machine.names, machine.persistent)


class _Machine:
    """The stack machine.

    Args:
        length: the length of the pickle in bytes.
    """

    def __init__(self, length: int):
        self.length = length
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.names: set[str] = set()
        self.persistent: list[Tuple] = []

    def operations(self) -> dict[str, Callable[[Any], Any]]:
        """{name of an opcode: what it does with its argument}; opcodes of data only."""
        table: dict[str, Callable[[Any], Any]] = {
            'PROTO': self._nothing,
            'FRAME': self._nothing,
            'STOP': self._nothing,
            'MARK': self._mark,
            'POP': self._take_one,
            'POP_MARK': self._take_slice,
            'DUP': self._duplicate,
            'APPEND': self._take_one,
            'APPENDS': self._take_slice,
            'SETITEM': self._take_two,
            'SETITEMS': self._take_slice,
            'BUILD': self._take_one,
            'REDUCE': self._call,
            'LIST': self._collect,
            'DICT': self._collect,
            'EMPTY_TUPLE': lambda _: self._tuple_of(0),
            'TUPLE1': lambda _: self._tuple_of(1),
            'TUPLE2': lambda _: self._tuple_of(2),
            'TUPLE3': lambda _: self._tuple_of(3),
            'TUPLE': self._tuple,
            'GLOBAL': self._global,
            'STACK_GLOBAL': self._stack_global,
            'BINPERSID': self._persistent_id,
            'MEMOIZE': self._memoize,
        }
        for name in ('PUT', 'BINPUT', 'LONG_BINPUT'):
            table[name] = self._put
        for name in ('GET', 'BINGET', 'LONG_BINGET'):
            table[name] = self._get
        for name in ('INT', 'BININT', 'BININT1', 'BININT2', 'LONG', 'LONG1', 'LONG4'):
            table[name] = self._number
        for name in ('UNICODE', 'SHORT_BINUNICODE', 'BINUNICODE', 'BINUNICODE8'):
            table[name] = self.stack.append
        for name in ('STRING', 'BINSTRING', 'SHORT_BINSTRING'):
            table[name] = self.stack.append
        for name in ('NONE', 'NEWTRUE', 'NEWFALSE', 'FLOAT', 'BINFLOAT', 'EMPTY_LIST'):
            table[name] = self._other
        for name in ('EMPTY_DICT', 'SHORT_BINBYTES', 'BINBYTES', 'BINBYTES8', 'BYTEARRAY8'):
            table[name] = self._other
        return table

    def _nothing(self, _: Any) -> None:
        pass

    def _other(self, _: Any) -> None:
        self.stack.append(None)

    def _number(self, value: int) -> None:
        if not -(1 << 63) <= value < 1 << 64:
            raise UnpicklingError('it holds a number of more than 64 bits')
        self.stack.append(value)

    def _mark(self, _: Any) -> None:
        self.stack.append(_MARK)

    def _take(self, count: int) -> list:
        """Take the topmost items from the stack."""
        if count > len(self.stack):
            raise UnpicklingError('its stack is empty too early')
        rest = len(self.stack) - count
        items = self.stack[rest:]
        del self.stack[rest:]
        return items

    def _take_one(self, _: Any) -> None:
        self._take(1)

    def _take_two(self, _: Any) -> None:
        self._take(2)

    def _take_slice(self, _: Any) -> list:
        """Take the items above the topmost mark from the stack, and the mark."""
        items: list = []
        while True:
            item = self.stack.pop()
            if item is _MARK:
                items.reverse()
                return items
            items.append(item)

    def _call(self, _: Any) -> None:
        """Take a function and its arguments, push the result."""
        self._take(2)
        self.stack.append(None)

    def _collect(self, _: Any) -> None:
        """Make a list or a dict of the items above the topmost mark."""
        self._take_slice(None)
        self.stack.append(None)

    def _tuple(self, _: Any) -> None:
        self.stack.append(Tuple(self._take_slice(None)))

    def _tuple_of(self, count: int) -> None:
        self.stack.append(Tuple(self._take(count)))

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _put(self, place: int) -> None:
        if int(place) > self.length:
            raise UnpicklingError('its memo is larger than the file')
        self.memo[int(place)] = self.stack[-1]

    def _get(self, place: int) -> None:
        self._use_again(self.memo[int(place)])

    def _duplicate(self, _: Any) -> None:
        self._use_again(self.stack[-1])

    def _use_again(self, item: Any) -> None:
        """Push an item that is used elsewhere, too."""
        if isinstance(item, Tuple) and (item.depth > 1 or len(item.items) > _LONGEST_SHARED):
            raise UnpicklingError('it uses a long or nested tuple in several places')
        self.stack.append(item)

    def _global(self, module_and_name: str) -> None:
        self._name(module_and_name.replace(' ', '.', 1))

    def _stack_global(self, _: Any) -> None:
        module, name = self._take(2)
        self._name(f'{module}.{name}')

    def _name(self, name: str) -> None:
        self.names.add(name)
        self.stack.append(Name(name))

    def _persistent_id(self, _: Any) -> None:
        (item,) = self._take(1)
        if not isinstance(item, Tuple):
            raise UnpicklingError('a persistent id is no tuple')
        self.persistent.append(item)
        self.stack.append(None)
