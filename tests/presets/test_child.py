"""tool/presets/child.py: what a log ended with."""

from tool.presets.child import last_line


def test_last_line_is_of_the_last_run(tmp_path):
    log = tmp_path / 'log'
    log.write_text('$ python a\na.py: error: old\n$ python a\nstep 1\nKilled\n\n')
    assert last_line(str(log)) == 'Killed'
