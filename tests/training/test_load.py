"""Many fits in one process, and several at once."""

from __future__ import annotations

import mmap
import sys

import pytest

from benchmarks import load

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="what a process holds is read from /proc")


@pytest.mark.slow
def test_ten_thousand_fits_leave_no_memory_files_or_threads_behind():
    more = load.growth(10_000)
    assert more.megabytes <= 5 and more.files <= 0 and more.threads <= 0


@pytest.mark.thorough
def test_fits_leave_no_files_or_threads_behind():
    more = load.growth(100)
    assert more.files <= 0 and more.threads <= 0


def test_what_is_left_behind_would_be_seen(tmp_path):
    before = load.held()
    files = [(tmp_path / str(number)).open("w") for number in range(3)]
    with mmap.mmap(-1, 20 * 2**20) as memory:  # of its own: what other tests freed is not taken again
        memory[:: mmap.PAGESIZE] = bytes(len(range(0, len(memory), mmap.PAGESIZE)))
        after = load.held()
    assert after.files - before.files == 3 and after.megabytes - before.megabytes > 15
    for file in files:
        file.close()


@pytest.mark.slow
def test_at_once_trainings_have_the_bits_that_they_have_alone():
    """By threads, forked processes, joblib's and two commands, with an empty cache of loops and with a full one."""
    differing = load.differing_bits()
    assert set(differing) == {*load.WAYS, "two processes at once"}
    assert not any(differing.values())


@pytest.mark.thorough
@pytest.mark.parametrize("way", ["threads", "forked processes"])
def test_at_once_trainings_have_the_bits_that_they_have_alone_with_compiled_loops_at_hand(way):
    assert load.digests(way) == load.digests("one by one")
