import collections

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from fuzz.targets import TARGETS, File, judge

# `stylekit.pictures.images` installs this filter when it is imported; pytest resets filters for every test.
pytestmark = pytest.mark.filterwarnings(r"ignore:::PIL\.")

EXAMPLES = 30
"""Of each kind of file; `make fuzz` tries 1,000, and keeps those that show something wrong."""


@pytest.mark.parametrize("name", TARGETS)
def test_a_damaged_file_is_read_or_refused_in_one_line(name):
    verdicts = collections.Counter()

    @settings(
        max_examples=EXAMPLES,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(TARGETS[name].files())
    def read(file: File) -> None:
        verdict, text = judge(TARGETS[name], file)
        assert verdict != "wrong", text
        verdicts[verdict] += 1

    read()
    assert verdicts.total() == EXAMPLES and verdicts["fine"] and verdicts["refused"], verdicts
