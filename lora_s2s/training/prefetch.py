"""Work done ahead in one background thread, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


@contextmanager
def ahead(items: Iterator[Item], count: int) -> Iterator[Callable[[], Item]]:
    """Gives a function that returns the next item, while a thread makes the ``count`` after it; 0
    does without one.

    What is raised while an item is made is raised, as it is, to whoever takes that item. On
    leaving, the thread ends with the item it is at.
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
