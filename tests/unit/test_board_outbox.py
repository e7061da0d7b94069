"""What waits for a viewer: which of it is told, when, and what is left out."""

from __future__ import annotations

import asyncio

from taskora_celery.board.outbox import FRAME_SECONDS, LINES_WAITING, MOMENTS_KEPT, PIECE_BYTES, THINGS_WAITING, Outbox, frame


def test_a_frame_is_one_line_of_json_whatever_the_text_holds() -> None:
    """K4: a line break would end it early."""
    assert frame("line", {"html": "a\nb\r\u2028c"}, 7) == b'id: 7\nevent: line\ndata: {"html":"a\\nb\\r\xe2\x80\xa8c"}\n\n'
    assert frame("list", {"ids": []}) == b'event: list\ndata: {"ids":[]}\n\n'


def test_of_one_thing_the_latest_is_told_ten_times_a_second_at_most() -> None:
    """K4: progress is coalesced; another job's is not held up by it."""
    outbox = Outbox()
    outbox.latest("a", b"a1")
    assert outbox.taken(100.0) == b"a1"
    outbox.latest("a", b"a2")
    outbox.latest("a", b"a3")
    outbox.latest("b", b"b1")
    assert outbox.taken(100.05) == b"b1"
    pause = outbox.pause(100.05)
    assert pause is not None
    assert abs(pause - (FRAME_SECONDS - 0.05)) < 1e-6
    assert outbox.taken(100.1 + 1e-6) == b"a3"
    assert outbox.taken(101.0) == b""
    assert outbox.pause(101.0) is None


def test_a_viewer_that_stays_for_weeks_does_not_grow() -> None:
    """K4: safe to leave running: what was told of jobs that have gone by is not remembered, and the rest keeps its pace."""
    outbox = Outbox()
    for number in range(3 * MOMENTS_KEPT):
        outbox.latest(number, b"x")
        outbox.taken(100.0 + number)
    assert len(outbox._told) <= MOMENTS_KEPT + 1
    outbox.latest(number, b"y")
    assert outbox.taken(100.0 + number + FRAME_SECONDS / 2) == b""


def test_the_last_word_is_told_at_once() -> None:
    """K4: an end does not wait for its turn."""
    outbox = Outbox()
    outbox.latest("a", b"a1")
    outbox.taken(100.0)
    outbox.latest("a", b"a2", at_once=True)
    assert outbox.taken(100.0) == b"a2"


def test_lines_are_never_coalesced_and_come_before_the_end() -> None:
    """K4: each of them, in their order; and what is told of the job's end comes behind."""
    outbox = Outbox()
    outbox.latest("head", b"end;", at_once=True)
    for position in range(5):
        outbox.line(position, b"%d;" % position)
    assert outbox.taken(100.0) == b"0;1;2;3;4;end;"


def test_a_slow_viewer_is_told_what_was_left_out() -> None:
    """K4: an explicit gap, with its number, where the lines would be."""
    outbox = Outbox()
    for position in range(LINES_WAITING + 3):
        outbox.line(position, b"%d;" % position)
    assert outbox.taken(100.0) == frame("gap", {"count": LINES_WAITING}) + b"2000;2001;2002;"
    outbox.line(9_999, b"on")
    assert outbox.taken(100.0) == b"on", "told once"


def test_a_piece_is_bounded_and_the_rest_follows() -> None:
    """K4: who is slow is seen to be slow, since each piece waits for its connection."""
    outbox = Outbox()
    for position in range(10):
        outbox.line(position, b"x" * (PIECE_BYTES // 4))
    outbox.latest("head", b"end")
    assert len(outbox.taken(100.0)) == PIECE_BYTES
    assert outbox.pause(100.0) == 0.0
    assert not outbox.taken(100.0).endswith(b"end")
    assert outbox.taken(100.0).endswith(b"end")


def test_who_has_read_the_journal_is_told_no_line_twice() -> None:
    """K4: what came while it read, and what the others are told again."""
    outbox = Outbox()
    outbox.line(2, b"2;")
    outbox.line(3, b"3;")
    outbox.caught_up([(1, b"1;"), (2, b"2;")], 2)
    outbox.line(2, b"2;")
    outbox.line(4, b"4;")
    assert outbox.taken(100.0) == b"1;2;3;4;"
    outbox.started_anew()
    outbox.line(0, b"0;")
    assert outbox.taken(100.0) == b"0;"


def test_who_was_away_for_long_is_told_all_lines() -> None:
    """K4: lines are left out where a connection is slow, and not where a viewer comes back to many of them."""
    outbox = Outbox()
    outbox.caught_up([(position, b"%d;" % position) for position in range(LINES_WAITING + 1)], LINES_WAITING)
    outbox.line(LINES_WAITING + 1, b"new;")
    told = outbox.taken(100.0)
    assert told.startswith(b"0;1;2;")
    assert told.endswith(b"%d;new;" % LINES_WAITING)


def test_what_was_left_out_is_told_behind_what_was_read() -> None:
    """K4: the gap stands where the lines would be."""
    outbox = Outbox()
    outbox.caught_up([(0, b"x" * PIECE_BYTES), (1, b"1;")], 1)
    for position in range(2, LINES_WAITING + 3):
        outbox.line(position, b"on;")
    assert outbox.taken(100.0) == b"x" * PIECE_BYTES
    assert outbox.pause(100.0) == 0.0
    assert outbox.taken(100.0) == b"1;" + frame("gap", {"count": LINES_WAITING}) + b"on;"


def test_a_viewer_that_takes_nothing_is_let_go() -> None:
    """K4: safe to leave running: for a browser that sleeps no rows pile up; it comes back, and is told all anew."""
    outbox = Outbox()
    for number in range(THINGS_WAITING):
        outbox.latest(number, b"x")
    outbox.latest(0, b"y")
    assert not outbox.closed
    outbox.latest("one more", b"x")
    outbox.latest("and one", b"x")
    assert outbox.closed
    assert outbox.taken(100.0) == b""


def test_waiting_ends_with_news_with_the_time_and_with_the_end() -> None:
    """K4: a stream's generator must end in a shutdown."""

    async def story() -> None:
        outbox = Outbox()
        assert await outbox.take(0.01) == b""
        waiting = asyncio.ensure_future(outbox.take(30))
        await asyncio.sleep(0)
        outbox.latest("a", b"a")
        assert await asyncio.wait_for(waiting, 5) == b"a"
        outbox.latest("a", b"b")
        assert await asyncio.wait_for(outbox.take(30), 5) == b"b", "after its pause, and not after thirty seconds"
        waiting = asyncio.ensure_future(outbox.take(30))
        await asyncio.sleep(0)
        outbox.close()
        assert await asyncio.wait_for(waiting, 5) == b""

    asyncio.run(story())
