"""Prefetching in one background thread, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def ahead(items: Iterator[Item], count: int) -> Iterator[Callable[[], Item]]:
    """Yields a function that returns the next item while a thread computes the ``count`` after it;
    with 0 there is no thread.

    An error in computing an item is raised unchanged when that item is taken. On leaving, the
    thread ends after its current item.
    """
    if not count:
        yield lambda: next(items)
        return
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        waiting = deque(thread.submit(next, items) for _ in range(count))

        def take() -> Item:
            waiting.append(thread.submit(next, items))
            return waiting.popleft().result()

        try:
            yield take
        finally:
            thread.shutdown(wait=False, cancel_futures=True)
