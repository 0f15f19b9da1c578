"""The background writer keeps order and bounds, and passes errors on."""

import threading
import time

import pytest

from d2ls.errors import DataError
from d2ls.inference.writer import Writer


def test_all_items_in_order_and_done_when_the_block_ends() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.002)
        done.append(item)

    with Writer(work, waiting=2) as writer:
        for item in range(20):
            writer.put(item)
    assert done == list(range(20))


def test_no_more_wait_than_allowed() -> None:
    gate, put = threading.Event(), []

    def fill(writer: "Writer[int]") -> None:
        for item in range(10):
            writer.put(item)
            put.append(item)

    with Writer(lambda _: gate.wait() and None, waiting=3) as writer:
        thread = threading.Thread(target=fill, args=(writer,))
        thread.start()
        time.sleep(0.2)
        assert len(put) == 4  # three wait, one is being worked on
        gate.set()
        thread.join()
    assert len(put) == 10


def test_an_error_reaches_the_next_put_and_nothing_blocks() -> None:
    def work(item: int) -> None:
        if item == 2:
            raise DataError("disk full")
        assert item < 2, "worked on after the error"

    def run() -> None:
        with Writer(work, waiting=1) as writer:
            for item in range(1000):
                writer.put(item)
                time.sleep(0.001)
        pytest.fail("the error got lost")

    with pytest.raises(DataError, match="disk full"):
        run()


def test_an_error_in_the_last_item_is_raised_on_leaving() -> None:
    def work(_: int) -> None:
        time.sleep(0.05)
        raise DataError("disk full")

    with pytest.raises(DataError, match="disk full"), Writer(work) as writer:
        writer.put(1)


def test_an_error_of_the_block_itself_wins_and_drops_what_waits() -> None:
    done: list[int] = []

    def work(item: int) -> None:
        time.sleep(0.05)
        done.append(item)

    def run() -> None:
        with Writer(work, waiting=8) as writer:
            for item in range(8):
                writer.put(item)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert len(done) < 3
    assert threading.active_count() == 1 or not any(t.name.startswith("d2ls-writer") for t in threading.enumerate())
