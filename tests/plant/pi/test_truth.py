"""The PI plant's own log: what is written can be read again, and a cut last line is left out."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plant.pi import truth
from plant.pi.events import Event
from plant.pi.states import DigitalState, system_state
from plant.pi.truth import Reached, Sample, Truth, TruthError

VALUES = st.one_of(st.floats(), st.integers(-(2**31), 2**31), st.text(max_size=20), st.none())
SAMPLES = st.builds(
    Sample,
    st.integers(1, 99),
    st.integers(0, 2**62),
    VALUES,
    st.integers(0, 15),
    st.one_of(st.none(), st.integers(193, 320)),
)


@given(st.lists(st.tuples(SAMPLES, st.sampled_from(["Add", "Insert", "Update", "Delete"])), max_size=20))
def test_what_was_written_is_read_again_exactly(
    tmp_path_factory: pytest.TempPathFactory, samples: list[tuple[Sample, str]]
) -> None:
    path = tmp_path_factory.mktemp("truth") / "log"
    log = Truth(path)
    log.point(1, "A", "Float64")
    log.point(1, "B", "Float64")
    log.note(77, samples)
    number = log.frame("channel-1", samples)
    log.frame("channel-1", samples)
    log.read(78, number)
    log.archive(5, [sample for sample, _ in samples])
    log.end()
    # repr: a number that is none is not even equal to itself.
    assert repr(list(truth.produced(path))) == repr([Reached(sample, how, 77) for sample, how in samples])
    (frame,) = truth.frames_read(path)
    assert repr(frame.samples) == repr(tuple(samples))
    assert frame.read_ns == 78
    assert repr([s._replace(point=0) for s in truth.archive(path)[5]]) == repr(
        [s._replace(point=0) for s, _ in samples]
    )
    assert truth.names(path) == {1: ["A", "B"]}
    assert truth.types(path) == {1: "Float64"}
    assert truth.ended(path)


def test_an_event_with_a_state_of_its_set_has_a_number_and_one_of_the_system_has_its_code() -> None:
    running = Event(10, 1, state=DigitalState("Running", 1), substituted=True)
    assert Sample.of(3, running) == Sample(3, 10, 1, truth.GOOD | truth.SUBSTITUTED, None)
    timeout = Event(10, 246, good=False, state=system_state(246))
    assert Sample.of(3, timeout) == Sample(3, 10, None, 0, 246)


def test_a_cut_last_line_is_left_out_and_a_broken_one_in_the_middle_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = Truth(path)
    log.note(1, [(Sample(1, 2, 3.0, 1, None), "Add")])
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:-5])
    assert len(list(truth.produced(path))) == 1
    assert not truth.ended(path)
    path.write_bytes(whole + b"[]\n")
    with pytest.raises(TruthError, match=":2: not a line"):
        list(truth.produced(path))


def test_without_a_path_it_counts_alone() -> None:
    log = Truth()
    log.note(1, [(Sample(1, 2, 3.0, 1, None), "Add")])
    log.read(1, log.frame("c", []))
    log.end()
    assert (log.reached, log.frames, log.frames_read) == (1, 1, 1)
