"""Imports go down: which folder may import from which, and what a folder holds."""

import ast
import subprocess
import sys

import pytest

from mini import ROOT

# The longest folder that a module lies in decides its floor. Modules directly in tool/ are
# commands.
FLOORS = {
    'tool/method': 1,
    'tool/run': 1,
    'tool/train': 2,
    'tool/files': 2,
    'tool/presets': 2,
    'tool/report_page': 3,
    'tool/reproduce_tables': 3,
    'tool/device_benchmark': 3,
    'network': 3,
    'voc12': 3,
    'segmentation/lib': 3,
    'segmentation/experiment': 4,
    'tool': 4,
    '': 4,
}
LIB = (
    'datasets',
    'net',
    'utils',
)  # packages of segmentation/lib, which its scripts put on the path
COMMANDS = {
    '__init__',
    'agreement',
    'benchmark',
    'cam_threshold',
    'contact_sheet',
    'export',
    'make_pseudo_masks',
    'pipeline',
    'predict',
    'report',
    'reproduce',
    'seed_masks',
}
FILES = sorted(
    str(path.relative_to(ROOT))
    for folder in ('', 'network', 'voc12', 'tool', 'segmentation')
    for path in (ROOT / folder).glob('**/*.py' if folder else '*.py')
)


def floor(path: str) -> int:
    """The floor of a file, given as a path below the root."""
    folders = [folder for folder in FLOORS if not folder or path.startswith(folder + '/')]
    return FLOORS[max(folders, key=len)]


def module_file(name: str) -> str | None:
    """The file of one of our modules, 'tool.files' → 'tool/files/__init__.py'; None for all
    others."""
    parts = name.split('.')
    if parts[0] in LIB:
        parts = ['segmentation', 'lib', *parts]
    path = '/'.join(parts)
    for file in (f'{path}.py', f'{path}/__init__.py'):
        if (ROOT / file).exists():
            return file
    return f'{path}/__init__.py' if (ROOT / path).is_dir() and len(parts) > 1 else None


def imported(source: str) -> set[str]:
    """Modules that a source imports anywhere; of `from a import b` both a.b and a, whichever of
    them is a module."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, 'imports here are absolute'
            submodules = {
                alias.name for alias in node.names if module_file(f'{node.module}.{alias.name}')
            }
            names |= {f'{node.module}.{name}' for name in submodules}
            if len(submodules) < len(node.names):
                names.add(node.module)
    return names


def offences(path: str, source: str) -> list[str]:
    """The imports of a file that go up, or out of tool/method."""
    found = []
    for name in sorted(imported(source)):
        target = module_file(name)
        if target is None:
            continue
        if floor(target) > floor(path):
            found.append(f'{path} (floor {floor(path)}) imports {name} (floor {floor(target)})')
        if path.startswith('tool/method/') and not target.startswith('tool/method/'):
            found.append(f'{path} imports {name}, which is not of the method')
    return found


def loads_torch(source: str) -> bool:
    """True where a source imports torch when it is itself imported: outside every function."""
    waiting = list(ast.parse(source).body)
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import) and any(
            alias.name.split('.')[0] == 'torch' for alias in node.names
        ):
            return True
        if isinstance(node, ast.ImportFrom) and node.module.split('.')[0] == 'torch':
            return True
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            waiting += ast.iter_child_nodes(node)
    return False


@pytest.mark.parametrize('path', FILES)
def test_imports_go_down(path):
    assert offences(path, (ROOT / path).read_text()) == []


def test_only_commands_lie_directly_in_tool():
    assert {path.stem for path in (ROOT / 'tool').glob('*.py')} == COMMANDS
    for command in COMMANDS - {'__init__'}:
        assert "if __name__ == '__main__':" in (ROOT / 'tool' / f'{command}.py').read_text(), (
            command
        )


def test_how_a_command_runs_loads_no_torch():
    modules = sorted(path for path in FILES if path.startswith('tool/run/'))
    assert len(modules) > 5
    assert [path for path in modules if loads_torch((ROOT / path).read_text())] == []
    # nor does what they import
    names = [
        path.removesuffix('/__init__.py').removesuffix('.py').replace('/', '.') for path in modules
    ]
    code = f'import {", ".join(names)}, sys; print("torch" in sys.modules)'
    result = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout == 'False\n', result.stderr


@pytest.mark.parametrize(
    'path, source, part',
    [
        (
            'tool/method/maps.py',
            'from voc12.classes import IGNORE',
            'imports voc12.classes (floor 3)',
        ),
        (
            'tool/method/maps.py',
            'def f():\n    from tool.files import npy',
            'imports tool.files.npy (floor 2)',
        ),
        (
            'tool/method/maps.py',
            'from tool.run.pool import Pool',
            'imports tool.run.pool, which is not of the method',
        ),
        (
            'tool/method/crf.py',
            'def f():\n    from tool.run.errors import UserError',
            'imports tool.run.errors, which is not of the method',
        ),
        ('tool/files/maps.py', 'import network.weights', 'imports network.weights (floor 3)'),
        ('tool/train/log.py', 'from tool import pipeline', 'imports tool.pipeline (floor 4)'),
        ('voc12/data.py', 'import contrast_train', 'imports contrast_train (floor 4)'),
        (
            'network/weights.py',
            'from tool.benchmark import main',
            'imports tool.benchmark (floor 4)',
        ),
    ],
)
def test_an_import_that_goes_up_is_found(path, source, part):
    assert part in ' '.join(offences(path, source))


@pytest.mark.parametrize(
    'path, source',
    [
        ('tool/method/crf.py', 'import numpy\nfrom tool.method import maps'),
        ('tool/run/pool.py', 'from tool.method.crf import BACKENDS'),
        (
            'tool/files/maps.py',
            'import numpy\nfrom tool.files import npy\nfrom tool.method.class_set import ClassSet',
        ),
        (
            'segmentation/lib/utils/training.py',
            'from net import generate_net\nfrom tool.train import engine',
        ),
        ('tool/pipeline.py', 'from voc12.classes import CLASSES'),
        ('eval.py', 'import contrast_train'),
    ],
)
def test_an_import_that_goes_down_is_none(path, source):
    assert offences(path, source) == []


def test_torch_in_a_function_is_loaded_later():
    assert loads_torch('import torch') and loads_torch(
        'try:\n    from torch import nn\nexcept ImportError:\n    pass'
    )
    assert not loads_torch('def f():\n    import torch')


# Who opens pictures and other files. All others call what these modules offer.
OPENS_PICTURES = 'tool/files/pictures.py'
PICTURE_LIBRARIES = {
    'Image.open',
    'PIL.Image.open',
    'cv2.imread',
    'cv2.imdecode',
    'cv2.imreadmulti',
    'cv2.VideoCapture',
    'iio.imread',
    'iio.imopen',
    'iio.imiter',
    'imageio.imread',
    'plt.imread',
}


def calls(source: str) -> list[str]:
    """The dotted names of what a source calls, e.g. Image.open."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            found.append(ast.unparse(node.func))
    return found


