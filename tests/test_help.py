"""Every command's --help has groups, every flag is in one, and this project's own additions to the
method are in a group that says so."""

import contextlib
import io
import re
import sys

import pytest

from test_docs import DOCUMENTS, MODULES, SCRIPTS, parser_of
from tool.run.command_line import ADDITIONS

COMMANDS = [*SCRIPTS, *MODULES, 'train', 'test']
GROUPS = ['data', 'model', 'optimisation', 'method', 'output', 'run', ADDITIONS]


def help_of(command: str) -> str:
    printed = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setattr(sys, 'argv', [command, '--help'])
        patch.setenv('COLUMNS', '100')
        with pytest.raises(SystemExit):
            parser_of(command)()
    return printed.getvalue()


def groups_of(command: str) -> dict[str, list[str]]:
    """{title of a group: its flags} of a command's help."""
    text = help_of(command)
    groups = {}
    for line in text[text.index('\noptions:\n') :].splitlines():
        if re.fullmatch(r'\S.*:', line):
            flags = groups[line.removesuffix(':')] = []
        elif line.startswith('  -'):
            flags += re.findall(r'(?<!\S)--?[a-z]\w*', line.split('   ')[0])[:1]
    # what has no flags is no group of flags: the config keys of the segmentation scripts
    return {title: flags for title, flags in groups.items() if flags}


@pytest.mark.parametrize('command', COMMANDS)
def test_every_flag_is_in_a_group(command):
    groups = groups_of(command)
    assert groups.pop('options') == ['-h']
    assert groups and list(groups) == [title for title in GROUPS if title in groups]
    usage = help_of(command).split('\n\n')[0]
    in_usage = set(re.findall(r'(?<![\w-])--\w+', usage))
    assert in_usage == {flag for flags in groups.values() for flag in flags}


@pytest.mark.parametrize('command', ['contrast_train', 'aff_train'])
def test_a_training_script_has_the_groups(command):
    without_settings = {'method'} if command == 'aff_train' else set()
    assert set(GROUPS) - without_settings <= set(groups_of(command))


def test_additions_are_those_of_the_document_of_the_method():
    """The group's flags are the ones of docs/method.md §10, and no other group has any of them."""
    section = re.search(
        r'^## §10 .*?(?=^## )', DOCUMENTS['docs/method.md'], re.MULTILINE | re.DOTALL
    )[0]
    headings = re.findall(r'^### §10.*`(--\w+)`', section, re.MULTILINE)
    rows = [line.split('|')[1] for line in section.splitlines() if line.startswith('| `--')]
    documented = {'--prototypes', *headings}
    documented |= {flag for cell in rows for flag in re.findall(r'--\w+', cell)}
    documented -= {'--weights'}  # only its value `scratch` is an addition
    additions = set()
    elsewhere = set()
    for command in SCRIPTS:
        for title, flags in groups_of(command).items():
            if title == ADDITIONS:
                additions |= set(flags)
            else:
                elsewhere |= set(flags)
    assert additions == documented
    assert not additions & elsewhere
