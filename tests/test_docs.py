"""The README and docs/ are true: their commands parse, their example runs, and the paths and links
they name exist."""

import contextlib
import functools
import importlib
import io
import re
import runpy
import shlex
import string
import sys
import types
from pathlib import Path

import pytest
import torch

from mini import make_voc

ROOT = Path(__file__).resolve().parents[1]
DOCUMENTS = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding='utf-8')
    for path in [ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md'))]
}
SCRIPTS = ['contrast_train', 'contrast_infer', 'aff_prepare', 'aff_train', 'aff_infer', 'eval']
MODULES = [
    'tool.pipeline',
    'tool.benchmark',
    'tool.seed_masks',
    'tool.make_pseudo_masks',
    'tool.cam_threshold',
    'tool.agreement',
    'tool.contact_sheet',
    'tool.export',
    'tool.report',
    'tool.reproduce',
    'tool.predict',
    'voc12.from_coco',
    'voc12.from_folder',
    'voc12.make_lists',
    'voc12.make_saliency',
    'voc12.prepare',
    'voc12.score_saliency',
    'voc12.synth',
]
FOLDERS = ('tool', 'network', 'voc12', 'tests', 'segmentation', 'docs', '.ci')
OWN_PRESET = 'presets/mine.py'  # the path by which a document names the preset it shows
EXPERIMENT = ROOT / 'segmentation' / 'experiment' / 'SEAM_deeplabv1_resnet38'


def code_lines(text: str) -> list[str]:
    """The lines of a document's indented code blocks, without their indentation; continued lines
    are joined."""
    joined = re.sub(r' *\\\n *', ' ', text)
    return [line.strip() for line in joined.splitlines() if re.match(r' {4,}\S', line)]


def code_spans(text: str) -> list[str]:
    """What stands between single backticks, outside code blocks."""
    prose = re.sub(r'```.*?```', '', text, flags=re.DOTALL)
    prose = '\n'.join(line for line in prose.splitlines() if not re.match(r' {4,}\S', line))
    return [re.sub(r'\s+', ' ', span) for span in re.findall(r'`([^`]+)`', prose)]


def filled_in(text: str) -> list[str]:
    """The code lines of a document with the values of the shell variables that it sets."""
    values: dict[str, str] = {}
    text = re.sub(
        r'"[^"]*"', lambda match: re.sub(r'\s+', ' ', match[0]), text
    )  # an assignment over several lines
    lines = []
    for line in code_lines(text):
        assignment = re.fullmatch(r'(\w+)=("[^"]*"|\S+)', line)
        line = string.Template(line).safe_substitute(values)
        if assignment:
            values[assignment[1]] = line.partition('=')[2].strip('"')
        lines.append(line)
    return lines


def commands_of(text: str) -> list[str]:
    """All commands of a document that start a script or a module of this repository."""
    found = [
        line for line in filled_in(text) if re.match(r'(\w+=\S+ )*(python|srun|torchrun) ', line)
    ]
    found += [span for span in code_spans(text) if re.match(r'python .*(\.py|-m )', span)]
    return [
        command
        for command in found
        if '-m pytest' not in command and not re.search(r'\bNAME\b', command)
    ]


COMMANDS = [(name, command) for name, text in DOCUMENTS.items() for command in commands_of(text)]


def split_command(command: str) -> tuple[str, list[str]]:
    """(script or module, its arguments) of a command."""
    words = shlex.split(command, comments=True)
    if '-m' in words:
        place = words.index('-m') + 1
    else:
        place = next(index for index, word in enumerate(words) if word.endswith('.py'))
    return words[place], words[place + 1 :]


def parser_of(script: str):
    """The function that parses the command line of a script or a module."""
    name = script.removesuffix('.py')
    if name in ('train', 'test'):
        config = runpy.run_path(str(EXPERIMENT / 'config.py'))['config_dict']
        module = importlib.import_module({'train': 'utils.training', 'test': 'utils.testing'}[name])
        return lambda: module.parse_args(config)
    assert name in SCRIPTS + MODULES, f'{script} is no command of this repository'
    return importlib.import_module(name).parse_args


@pytest.mark.parametrize('name, command', COMMANDS)
def test_a_command_of_the_documents_parses(name, command, monkeypatch, capsys, tmp_path):
    script, arguments = split_command(command)
    parse_args = parser_of(script)
    monkeypatch.setattr(sys, 'argv', [script, *arguments])
    try:
        args = parse_args()
    except SystemExit:
        pytest.fail(f'{name}: {command}\n{capsys.readouterr().err}')
    if script == 'tool.pipeline':  # what it would run has these flags too
        if args.preset == OWN_PRESET:
            args.preset = str(tmp_path / 'mine.py')
            code = re.search(r'```python\n(.*?)```', DOCUMENTS[name], re.DOTALL)[1]
            Path(args.preset).write_text(code, encoding='utf-8')
        if args.preset == 'own':  # which looks at its pictures
            make_voc(tmp_path / 'data')
            args.voc12_root = str(tmp_path / 'data')
        args.show = True
        importlib.import_module(script).main(args)
        shown = capsys.readouterr().out.splitlines()
        assert shown
        for stage, words in map(stage_of, shown):
            assert {word for word in words if word.startswith('--')} <= flags_of(stage), stage


