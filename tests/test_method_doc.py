"""docs/method.md and the code agree on names: functions, tests, section numbers and quirk numbers.

Sources are parsed, not imported, so neither torch nor the project's packages are loaded.
"""

import ast
import functools
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DOCUMENT = ROOT / 'docs' / 'method.md'
TEXT = DOCUMENT.read_text(encoding='utf-8')
SOURCE_FOLDERS = ('network', 'segmentation', 'tests', 'tool', 'voc12')
DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def section(heading: str) -> str:
    """The text under a heading of the second level."""
    return re.search(
        rf'^## {re.escape(heading)}\n(.*?)(?=^## |\Z)', TEXT, re.MULTILINE | re.DOTALL
    )[1]


def cells(row: str) -> list[str]:
    """The cells of a table row."""
    return [cell.strip() for cell in row.strip().strip('|').split('|')]


def in_backticks(text: str) -> list[str]:
    return re.findall(r'`([^`]+)`', text)


Row = tuple[str, list[str], list[str], list[str], list[str]]


def equation_table() -> list[Row]:
    """(module, test files, sections, functions, tests) of every row of the section "From equation
    to function"."""
    rows = []
    module, test_files, header = '', [], []
    for line in section('From equation to function').splitlines():
        if line.startswith('Module `'):
            module, *test_files = in_backticks(line)
            header = []
        elif line.startswith('`tests/') and not header:  # the list of tests goes on
            test_files += in_backticks(line)
        elif line.startswith('|') and not header:
            header = cells(line)
        elif line.startswith('|') and not line.startswith('|--'):
            assert len(cells(line)) == len(header), f'{line}: has {len(cells(line))} cells'
            row = dict(zip(header, cells(line), strict=True))
            numbers = row['§'].split(', ')
            functions = in_backticks(row['function'])
            tests = in_backticks(row['test'])
            rows.append((module, test_files, numbers, functions, tests))
    return rows


@functools.cache
def python_files() -> tuple[Path, ...]:
    """The project's sources: the scripts beside README.md and the files of its packages."""
    files = list(ROOT.glob('*.py'))
    for folder in SOURCE_FOLDERS:
        files += (ROOT / folder).rglob('*.py')
    return tuple(sorted(files))


@functools.cache
def syntax_tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding='utf-8'), str(path))


@functools.cache
def defined_names(path: Path) -> frozenset[str]:
    """Functions and classes of a file, and its methods as Class.method; empty where there is no
    such file."""
    if not path.is_file():
        return frozenset()
    names = set()
    for node in syntax_tree(path).body:
        if isinstance(node, DEFINITIONS):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {
                f'{node.name}.{inner.name}' for inner in node.body if isinstance(inner, DEFINITIONS)
            }
    return frozenset(names)


def where_else(name: str) -> str:
    """The files that define a name, for the message of a failed test."""
    found = [str(path.relative_to(ROOT)) for path in python_files() if name in defined_names(path)]
    return ', '.join(found) or 'nowhere'


def docstrings() -> list[tuple[str, str]]:
    """(place, docstring) of every module, class and function."""
    found = []
    for path in python_files():
        for node in ast.walk(syntax_tree(path)):
            if isinstance(node, (ast.Module, *DEFINITIONS)) and (text := ast.get_docstring(node)):
                found.append((f'{path.relative_to(ROOT)}: {getattr(node, "name", "module")}', text))
    return found


def sections_mentioned(text: str) -> list[str]:
    """Section numbers that a text gives after "method" or "docs/method.md": "method §2.1, §3.2" has
    two."""
    runs = re.findall(r'\bmethod(?:\.md)?,? (§[\d.]+(?:(?:, | and |–|-)§?[\d.]+)*)', text)
    return [number.rstrip('.') for run in runs for number in re.findall(r'\d[\d.]*', run)]


def heading_numbers() -> set[str]:
    return set(re.findall(r'^#+ §(\d+(?:\.\d+)*) ', TEXT, re.MULTILINE))


def test_every_function_of_the_table_exists():
    wrong = [
        f'{name} is not in {module} (but in: {where_else(name)})'
        for module, _, _, functions, _ in equation_table()
        for name in functions
        if name not in defined_names(ROOT / module)
    ]
    assert not wrong, '\n'.join(wrong)


