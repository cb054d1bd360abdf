"""The two exceptions that end a run early: a user's mistake, and a stop by signal."""


class UserError(Exception):
    """A mistake in what the user gave: a missing file, a corrupt image, a wrong checkpoint, a bad
    flag.

    `tool.run.command_line.run` prints the message on one line and exits with code 2.

    Args:
        message: names the file or the flag, and says how to mend it. A DataLoader re-raises a
            worker's exception with the worker's traceback pasted into its message. Of such a
            message only the line that the worker raised is kept.
    """

    def __init__(self, message: str):
        marker = 'tool.run.errors.UserError: '
        if 'Original Traceback' in message and marker in message:
            message = message.rsplit(marker, 1)[1]
        super().__init__(' '.join(message.split()))


class Interrupted(Exception):
    """A run that ended early, in good order, because a signal asked for it.

    `tool.run.command_line.run` prints the message and exits with code 128 + `signal`.

    Args:
        signal: number of the signal.
        message: what to tell the user; nothing is printed where it is empty.
    """

    def __init__(self, signal: int, message: str):
        super().__init__(message)
        self.code = 128 + signal