@pytest.mark.parametrize('path', FILES)
def test_pictures_are_opened_in_one_place(path):
    """Pillow starts Ghostscript on PostScript, unless it is told the formats; see `FORMATS`."""
    opened = [name for name in calls((ROOT / path).read_text()) if name in PICTURE_LIBRARIES]
    assert opened == (['Image.open'] if path == OPENS_PICTURES else [])


# Who encodes in memory, for `write_bytes` or to put pictures into other files.
ENCODES_IN_MEMORY = (
    'tool/files/annotations/cvat.py',
    'tool/files/annotations/labelme.py',
    'tool/files/npy.py',
    'tool/report_page/gallery.py',
)
PICTURE_WRITERS = {'cv2.imwrite', 'iio.imwrite', 'imageio.imwrite', 'plt.imsave', 'plt.savefig'}


def saves_in(source: str) -> list[str]:
    """What the calls of a method `save` in a source save to."""
    targets = []
    for node in ast.walk(ast.parse(source)):
        is_save = isinstance(node, ast.Call) and ast.unparse(node.func).endswith('.save')
        if is_save and node.args and ast.unparse(node.func) != 'torch.save':
            targets.append(ast.unparse(node.args[0]))
    return targets


@pytest.mark.parametrize('path', FILES)
def test_pictures_are_written_in_one_place(path):
    """Pillow and numpy take a short write to a full disk for a whole one; see `write_bytes`."""
    source = (ROOT / path).read_text()
    assert not PICTURE_WRITERS & set(calls(source))
    if path in ENCODES_IN_MEMORY:
        assert set(saves_in(source)) == {'buffer'}
    elif path == OPENS_PICTURES:
        assert set(saves_in(source)) == {'encoded'}
    elif path != 'tool/train/engine.py':  # its states have a method of this name
        assert saves_in(source) == []


# Who opens other files to read them: the one place, and what reads files of the system.
OPENS_FILES = ('tool/files/reading.py', 'tool/run/measure.py')


def reads(source: str) -> list[str]:
    """The calls in a source that open a file to read it, or parse JSON of any depth."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name = ast.unparse(node.func)
        modes = [ast.unparse(argument) for argument in node.args[1:2]]
        writes = modes not in ([], ["'r'"], ["'rb'"])
        if (name == 'open' and not writes) or name in ('io.open', 'os.fdopen', 'json.load'):
            found.append(ast.unparse(node))
        if name.endswith(('.read_text', '.read_bytes')):
            found.append(ast.unparse(node))
    return found


@pytest.mark.parametrize('path', FILES)
def test_files_are_opened_in_one_place(path):
    """A pipe or a device under the name of a file would block its reader for ever."""
    if path not in OPENS_FILES:
        assert reads((ROOT / path).read_text()) == []


@pytest.mark.parametrize(
    'source, count',
    [
        ("open('a')", 1),
        ("open(path, 'rb')", 1),
        ("open(path, encoding='utf-8')", 1),
        ("open(path, 'w')", 0),
        ('open(path, mode)', 0),
        ('json.load(file)', 1),
        ('pathlib.Path(name).read_text()', 1),
        ('open_file(path)', 0),
    ],
)
def test_a_call_that_opens_a_file_is_found(source, count):
    assert len(reads(source)) == count