def test_every_test_of_the_table_exists():
    wrong = [
        f'{name} is not in {", ".join(files)} (but in: {where_else(name)})'
        for _, files, _, _, tests in equation_table()
        for name in tests
        if not any(name in defined_names(ROOT / file) for file in files)
    ]
    assert not wrong, '\n'.join(wrong)


def test_every_row_of_the_table_names_a_section_a_function_and_a_test():
    rows = equation_table()
    assert len(rows) > 60
    for module, files, numbers, functions, tests in rows:
        assert functions and tests and files, (module, numbers)
        assert set(numbers) <= heading_numbers(), (module, numbers)


def test_every_section_that_a_docstring_names_is_a_heading():
    mentions = [
        (place, number) for place, text in docstrings() for number in sections_mentioned(text)
    ]
    assert len(mentions) > 30
    wrong = [
        f'{place}: method §{number}'
        for place, number in mentions
        if number not in heading_numbers()
    ]
    assert not wrong, '\n'.join(wrong)


def test_section_numbers_are_found_in_docstrings():
    assert sections_mentioned('EPS (method §2.2, §3.4, §5).') == ['2.2', '3.4', '5']
    assert sections_mentioned('See docs/method.md §3.3.') == ['3.3']
    assert sections_mentioned('(method §3.3, paper §3.2–3.3).') == ['3.3']
    assert sections_mentioned('norm(p) of method §3.1: ReLU') == ['3.1']


def test_every_quirk_is_explained_and_in_the_fidelity_table():
    table = section('Fidelity')
    numbers = re.findall(r'^\| (Q\d+) \|', table, re.MULTILINE)
    assert numbers == [f'Q{i}' for i in range(1, 9)]
    explanations = TEXT.replace(table, '')
    for number in numbers:
        assert f'**{number}.**' in explanations, number


def test_every_quirk_that_the_code_or_the_readme_names_exists():
    numbers = set(re.findall(r'^\| (Q\d+) \|', section('Fidelity'), re.MULTILINE))
    for path in (ROOT / 'README.md', *python_files()):
        if path == Path(__file__).resolve():
            continue
        named = set(re.findall(r'\bQ\d+\b', path.read_text(encoding='utf-8')))
        assert named <= numbers, f'{path.relative_to(ROOT)}: {named - numbers}'


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    kept = re.sub(r'[^\w\- ]', '', heading.lower())
    return kept.replace(' ', '-')


def test_every_link_inside_the_document_leads_to_a_heading():
    anchors = {slug(heading) for heading in re.findall(r'^#+ (.+)$', TEXT, re.MULTILINE)}
    targets = re.findall(r'\]\(#([^)]+)\)', TEXT)
    assert len(targets) > 20
    assert set(targets) <= anchors, set(targets) - anchors


def test_inline_formulas_survive_githubs_markdown():
    """GitHub's Markdown takes away a backslash before punctuation in $…$; its MathJax refuses
    \\operatorname."""
    assert '\\operatorname' not in TEXT
    without_blocks = re.sub(r'^```.*?^```', '', TEXT, flags=re.MULTILINE | re.DOTALL)
    formulas = re.findall(r'\$([^$\n]+)\$', without_blocks)
    assert len(formulas) > 100
    for formula in formulas:
        assert not re.search(r'\\[^A-Za-z]', formula), formula


def test_every_row_of_a_table_has_the_columns_of_its_header():
    columns = 0
    for number, line in enumerate(TEXT.splitlines(), 1):
        if not line.startswith('|'):
            columns = 0
        elif not columns:
            columns = line.count('|')
        else:
            assert line.count('|') == columns, f'line {number}'


def test_formulas_and_lines_are_well_formed():
    assert TEXT.count('```math\n') * 2 == TEXT.count('```')
    for block in re.findall(r'^```math\n(.*?)^```', TEXT, re.MULTILINE | re.DOTALL):
        bare = re.sub(r'\\.', '', block)  # without commands and escaped braces
        assert bare.count('{') == bare.count('}'), block
        assert block.count('\\left') - block.count('\\leftarrow') == block.count('\\right'), block
    for number, line in enumerate(TEXT.splitlines(), 1):
        assert len(line) <= 120, f'line {number} has {len(line)} columns'
        assert line.count('$') % 2 == 0, f'line {number}: a formula is not closed'
