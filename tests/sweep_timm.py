"""Which of timm's networks can be a backbone: tries every name once, without weights.

    nice -n 10 python tests/sweep_timm.py timm_sweep.jsonl [--names NAME ...]

Writes a line for each model: how it is read, or why it cannot be. A name that the file has already
is skipped, so the same command continues. A network is made of tensors without values (the meta
device). One that is refused there is made once more on the CPU, in a process with a limit of time
and memory, because some constructors need values.
"""

import argparse
import json
import os
import resource
import signal
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import timm
import torch

from network.timm_backbone import TimmBackbone
from tool.run.errors import UserError

# Made before the others, because PyTorch imports much at the first operation without values.
WARM_UP = ('test_resnet', 'test_vit', 'test_convnext', 'test_efficientnet')
SECONDS = 120  # for a network
MEMORY = 10 << 30  # bytes of a process
STRIDE = 16
SIZE = (75, 101)  # of the picture that each network is tried with


def tried(name: str, device: str) -> dict:
    """How a network is read, or why it cannot be a backbone."""
    with torch.device(device), torch.no_grad():
        try:
            net = TimmBackbone(name, STRIDE).eval()
        except UserError as error:
            return {'name': name, 'device': device, 'refused': str(error)}
        # without the grid of the output stride, whose weights are made for devices with values
        maps = net.source.maps(net.model, torch.zeros(1, 3, *SIZE))
    for tap, values in maps.items():
        stride = net.source.strides[tap]
        covered = tuple(stride * side for side in values.shape[2:])
        if covered[0] < SIZE[0] or covered[1] < SIZE[1]:
            return {'name': name, 'device': device, 'error': f'{tap} covers {covered} pixels'}
    try:
        net.checkpoint_gradients()
        has_checkpointing = True
    except UserError:
        has_checkpointing = False
    source = net.source
    return {
        'name': name,
        'device': device,
        'dilated': source.is_dilated,
        'flat': source.is_flat,
        'multiple': source.multiple,
        'tile': source.tile,
        'strides': source.strides,
        'frozen': net.frozen,
        'early': len(list(net.early())),
        'parameters': sum(parameter.numel() for parameter in net.model.parameters()),
        'checkpointing': has_checkpointing,
    }


def tried_safely(name: str, device: str) -> dict:
    """`tried`, where any error is a result too."""
    try:
        return tried(name, device)
    except Exception as error:
        return {'name': name, 'device': device, 'error': f'{type(error).__name__}: {error}'[:300]}


def tried_in_a_process(name: str) -> dict:
    """`tried` on the CPU in a process with limits."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        signal.alarm(SECONDS)
        os.write(writing, json.dumps(tried_safely(name, 'cpu')).encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, 'rb') as stream:
        text = stream.read()
    _, status = os.waitpid(child, 0)
    if text:
        return json.loads(text)
    return {'name': name, 'device': 'cpu', 'error': f'ended by signal {os.WTERMSIG(status)}'}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('out')
    parser.add_argument('--names', nargs='+')
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in WARM_UP:
        tried(name, 'meta')
    out = Path(args.out)
    done = set()
    if out.exists():
        done = {json.loads(line)['name'] for line in out.read_text().splitlines()}
    with out.open('a') as file:
        for name in args.names or timm.list_models():
            if name in done:
                continue
            found = tried_safely(name, 'meta')
            if 'dilated' not in found:
                found = tried_in_a_process(name)
            file.write(json.dumps(found) + '\n')
            file.flush()


if __name__ == '__main__':
    main()
