from __future__ import annotations

from edgeemo.recognition.lane import Lane


def test_a_hop_knows_whether_it_was_muted_however_late_it_is_answered() -> None:
    lane = Lane()
    for muted, hop in ((True, 3), (False, 5), (True, 8)):
        lane.mute(muted, hop)
    assert [lane.muted_in(hop) for hop in range(10)] == [
        *[False] * 3,
        *[True] * 2,
        *[False] * 3,
        *[True] * 2,
    ]


def test_there_and_back_within_a_hop_is_no_change_and_costs_nothing() -> None:
    lane = Lane()
    for count in range(1001):
        lane.mute(count % 2 == 0, 4)
    assert lane.muted and not lane.muted_in(3) and lane.muted_in(4)
    assert len(lane._changes) <= 1


def test_saying_it_twice_changes_nothing() -> None:
    lane = Lane()
    lane.mute(True, 2)
    lane.mute(True, 4)
    lane.mute(False, 6)
    assert [lane.muted_in(hop) for hop in range(1, 7)] == [False, True, True, True, True, False]


def test_a_change_that_was_meant_for_an_earlier_hop_follows_the_one_before() -> None:
    lane = Lane()
    lane.mute(True, 2)
    lane.mute(False, 7)  # what was pushed goes up to there
    lane.mute(True, 4)
    lane.mute(False, 8)
    lane.mute(True, 5)
    assert lane.muted and [lane.muted_in(hop) for hop in range(9)] == [*[False] * 2, *[True] * 7]