def stage_of(line: str) -> tuple[str, list[str]]:
    """(name of a stage script or module, its arguments) of a line that the pipeline shows."""
    words = shlex.split(line)
    known = [*SCRIPTS, *MODULES, 'train', 'test']
    names = [Path(word).stem if word.endswith('.py') else word for word in words]
    place = next(index for index, name in enumerate(names) if name in known)
    return names[place], words[place + 1 :]


@functools.cache
def flags_of(script: str) -> set[str]:
    """The flags that a command's --help names."""
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, 'argv', [script, '--help'])
        with pytest.raises(SystemExit):
            parser_of(script)()
    return set(re.findall(r'--\w+', printed.getvalue()))


def test_there_are_commands_to_check():
    assert len([command for name, command in COMMANDS if name == 'README.md']) > 20
    assert len(COMMANDS) > 50


@pytest.mark.parametrize('name', DOCUMENTS)
def test_flags_in_the_text_exist(name):
    named = {
        flag for span in code_spans(DOCUMENTS[name]) for flag in re.findall(r'(?<!\S)--\w+', span)
    }
    known = set(re.findall(r'--\w+', (ROOT / 'tool' / 'test_pythons.sh').read_text()))
    known.add('--shm')  # of docker: --shm-size
    for script in [*SCRIPTS, *MODULES, 'train', 'test']:
        known |= flags_of(script)
    assert named <= known


@pytest.mark.parametrize('name', DOCUMENTS)
def test_config_keys_in_the_text_exist(name):
    keys = importlib.import_module('utils.config').KEYS
    named = set(re.findall(r'\b(?:EXP|DATA|MODEL|TRAIN|TEST)_[A-Z_]+\b', DOCUMENTS[name]))
    assert named <= set(keys)


def lost_path(span: str) -> bool:
    """True for a path or a module of this repository that does not exist."""
    if re.fullmatch(r'(tool|network|voc12)(\.\w+)+', span):
        module = ROOT / span.replace('.', '/')
        return not (module.is_dir() or module.with_suffix('.py').exists())
    if not re.fullmatch(r'[\w.-]+(/[\w.-]+)*/?', span):
        return False
    first, suffix = span.split('/')[0], Path(span).suffix
    if '/' in span and first in FOLDERS:
        written_by_commands = suffix in ('.npy', '.txt')
        return not (written_by_commands or (ROOT / span).exists())
    if '/' not in span and suffix in ('.py', '.sh', '.md', '.toml'):
        return not any(True for folder in ('.', *FOLDERS) for _ in (ROOT / folder).rglob(span))
    return False


@pytest.mark.parametrize('name', DOCUMENTS)
def test_paths_in_the_text_exist(name):
    assert [span for span in code_spans(DOCUMENTS[name]) if lost_path(span)] == []


def anchor(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r'[^\w\- ]', '', heading.strip().lower()).replace(' ', '-')


@pytest.mark.parametrize('name', DOCUMENTS)
def test_links_lead_somewhere(name):
    broken = []
    for target, _, section in (
        link.partition('#') for link in re.findall(r'\]\(([^)\s]+)\)', DOCUMENTS[name])
    ):
        if target.startswith(('http:', 'https:')):
            continue
        path = ((ROOT / name).parent / target).resolve() if target else ROOT / name
        if not path.exists():
            broken.append(target)
        elif section:
            headings = re.findall(r'^#+ (.*)$', path.read_text(encoding='utf-8'), re.MULTILINE)
            broken += [f'{target}#{section}'] * (section not in map(anchor, headings))
    assert broken == []


def test_the_readme_is_short():
    assert len(DOCUMENTS['README.md'].splitlines()) <= 200


@pytest.mark.parametrize('name', DOCUMENTS)
def test_lines_are_wrapped(name):
    prose = [line for line in DOCUMENTS[name].splitlines() if not line.startswith(('|', '!['))]
    assert [line for line in prose if len(line) > 120] == []


def test_the_third_baseline_of_the_documents_trains(monkeypatch):
    from network.baselines.baseline import LossOptions

    code = re.search(r'```python\n(.*?)```', DOCUMENTS['docs/architecture.md'], re.DOTALL)[1]
    module = types.ModuleType('network.baselines.cam')
    monkeypatch.setitem(sys.modules, 'network.baselines.cam', module)
    exec(code, module.__dict__)
    net = module.Net(0.0625)
    assert 'proj_cam.weight' in net.state_dict()
    assert 'fc_proj.weight' not in net.state_dict()
    batch = {'image': torch.randn(2, 3, 64, 64), 'label': torch.eye(20)[:2]}
    options = LossOptions(view2_size=32, contrast=module.BASELINE.contrast_options())
    terms = module.BASELINE.losses(net, batch, options)
    assert {'loss_cls', 'loss_nce', 'loss'} <= set(terms)
    assert 'loss_er' not in terms
    terms['loss'].backward()
    assert net.proj_cam.weight.grad.abs().sum() > 0
    maps = module.BASELINE.maps(net.eval(), torch.randn(2, 3, 40, 40), [3], (40, 40))[0]
    assert module.BASELINE.finish(maps).shape == (1, 40, 40)


def test_every_test_that_the_reliability_table_names_exists():
    named = re.findall(r'`([\w/]+\.py)::(\w+)`', DOCUMENTS['docs/reliability.md'])
    assert len(named) > 60
    for file, test in named:
        source = (ROOT / 'tests' / file).read_text(encoding='utf-8')
        assert f'def {test}(' in source, (file, test)
