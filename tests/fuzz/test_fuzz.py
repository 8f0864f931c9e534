import functools

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz.targets import TARGETS, judge

EXAMPLES = 30
"""Of each kind of file; `make fuzz` tries 1,000, and keeps those that show something wrong."""

files = functools.cache(lambda name: TARGETS[name].files())


@pytest.mark.parametrize("name", TARGETS)
@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
@given(st.data())
def test_a_damaged_file_is_read_or_refused_in_one_line(name, data):
    verdict, text = judge(TARGETS[name], data.draw(files(name)))
    assert verdict != "wrong", text
