"""Which pictures a gallery shows, and what its cells hold."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from made_up_run import EMPTY_IOU, HOSTILE_NAME, make_run
from tool.files.pictures import read_mask, write_mask
from tool.method.metrics import confusion
from tool.report_page import gallery
from tool.report_page.gallery import chosen_rows, make_gallery, picture_iou, rank
from tool.report_page.mask_stages import sources_of
from tool.report_page.run_files import read_run
from tool.run.errors import UserError
from voc12.classes import PALETTE, VOC


@pytest.fixture
def source(tmp_path):
    work, _ = make_run(tmp_path)
    (only,) = sources_of(read_run(str(work)))
    return only


def decoded(cell):
    head, _, data = cell.url.partition(',')
    assert head == f'data:image/{"png" if cell.is_mask else "jpeg"};base64'
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_iou_of_a_picture_is_over_the_classes_in_truth_or_prediction():
    truth = np.array([[0, 0, 0, 3, 255]], np.uint8)
    prediction = np.array([[0, 0, 7, 3, 5]], np.uint8)
    # background 2/3, class 3 is found, class 7 is wrong; class 5 is at a pixel that does not count
    expected = 100 * (2 / 3 + 1 + 0) / 3
    assert picture_iou(confusion(prediction, truth, 21)) == pytest.approx(expected)
    ignored = np.full((1, 2), 255, np.uint8)
    assert picture_iou(confusion(ignored, ignored, 21)) is None


def test_worst_median_and_best():
    names = [f'p{number}' for number in range(9)]
    scores = {name: float(number) for number, name in enumerate(names)}
    chosen, about = chosen_rows(names, scores, 6)
    kinds = [(name, kind) for name, kind in chosen]
    assert kinds == [
        ('p0', 'worst'),
        ('p1', 'worst'),
        ('p3', 'median'),
        ('p4', 'median'),
        ('p7', 'best'),
        ('p8', 'best'),
    ]
    assert 'of 9 pictures' in about
    assert [name for name, _ in chosen_rows(names, scores, 99)[0]] == names
    assert [kind for _, kind in chosen_rows(names, scores, 1)[0]] == ['worst', 'best']


def test_without_ground_truth_pictures_are_evenly_spaced():
    chosen, about = chosen_rows(list('abcdefghi'), {}, 3)
    assert chosen == [('b', ''), ('e', ''), ('h', '')]
    assert about == '3 of 9 pictures, evenly spaced over the list.'


def test_rank(source):
    ranking = rank(source, source.stages)
    assert ranking.scores['2007_000001'] == pytest.approx(EMPTY_IOU)
    others = [name for name in source.names if name != '2007_000001']
    assert [ranking.scores[name] for name in others] == [100, 100, 100]
    assert ranking.confusions['seeds'][:, 1:].sum() == 0
    assert np.trace(ranking.confusions['random walk']) > 25000


def test_cells(source):
    made = make_gallery(source, [(HOSTILE_NAME, 'best')], 'About.')
    (row,) = made.rows
    titles = [cell.title for cell in row.cells]
    assert titles == ['picture', 'CAM', 'seeds', 'random walk', 'ground truth']
    assert (row.kind, row.score, row.class_ids, row.has_ignored) == ('best', 100, [2], False)
    assert [cell.score is None for cell in row.cells] == [True, True, False, False, True]
    truth = read_mask(f'{source.gt_dir}/{HOSTILE_NAME}.png', VOC)
    for cell in row.cells:
        image = decoded(cell)
        assert image.size == (cell.width, cell.height) == truth.shape[::-1]
    assert (np.asarray(decoded(row.cells[3]).convert('RGB')) == PALETTE[truth]).all()
    heat = np.asarray(decoded(row.cells[1])).astype(int)
    assert heat[truth > 0, 0].mean() > heat[truth == 0, 0].mean() + 40


def test_pictures_become_smaller_where_there_are_many(source, monkeypatch):
    monkeypatch.setattr(gallery, 'LONG_SIDES', (640, 40))
    monkeypatch.setattr(gallery, 'GALLERY_BYTES', 100)
    made = make_gallery(source, [(source.names[0], '')], '')
    assert {max(cell.width, cell.height) for cell in made.rows[0].cells} == {40}


def test_a_mask_of_another_size_is_an_error(source):
    folder = source.stages[-1].folder
    write_mask(f'{folder}/{source.names[0]}.png', np.zeros((4, 5), np.uint8))
    with pytest.raises(UserError, match='is 5x4'):
        rank(source, source.stages)
