"""The exceptions that end a run early: a user's mistake, a full disk, and a stop by signal."""

# Characters that an error line has at most. What comes from a file can be megabytes long.
LONGEST_LINE = 300
# Of a line that is too long, words are cut to so many characters before sentences are,
_LONGEST_WORD = 40
# and the last characters are kept: they say what the user can do.
_KEPT_END = 97


def shortened(text: str) -> str:
    """A text on one line of at most LONGEST_LINE characters, which a terminal can show.

    Where it is longer, the longest words (paths, what a file holds) lose their middle, as far as
    needed; then the line itself does. … stands for what was left out. Control characters, which
    could make a terminal do something, are escaped.
    """
    # what is far too long is cut first, so that no time is spent on what is not shown
    if len(text) > 100 * LONGEST_LINE:
        text = text[: 50 * LONGEST_LINE] + '…' + text[-50 * LONGEST_LINE :]
    words = ''.join(map(_shown, text)).split()
    line = ' '.join(words)
    while len(line) > LONGEST_LINE:
        longest = max(range(len(words)), key=lambda index: len(words[index]))
        length = len(words[longest])
        if length <= _LONGEST_WORD:
            return _without_middle(line, LONGEST_LINE, _KEPT_END)
        new_length = max(_LONGEST_WORD, length - (len(line) - LONGEST_LINE))
        words[longest] = _without_middle(words[longest], new_length, new_length // 2)
        line = ' '.join(words)
    return line


def _without_middle(text: str, length: int, kept_end: int) -> str:
    """A text of `length` characters: the start and the end of a longer one, … between them."""
    return f'{text[: length - kept_end - 1]}…{text[-kept_end:]}'


def _shown(character: str) -> str:
    """A character as an error line shows it."""
    is_control = ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0
    if is_control and not character.isspace():
        return ascii(character)[1:-1]
    return character


class UserError(Exception):
    """A mistake in what the user gave: a missing file, a corrupt image, a wrong checkpoint, a bad
    flag.

    `tool.run.command_line.run` prints the message on one line and exits with code 2.

    Args:
        message: names the file or the flag, and says how to mend it. It is `shortened`.
    """

    def __init__(self, message: str):
        super().__init__(shortened(message))


class OutputError(UserError):
    """A file that cannot be written: the disk is full, or the place is not writable.

    A training that meets it in the middle adds how it can go on (`tool.train.set_up`).
    """


class OutputNameError(OutputError):
    """A file that cannot be written under its name: it is too long, or a folder has it.

    Files of other names can be written there.
    """


class Interrupted(BaseException):
    """A run that ended early, in good order, because a signal asked for it.

    `tool.run.command_line.run` prints the message and exits with code 128 + `signal`. Like
    KeyboardInterrupt it is no Exception: code that goes on after any error must not go on after a
    signal.

    Args:
        signal: number of the signal.
        message: what to tell the user; nothing is printed where it is empty.
    """

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.code = 128 + signal
