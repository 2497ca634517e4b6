"""Random training loops: every number is that of an independent float64 account, or it is missing with a reason.

``GRADPROBE_LOOPS=3000 pytest -s tests/measure/test_loops.py`` tries so many and says what came of them.
"""

import os
from collections import Counter, defaultdict

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from support.awkward import threads
from support.loops.compare import outcome, reason, run_under_probes
from support.loops.found import FOUND, loop
from support.loops.program import Backward, Clear, Forward, Freeze, Step
from support.loops.strategies import programs

from gradprobe.measure.output_gradients import PARTED

MANY = int(os.environ.get("GRADPROBE_LOOPS", "0"))
COUNTS, BY_TAG = Counter(), defaultdict(Counter)


@pytest.fixture(scope="module")
def said():
    """At the end of a long run: how many numbers were what, and in which kinds of loops."""
    yield
    if MANY:
        print(f"\n{COUNTS.pop('loops', 0)} loops: {dict(sorted(COUNTS.items()))}")
        for tag, counts in sorted(BY_TAG.items()):
            print(f"  {tag:45} {dict(sorted(counts.items()))}")


@pytest.mark.limit("random loops", "exact, or missing with a reason", "exact, or missing with a reason")
@pytest.mark.slow
@threads(1)
@settings(
    max_examples=MANY or 60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
@given(program=programs(), as_script=st.sampled_from([False, False, False, True]))
def test_a_random_loop_has_the_numbers_of_its_account(said, program, as_script):
    result = outcome(program, as_script)
    COUNTS["loops"] += 1
    COUNTS.update(result.counts)
    for tag in program.tags():
        BY_TAG[tag].update(result.counts)
    note(f"{program}\n" + "\n".join(result.differences))
    assert not result.differences


@pytest.mark.parametrize("program", FOUND.values(), ids=list(FOUND))
@threads(1)
def test_a_loop_that_was_wrong_once_is_right(program):
    assert not outcome(program).differences


@threads(1)
def test_without_the_sum_of_the_passes_that_count_the_number_is_missing_with_the_reason():
    two_passes = (Backward(terms=(0,), retain=True), Clear("p.grad = None", 0, "head a"), Backward(terms=(1,)))
    program = loop(
        *(Freeze(0, False, "trunk"), Forward((0,), leaf=True), *two_passes, Freeze(0, True, "trunk"), Step()),
        *(Freeze(0, False, "trunk"), Step()),
    )
    _, [history] = run_under_probes(program)
    assert reason(history, "stem", "output") == PARTED
    assert history.conditions["ambiguous"] == {"stem": [1]}  # both are in a head's .grad, and went by each other
