"""Stages as processes of their own, in little time: forked by a server that has loaded torch.

`python tests/faults/server.py` is the server. `Server` starts it and talks to it: a line of JSON to
its stdin, a line from its stdout. A stage that it forks is like one that a command line starts: it
has a session of its own, default signal handlers, and its script runs as `__main__`.
"""

import atexit
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from process_ids import all_end, below, wait_until

ROOT = Path(__file__).parents[2]
LIBRARY = ROOT / 'segmentation' / 'lib'
# what the stages import: read once, by the server
PRELOADED = (
    'contrast_train',
    'contrast_infer',
    'aff_prepare',
    'aff_train',
    'aff_infer',
    'utils.training',
    'utils.testing',
    'voc12.data_folder',
    'voc12.make_lists',
    'network.resnet38_contrast',
    'network.resnet38_aff',
    'tool.method.dense_crf',
    'scipy.ndimage',
)


@dataclass
class Ended:
    """How a stage has ended."""

    # its exit code; a negative one is the signal that killed it
    code: int
    # what it has printed on stdout and stderr
    text: str

    def messages(self) -> list[str]:
        """The lines that say why it has ended."""
        lines = self.text.replace('\r', '\n').splitlines()
        return [line for line in lines if ': error: ' in line or ': stopped by ' in line]


class Started:
    """A stage that was started.

    Attributes:
        pid: the id of its process, which is also that of its session.
    """

    def __init__(self, server: 'Server', pid: int, output: Path):
        self.pid = pid
        self._server = server
        self._output = output
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self._code is None:
            self._code = self._server.ask(poll=self.pid)['code']
        return self._code

    def text(self) -> str:
        """What it has printed so far."""
        return self._output.read_text(errors='replace')

    def send_signal(self, number: int) -> None:
        """Send a signal to its main process."""
        os.kill(self.pid, number)

    def processes(self) -> set[int]:
        """The ids of its processes that live, those of sessions that it has started included."""
        return self.session() | below(self.pid)

    def session(self) -> set[int]:
        """The ids of the processes in its session that live."""
        listed = subprocess.run(['ps', '-eo', 'pid=,sid=,stat='], capture_output=True, text=True)
        found = set()
        for line in listed.stdout.splitlines():
            pid, session, state = line.split()
            if int(session) == self.pid and not state.startswith('Z'):
                found.add(int(pid))
        return found

    def handles_signals(self) -> bool:
        """Whether it is so far that SIGTERM ends it in order. Only Linux tells."""
        try:
            status = Path(f'/proc/{self.pid}/status').read_text()
        except OSError:
            return False
        caught = int(status.partition('SigCgt:')[2].split()[0], 16)
        return bool(caught >> (signal.SIGTERM - 1) & 1)

    def end(self, processes: Iterable[int] = ()) -> Ended:
        """Wait until it has ended; none of its processes may be left then.

        Args:
            processes: the ids of further processes that have to end.
        """
        assert wait_until(lambda: self.poll() is not None), f'does not end: {self.text()}'
        left = {*processes, *self.session()}
        assert all_end(left), f'has left processes behind: {left}'
        return Ended(self._code, self.text())


class Server:
    """The server, and a folder for what the stages print."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._count = 0
        environment = {
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(ROOT), str(ROOT / 'tests'), str(LIBRARY)]),
            # one thread, because the stages are small and many processes share the machine
            'OMP_NUM_THREADS': '1',
            'NUMBA_NUM_THREADS': '1',
        }
        environment.pop('PPC_TRACEBACK', None)  # a user's process has none
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, **request) -> dict:
        """Send a request and read its answer."""
        self._process.stdin.write(json.dumps(request) + '\n')
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(self, words: list, cwd: Path = ROOT, file_limit: int = 0) -> Started:
        """Start a stage.

        Args:
            words: what follows `python` in the command line.
            cwd: the folder in which it is started.
            file_limit: bytes that no file may exceed; 0: no limit.
        """
        self._count += 1
        output = self._folder / f'{self._count}.out'
        output.touch()
        words = [str(word) for word in words]
        if words[0] != '-m':
            words[0] = str(cwd / words[0])  # worker processes read the script, from another folder
        answer = self.ask(start=words, cwd=str(cwd), output=str(output), file_limit=file_limit)
        return Started(self, answer['pid'], output)

    def run(self, words: list, **more) -> Ended:
        """Start a stage and wait for its end."""
        return self.start(words, **more).end()

    def close(self) -> None:
        """End the server."""
        self._process.stdin.close()
        self._process.wait(60)


def serve() -> dict | None:
    """Answer requests.

    Returns:
        In a forked process the stage to run; in the server None, when there are no more requests.
    """
    for line in sys.stdin:
        request = json.loads(line)
        if 'poll' in request:
            pid, status = os.waitpid(request['poll'], os.WNOHANG)
            code = os.waitstatus_to_exitcode(status) if pid else None
            print(json.dumps({'code': code}), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            return request
        print(json.dumps({'pid': pid}), flush=True)
    return None


def become(request: dict) -> None:
    """Turn the forked process into the one that a command line starts."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    output = os.open(request['output'], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.chdir(request['cwd'])
    if request['file_limit']:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request['file_limit'],) * 2)


class QuickEnd:
    """Ends this process after all else that Python does at its end, but for freeing its memory.

    In a forked process that takes longer than a stage, because every page is copied first. Make it
    before anything else registers with `atexit`, whose last function is the first that was
    registered.
    """

    def __init__(self):
        self.code = 0
        atexit.register(self._end)

    def _end(self) -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(self.code)

    def run(self, function: Callable, *arguments) -> None:
        """Call a function, and keep the exit code that it ends with."""
        self.code = 1  # after an exception
        try:
            function(*arguments)
            self.code = 0
        except SystemExit as stop:
            is_number = stop.code is None or isinstance(stop.code, int)
            self.code = (stop.code or 0) if is_number else 1
            raise


def main() -> None:
    """Load what the stages import, and serve."""
    end = QuickEnd()
    import importlib

    import torch

    torch.set_num_threads(1)
    for name in PRELOADED:
        importlib.import_module(name)
    request = serve()
    if request is None:
        return
    become(request)
    from tool.presets.stage_process import run_module, run_script

    words = request['start']
    if words[0] == '-m':
        end.run(run_module, words[1], words[2:])
    else:
        end.run(run_script, words[0], words[1:])


def wait_for(started: Started, seconds: float) -> bool:
    """Wait so long; False if the stage has ended before."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if started.poll() is not None:
            return False
        time.sleep(0.002)
    return started.poll() is None


if __name__ == '__main__':
    main()
