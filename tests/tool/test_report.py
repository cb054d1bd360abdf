"""The report: its content, what it refuses, and how its page behaves in a browser."""

import html
import json
import re
import shutil

import pytest

import browser
from made_up_run import EMPTY_IOU, HOSTILE_CLASS, HOSTILE_NAME, make_run, write_json
from tool import pipeline

SECTIONS = ['ladder', 'pictures', 'classes', 'background', 'losses', 'commands', 'versions']
STAGES = ('seed=my run/seed', 'walk=my run/walk')


@pytest.fixture
def made(tmp_path, monkeypatch):
    """(work folder, names of the pictures) of a run; its parent is the current folder."""
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path)


def sections_of(text):
    return re.findall(r'<section id="(\w+)"', text)


def cells_of(text):
    return text.count('class="cell"')


def rows_of(text):
    """The names of the pictures of the galleries."""
    return [html.unescape(name) for name in re.findall(r'<span class="name">(.*?)</span>', text)]


def test_a_whole_run(made, run):
    work, names = made
    code, out, _ = run('tool.report', '--work_dir', work)
    text = (work / 'report.html').read_text(encoding='utf-8')
    size = (work / 'report.html').stat().st_size / 1e6
    assert code == 0 and out == f'report: {work}/report.html ({size:.1f} MB)\n'
    assert sections_of(text) == SECTIONS
    # ladder, choices, facts
    assert '<td>31.2</td>' in text and '<td>47.8</td>' in text and '6:30 min' in text
    assert '<li>masks: &lt;walk&gt;</li>' in text
    assert '<dd>abc1234</dd>' in text and 'torch 1.2.3' in text
    # pictures: the worst first; each with picture, CAM, two stages and ground truth
    assert rows_of(text)[0] == names[1] and sorted(rows_of(text)) == sorted(names)
    assert cells_of(text) == 4 * 5 and text.count('src="data:image/') == 4 * 5
    assert text.count('>IoU 100.0<') == 3 and f'>IoU {EMPTY_IOU:.1f}<' in text
    # classes, curve, losses, commands
    assert '<td>12.34</td><td>56.78</td>' in text and 'left out: aeroplane, bird' in text
    assert '31.25 at background score 0.31' in text
    assert '>Against ground truth, 4 pictures of list<' in text
    assert 'loss_cls 1' in text and 'loss 3' in text
    assert '--out_rw' in text and text.count('>65 s') == 6 and text.count('not complete') == 1


def test_texts_are_escaped(made, run):
    work, _ = made
    run('tool.report', '--work_dir', work)
    text = (work / 'report.html').read_text(encoding='utf-8')
    assert '<i>' not in text and HOSTILE_NAME not in text and HOSTILE_NAME in rows_of(text)
    assert HOSTILE_CLASS not in text and '&lt;b&gt;&#34;Kühe&#34;&lt;/b&gt;' in text


def test_the_page_needs_nothing_else(made, run):
    work, _ = made
    run('tool.report', '--work_dir', work)
    text = (work / 'report.html').read_text(encoding='utf-8')
    links = re.findall(r'(?:src|href)="(.{0,10})', text)
    assert links and all(link.startswith('data:') for link in links)
    assert '://' not in text


def test_some_pictures(made, run):
    work, names = made
    flags = ('--work_dir', work, '--out', 'a.html')
    run('tool.report', *flags, '--names', names[2], HOSTILE_NAME)
    assert rows_of((work.parent / 'a.html').read_text(encoding='utf-8')) == [names[2], HOSTILE_NAME]
    run('tool.report', *flags, '--pictures', 3)
    text = (work.parent / 'a.html').read_text(encoding='utf-8')
    kinds = re.findall(r'<span class="kind \w+">(\w+)</span>', text)
    assert kinds == ['worst', 'median', 'best'] and rows_of(text)[0] == names[1]
    assert not (work / 'report.html').exists()


@pytest.mark.parametrize(
    'lost, sections',
    [
        (['ladder.json'], ['pictures', 'classes', 'background', 'losses', 'commands', 'versions']),
        (['scores'], ['ladder', 'pictures', 'losses', 'commands', 'versions']),
        (['train.jsonl'], ['ladder', 'pictures', 'classes', 'background', 'commands', 'versions']),
        (['pipeline.json', 'scores', 'train.jsonl'], ['ladder', 'versions']),
        (['seed', 'walk'], ['ladder', *SECTIONS[2:]]),
    ],
)
def test_what_is_missing_has_no_section(made, run, lost, sections):
    work, _ = made
    for name in lost:
        path = work / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert run('tool.report', '--work_dir', work)[0] == 0
    assert sections_of((work / 'report.html').read_text(encoding='utf-8')) == sections


