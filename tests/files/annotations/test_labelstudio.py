"""tool/files/annotations/labelstudio.py: the decoded brush masks are the mask.

The decoder here follows the description of the encoding. label-studio-sdk, which has one too, takes
half a gigabyte, so it is not installed for the tests.
"""

import json
from xml.etree import ElementTree

import numpy as np
import pytest

from tool.files.annotations import labelstudio
from tool.method.class_set import ClassSet

CLASSES = ClassSet.of(('chat "noir" & <b>', 'voiture à bras', '猫'))
PREFIX = '/data/local-files/?d=pictures/'


def decode(numbers):
    """The values of a run-length encoding, a list of bytes; runs and single values."""
    bits = ''.join(f'{number:08b}' for number in numbers)
    place = 0

    def read(count):
        nonlocal place
        value = int(bits[place : place + count], 2)
        place += count
        return value

    size = read(32)
    value_bits = read(5) + 1
    length_bits = [read(4) + 1 for _ in range(4)]
    values = []
    while len(values) < size:
        is_repeated = read(1)
        length = 1 + read(length_bits[read(2)])
        if is_repeated:
            values += [read(value_bits)] * length
        else:
            values += [read(value_bits) for _ in range(length)]
    assert len(values) == size
    assert len(bits) - place < 8 and '1' not in bits[place:]
    return np.array(values, np.uint8)


def write(folder, pictures, classes=CLASSES):
    """The tasks."""
    labelstudio.write(str(folder), iter(pictures), classes, PREFIX)
    return json.loads((folder / 'tasks.json').read_text('utf-8'))


def drawn(task, size, classes=CLASSES):
    """The mask that the results of a task make."""
    mask = np.zeros(size, np.uint8)
    for result in task['predictions'][0]['result']:
        assert (result['original_height'], result['original_width']) == size
        assert result['type'] == 'brushlabels' and result['value']['format'] == 'rle'
        channels = decode(result['value']['rle']).reshape(*size, 4)
        assert (channels == channels[..., :1]).all()
        assert np.isin(channels, (0, 255)).all()
        (label,) = result['value']['brushlabels']
        mask[channels[..., 3] == 255] = classes.names.index(label)
    return mask


def test_the_results_are_the_mask(tmp_path, mask, annotate, exported):
    (task,) = write(tmp_path, [annotate(mask)])
    assert np.array_equal(drawn(task, mask.shape), exported(mask))


def test_the_encoding_bit_by_bit():
    mask = np.array([[False, True]])
    header = f'{8:032b}' + '00111' + '0010' + '0011' + '0111' + '1111'
    runs = '1' + '00' + '011' + '0' * 8 + '1' + '00' + '011' + '1' * 8
    bits = header + runs
    bits += '0' * (-len(bits) % 8)
    expected = [int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)]
    assert labelstudio.encode(mask) == expected


@pytest.mark.parametrize('length', [2, 3, 4, 5, 64, 65, 16384, 16385, 40000])
def test_runs_at_the_limits_of_a_width(length):
    mask = np.zeros((1, length + 1), bool)
    mask[0, :length] = True
    values = decode(labelstudio.encode(mask)).reshape(-1, 4)
    assert np.array_equal(values[:, 3] == 255, mask[0])


def test_ids_names_and_tags(tmp_path, case, annotate):
    pictures = [annotate(case('empty'), 'x/b.jpg'), annotate(case('holes'), 'x/50% cat #1?.png')]
    tasks = write(tmp_path, pictures)
    assert [task['data']['image'] for task in tasks] == [
        PREFIX + 'b.jpg',
        PREFIX + '50%25%20cat%20%231%3F.png',
    ]
    assert tasks[0]['predictions'][0]['result'] == []
    results = tasks[1]['predictions'][0]['result']
    assert [result['id'] for result in results] == ['object1', 'object2', 'object3', 'object4']

    view = ElementTree.parse(tmp_path / 'labels.xml').getroot()
    image = view.find('Image')
    brush = view.find('BrushLabels')
    assert image.get('value') == '$image'
    assert brush.get('toName') == image.get('name') == results[0]['to_name']
    assert brush.get('name') == results[0]['from_name']
    labels = {label.get('value'): label.get('background') for label in brush}
    assert labels == dict(zip(CLASSES.foreground, ('#800000', '#008000', '#808000')))


@pytest.mark.parametrize('count', [1, 254])
def test_one_and_254_classes(tmp_path, annotate, count):
    mask = np.arange(count + 1, dtype=np.uint8).reshape(1, -1).repeat(2, axis=0)
    classes = ClassSet.of([f'class {number}' for number in range(count)])
    (task,) = write(tmp_path, [annotate(mask)], classes)
    assert np.array_equal(drawn(task, mask.shape, classes), mask)
