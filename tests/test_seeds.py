"""Keys: a number for each purpose, the same everywhere."""

import os
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from gptlab.seeds import key

PARTS = st.lists(st.integers() | st.text(), max_size=4)


@given(one=PARTS, two=PARTS)
def test_each_its_own(one: list[int | str], two: list[int | str]) -> None:
    """Different parts, or the same cut or typed otherwise, have different keys; all fit a signed 64-bit number."""
    assert (key(*one) == key(*two)) == (one == two)
    assert 0 <= key(*one) < 2**63


def test_what_is_easily_confused() -> None:
    """A number is not its digits, and two words are not one."""
    assert len({key(1, "2"), key("1", 2), key(12), key("12"), key("1", "2"), key("1\0", "2"), key("1", "\x002")}) == 7


def test_the_same_in_every_process() -> None:
    """A key does not depend on the process, as Python's own hash of a text does."""
    code = "from gptlab.seeds import key; print(key(7, 'dropout', 3))"
    for salt in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": salt}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        assert int(done.stdout) == key(7, "dropout", 3)