def test_without_ground_truth(made, run):
    work, names = made
    shutil.rmtree(work.parent / 'data' / 'SegmentationClass')
    rows = [{'row': 'walk', 'agreement': 87.65, 'images': 4, 'list': 'l.txt', 'seconds': 1}]
    write_json(work / 'ladder.json', {'rows': rows})
    histogram = {'t': 0.25, 'curve_t': [0, 0.25, 0.5, 0.75], 'histogram': [90, 6, 4, 0]}
    write_json(work / 'scores' / 'seeds.json', histogram)
    assert run('tool.report', '--work_dir', work)[0] == 0
    text = (work / 'report.html').read_text(encoding='utf-8')
    assert '<td>87.7</td>' in text and 'chosen: background score 0.25' in text
    assert rows_of(text) == names and cells_of(text) == 4 * 4 and 'class="score"' not in text


def test_masks_of_other_tools(made, run):
    work, names = made
    flags = ['--voc12_root', 'data', '--list', 'data/list.txt', '--out', 'page/a.html']
    code, _, err = run('tool.report', '--stage', *STAGES, *flags)
    assert code == 0, err
    text = (work.parent / 'page' / 'a.html').read_text(encoding='utf-8')
    assert sections_of(text) == ['pictures', 'versions'] and cells_of(text) == 4 * 3
    flags += ['--gt_dir', 'data/SegmentationClass', '--cam_dir', 'my run/cam']
    assert run('tool.report', '--stage', STAGES[0], '--stage', STAGES[1], *flags)[0] == 0
    text = (work.parent / 'page' / 'a.html').read_text(encoding='utf-8')
    assert sections_of(text) == ['pictures', 'classes', 'versions'] and cells_of(text) == 4 * 5
    assert rows_of(text)[0] == names[1] and 'Of 4 pictures that have ground truth.' in text
    # class 12 is in picture 2 only: the seeds have none of it, the walk has all
    assert '<tr><th>dog</th><td>0.00</td><td>100.00</td></tr>' in text


def test_other_masks_in_the_page_of_a_run(made, run):
    work, _ = made
    assert run('tool.report', '--work_dir', work, '--stage', STAGES[1])[0] == 0
    text = (work / 'report.html').read_text(encoding='utf-8')
    assert sections_of(text) == SECTIONS and cells_of(text) == 4 * 4
    assert text.count('<figcaption>walk <b>') == 4


def test_bad_input(made, refused):
    work, names = made
    refused('tool.report', (), 'give --work_dir')
    refused('tool.report', ('--stage', 'a=b'), 'give --out')
    refused('tool.report', ('--work_dir', work, '--list', 'x'), '--list belongs to --stage')
    refused('tool.report', ('--work_dir', work / 'none'), 'none: no such folder')
    refused('tool.report', ('--work_dir', work / 'seed'), 'neither ladder.json nor pipeline.json')
    refused('tool.report', ('--work_dir', work, '--names', 'nobody'), '--names nobody')
    out = ('--out', 'a.html')
    refused('tool.report', ('--stage', 'a=b', *out), '--voc12_root: --stage needs it')
    flags = (*out, '--voc12_root', 'data', '--list', 'data/list.txt')
    refused('tool.report', ('--stage', 'seed', *flags), '--stage seed: TITLE=DIR is expected')
    refused('tool.report', ('--stage', *STAGES, STAGES[0], *flags), 'two stages of the title seed')
    refused('tool.report', ('--stage', 'a=none', *flags), 'none: no such folder')
    refused('tool.report', ('--stage', 'a=data', *flags), f'{names[0]}.png: no such file')
    flags = ('--stage', STAGES[0], *flags)
    refused('tool.report', (*flags, '--gt_dir', 'my run/cam'), 'has no mask of any picture')
    refused('tool.report', (*flags, '--cam_dir', 'my run/walk'), f'{names[0]}.npy: no such file')
    (work / 'walk' / f'{names[0]}.png').write_bytes(b'no picture')
    refused('tool.report', ('--work_dir', work), f'{names[0]}.png', 'damaged')
    assert not (work / 'report.html').exists() and not (work.parent / 'a.html').exists()


def test_the_pipeline_writes_it_and_survives_its_failure(made, capsys):
    work, _ = made
    pipeline.write_report(str(work))
    assert capsys.readouterr().out.startswith(f'report: {work}/report.html (')
    before = (work / 'report.html').read_bytes()
    (work / 'ladder.json').write_text('{')
    pipeline.write_report(str(work))
    err = capsys.readouterr().err
    assert err.startswith(f'pipeline: no report: {work}/ladder.json: damaged')
    assert err.count('\n') == 1 and (work / 'report.html').read_bytes() == before


