"""End a script whose gradients are recorded, in whichever thread it trains; and wait for its threads. No torch."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import weakref
from collections.abc import Collection, Iterator
from typing import Any, NoReturn

# ignored unless somebody handles it, so that it does no harm where it comes too late; not on Windows
_SIGNAL = getattr(signal, "SIGURG", None)

_remaining: weakref.WeakSet[threading.Thread] = weakref.WeakSet()


class Stopped(SystemExit):
    """Ends a script whose gradients are recorded.

    A kind of ``SystemExit``, because asyncio and the trainers let that pass without a message.
    """


def stop() -> NoReturn:
    """Raise `Stopped`, so that nothing is printed; in a thread, let the main thread of the script end as well.

    The main thread may wait for what this one would have computed, for ever.
    """
    if threading.current_thread() is not threading.main_thread():
        _be_silent(threading.current_thread())
        _stop_main_thread()
    _be_silent_in_tasks()
    raise Stopped(0)


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Let `stop` in another thread end what the main thread does in the block, even if that waits for a lock."""
    here = threading.current_thread() is threading.main_thread()
    if _SIGNAL is None or not here or signal.getsignal(_SIGNAL) != signal.SIG_DFL:
        yield
        return
    process = os.getpid()
    signal.signal(_SIGNAL, _StopHere(process))
    try:
        yield
    finally:
        if isinstance(signal.getsignal(_SIGNAL), _StopHere):
            signal.signal(_SIGNAL, signal.SIG_DFL)


class _StopHere:
    """What the signal calls in the main thread."""

    def __init__(self, process: int) -> None:
        self.process, self.asked = process, False

    def __call__(self, *_: object) -> None:
        if self.asked and os.getpid() == self.process:
            raise Stopped(0)


def _stop_main_thread() -> None:
    handler = signal.getsignal(_SIGNAL) if _SIGNAL is not None else None
    main = threading.main_thread().ident
    if isinstance(handler, _StopHere) and not handler.asked and os.getpid() == handler.process:
        assert main is not None
        handler.asked = True  # once: a second one would break what the script does in its `finally` blocks
        signal.pthread_kill(main, _SIGNAL)  # type: ignore[arg-type]


def _be_silent(thread: threading.Thread) -> None:
    """Let a thread that ends by `Stopped` print nothing; ``threading`` lets only ``SystemExit`` itself pass."""
    known: Any = getattr(thread, "_invoke_excepthook", None)

    def invoke(this: threading.Thread) -> None:
        if not isinstance(sys.exc_info()[1], Stopped):
            known(this)

    if known is not None:
        vars(thread)["_invoke_excepthook"] = invoke


def _be_silent_in_tasks() -> None:
    """Let asyncio not report that nobody has looked at the error of a task, or of those that wait for it."""
    asyncio = sys.modules.get("asyncio")
    with contextlib.suppress(Exception):  # no loop runs in this thread
        loop = asyncio.get_running_loop() if asyncio is not None else None
        if loop is not None and not isinstance(loop.get_exception_handler(), _Silent):
            loop.set_exception_handler(_Silent(loop.get_exception_handler()))


class _Silent:
    """A handler of asyncio's errors that says nothing of a stop."""

    def __init__(self, known: Any) -> None:
        self._known = known

    def __call__(self, loop: Any, context: dict[str, Any]) -> None:
        if isinstance(context.get("exception"), Stopped):
            return
        if self._known is None:
            loop.default_exception_handler(context)
        else:
            self._known(loop, context)


def wait_for_threads(before: Collection[threading.Thread], seconds: float | None = None) -> None:
    """Wait for the threads that the interpreter would wait for at its end, those apart that were there before."""
    for thread in set(threading.enumerate()) - set(before):
        if not thread.daemon and thread is not threading.current_thread():
            _shut_down_executor_of(thread, wait=seconds is None)
            if seconds is None:
                thread.join()
            elif not _ends_within(thread, seconds):
                _remaining.add(thread)


def _ends_within(thread: threading.Thread, seconds: float) -> bool:
    """Wait for a thread that the main thread may have been waiting for when it was stopped.

    ``join`` does not: up to Python 3.12 an exception in it marks the thread as ended, although it runs on.
    """
    end = time.monotonic() + seconds
    while thread in threading.enumerate():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True


def threads_remain() -> bool:
    """Whether there are threads of a script that `wait_for_threads` has waited for in vain."""
    return any(thread in _remaining for thread in threading.enumerate())


def _shut_down_executor_of(thread: threading.Thread, wait: bool) -> None:
    """Tell an executor that no more work comes, as the interpreter does before it waits for the workers."""
    executors = sys.modules.get("concurrent.futures.thread")
    if thread in getattr(executors, "_threads_queues", ()):
        arguments = getattr(thread, "_args", None)
        executor = arguments[0]() if arguments else None
        if executor is not None:
            executor.shutdown(wait=wait, cancel_futures=not wait)
