"""tool/run/progress.py: progress that reads well in a file."""

from tool.run.progress import progress


def test_progress_in_a_file_is_whole_lines(capsys):
    assert list(progress(range(50), desc='images')) == list(range(50))
    text = capsys.readouterr().err
    assert '\r' not in text and text.endswith('\n') and '\n\n' not in text
    assert len(text.splitlines()) == 1 and '50/50' in text and text.startswith('images: 100%')


def test_progress_goes_on_from_its_start(capsys):
    bar = progress(total=10, initial=6)
    bar.update(4)
    bar.close()
    assert '10/10' in capsys.readouterr().err


def test_quiet_progress_says_nothing(capsys):
    assert list(progress(range(3), quiet=True)) == [0, 1, 2]
    assert capsys.readouterr().err == ''
