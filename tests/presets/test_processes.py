"""tool/presets/processes.py: the words of a command that decide its result."""

import pytest

from tool.presets.processes import deciding_words, launched

COMMAND = ['contrast_infer.py', '--weights', 'seam.pth', '--out_cam', 'cam']


@pytest.mark.parametrize('count', [1, 2, 8])
def test_the_number_of_processes_decides_nothing(count):
    assert deciding_words(launched(COMMAND, count)) == COMMAND


@pytest.mark.parametrize(
    'workers', [['--jobs', '3'], ['--num_workers', '0'], ['DATA_WORKERS=2'], ['--jobs']]
)
def test_the_number_of_workers_decides_nothing(workers):
    assert deciding_words([*COMMAND, *workers]) == COMMAND


def test_all_other_words_decide():
    for word in ('--overwrite', '--out_crf', 'crf', 'TRAIN_LR=0.1', '3'):
        assert deciding_words([*COMMAND, word]) == [*COMMAND, word]
    assert deciding_words([]) == []
