"""How a run ends early: the one kind of error a user sees, a single line with exit code 2; and a
stop by signal."""


class UserError(Exception):
    """A mistake in what the user gave (a missing file, a corrupt image, a wrong checkpoint, a bad
    flag).

    `tool.run.command_line.run` prints its message on one line and exits with 2. A DataLoader
    re-raises a worker's exception with the worker's traceback pasted into the message; only the
    line the worker raised is kept.
    """

    def __init__(self, message: str):
        marker = 'tool.run.errors.UserError: '
        if 'Original Traceback' in message and marker in message:
            message = message.rsplit(marker, 1)[1]
        super().__init__(' '.join(message.split()))


class Interrupted(Exception):
    """A run that ended early in good order because a signal asked for it.

    `tool.run.command_line.run` exits with 128 + the signal's number.

    Args:
        message: what to tell the user; '' tells nothing.
    """

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.code = 128 + signal