def test_whatever_fails_is_one_line_of_the_pipeline(made, capsys, monkeypatch):
    work, _ = made

    def fail(*arguments):
        raise ZeroDivisionError('two\nlines')

    monkeypatch.setattr('tool.report.render', fail)
    pipeline.write_report(str(work))
    last = capsys.readouterr().err.splitlines()[-1]
    assert last == 'pipeline: no report: ZeroDivisionError: two lines'


@pytest.fixture(scope='module')
def chromium(tmp_path_factory):
    """A headless browser for all tests of this file."""
    if browser.find() is None:
        pytest.skip(f'no browser: none of {", ".join(browser.NAMES)} is installed')
    try:
        started = browser.Browser(tmp_path_factory.mktemp('profile'))
    except EOFError:
        pytest.skip(f'{browser.find()} does not start')
    yield started
    started.close()


@pytest.fixture
def page(made, run, chromium):
    """The browser with the report of a run, in a wide window."""
    work, _ = made
    # names that do not fit on a phone
    content = json.loads((work / 'ladder.json').read_text())
    content['choices'] = ['x' * 300]
    content['rows'][1]['row'] = 'random walk ' * 20 + 'y' * 100
    write_json(work / 'ladder.json', content)
    run('tool.report', '--work_dir', work)
    chromium.resize(1280)
    chromium.open(work / 'report.html')
    return chromium


def visible_rows(page):
    """The names of the pictures that are to be seen."""
    rows = '[...document.querySelectorAll(".row")].filter(row => row.getClientRects().length)'
    return page.value(f'{rows}.map(row => row.querySelector(".name").textContent)')


@pytest.mark.parametrize('width', [1280, 390])
@pytest.mark.parametrize('scheme', ['light', 'dark'])
def test_nothing_sticks_out(page, width, scheme):
    page.resize(width)
    page.colour_scheme(scheme)
    page.value('document.querySelectorAll("details").forEach(part => { part.open = true; })')
    assert page.value('document.documentElement.scrollWidth <= window.innerWidth') is True
    # nor out of a section, unless something scrolls in its own box
    sections = '[...document.querySelectorAll("section")]'
    assert max(page.value(f'{sections}.map(part => part.scrollWidth - part.clientWidth)')) == 0
    background = page.value('getComputedStyle(document.body).backgroundColor')
    assert background == {'light': 'rgb(246, 246, 244)', 'dark': 'rgb(22, 22, 21)'}[scheme]
    heights = '[...document.querySelectorAll("button, summary")].map(part => part.offsetHeight)'
    shown = [height for height in page.value(heights) if height > 0]
    assert len(shown) > 20 and min(shown) >= 44
    assert page.errors == []


def test_pictures_are_there_and_nothing_is_loaded(page, made):
    work, _ = made
    sizes = page.value('[...document.querySelectorAll(".cell img")].map(i => i.naturalWidth)')
    assert len(sizes) == 20 and min(sizes) > 80
    assert page.requests == [(work / 'report.html').as_uri()] and page.errors == []


def test_a_click_enlarges_and_escape_closes(page):
    is_open = 'document.querySelector("dialog").open'
    assert page.value(is_open) is False
    page.click('.cell')
    assert page.value(is_open) is True
    source = 'document.getElementById("large").src'
    cells = page.value('[...document.querySelectorAll(".cell img")].slice(0, 5).map(i => i.src)')
    assert page.value(source) == cells[0]
    assert page.value('document.getElementById("large").getBoundingClientRect().height') > 500
    page.press('ArrowRight')
    assert page.value(source) == cells[1]
    page.press('ArrowLeft')
    page.press('ArrowLeft')
    assert page.value(source) == cells[4]
    assert page.value('document.getElementById("caption").textContent').endswith(': ground truth')
    page.press('Escape')
    assert page.value(is_open) is False and page.errors == []


def test_the_keyboard_enlarges(page):
    page.value('document.querySelectorAll(".cell")[3].focus()')
    page.press('Enter')
    caption = page.value('document.getElementById("caption").textContent')
    assert page.value('document.querySelector("dialog").open') is True
    assert caption.endswith(f'IoU {EMPTY_IOU:.1f}')
    page.press('Escape')
    # the keyboard goes on where it was
    place = '[...document.querySelectorAll(".cell")].indexOf(document.activeElement)'
    assert page.value(place) == 3


def test_a_class_hides_the_other_pictures(page, made):
    _, names = made
    assert len(visible_rows(page)) == 4
    page.click('.chip[data-class="2"]')
    assert sorted(visible_rows(page)) == [names[1], HOSTILE_NAME]
    assert page.value('document.getElementById("shown").textContent') == '2 of 4 pictures.'
    chip = page.value('document.querySelector(".chip[aria-pressed=true]").textContent')
    assert chip == HOSTILE_CLASS
    page.click('.chip[data-class="12"]')
    assert visible_rows(page) == [names[2]]
    page.click('.chip[data-class=""]')
    assert len(visible_rows(page)) == 4 and page.errors == []
