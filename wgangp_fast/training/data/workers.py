"""Blocks of rows to pixels, in this process or in several, always in order.

Nothing here imports torch: worker processes start with this file and need not wait for it.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import traceback
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet
from typing import Any

from ...errors import UserError
from .pixels import Converted, Converter, Recipe
from .readers import Block, Reader
from .subprocesses import PATIENCE, command, ended, environment

# Blocks that are under way for each worker, so that none waits while an earlier block takes longer.
AHEAD = 4

Check = Callable[[], None]


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def convert(
    blocks: Iterator[Block], reader: Reader, recipe: Recipe, workers: int, check: Check
) -> Generator[tuple[Block, Converted], None, None]:
    """Convert ``blocks``; the result is the same for every number of workers.

    Args:
        check: called often; what it raises ends everything.

    Raises:
        UserError: a worker process was lost, memory ran out, or the reader's medium failed.
    """
    converter = Converter(recipe)  # a missing package is found here, once
    if workers > 1:
        yield from _parallel(blocks, (reader, recipe), workers, check)
        return
    for block in blocks:
        try:
            yield block, converter.block(reader.read(block), check)
        except MemoryError:
            raise UserError(f"memory ran out at row {block.start}") from None


class _Worker:
    """A process that converts one block at a time; it ends when its input does, so with its parent too."""

    def __init__(self, setup: Any) -> None:
        try:
            self.process = subprocess.Popen(
                command("from wgangp_fast.training.data.workers import serve; serve()"),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=environment(),
                start_new_session=True,  # the terminal's Ctrl-C is for the parent
            )
        except OSError as error:
            raise UserError(f"cannot start a worker ({error.strerror}): use fewer --workers") from None
        self._setup = setup

    def __call__(self, block: Block) -> Converted:
        try:
            if self._setup is not None:
                self._send(self._setup)
                self._setup = None
            self._send(block)
            good, result = pickle.load(self.process.stdout)  # type: ignore[arg-type]  # PIPE was asked for
        except (OSError, EOFError, pickle.UnpicklingError):
            status = self._status()
            raise UserError(
                f"a worker process was lost ({ended(status)}) within rows {block.start} to "
                f"{block.start + block.count - 1}: run the same command again, perhaps with fewer --workers"
            ) from None
        if good:
            converted: Converted = result
            return converted
        if isinstance(result, UserError):
            raise result
        raise RuntimeError(f"in a worker process:\n{result}")

    def _status(self) -> int:
        """How the process ended, or that it does not answer in a way that can be understood."""
        try:
            return self.process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def _send(self, what: Any) -> None:
        assert self.process.stdin is not None
        pickle.dump(what, self.process.stdin, protocol=pickle.HIGHEST_PROTOCOL)
        self.process.stdin.flush()

    def close(self) -> None:
        for stream in (self.process.stdin, self.process.stdout):
            assert stream is not None
            try:
                stream.close()
            except OSError:  # what a lost process did not take
                continue


def _parallel(
    blocks: Iterator[Block], setup: Any, count: int, check: Check
) -> Iterator[tuple[Block, Converted]]:
    # A thread for each process waits for it; the processes do the work.
    idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
    workers: list[_Worker] = []
    pool = ThreadPoolExecutor(count, "prepare")
    pending: deque[tuple[Block, Future[Converted]]] = deque()

    def task(block: Block) -> Converted:
        worker = idle.get()
        try:
            return worker(block)
        finally:
            idle.put(worker)

    try:
        for _ in range(count):
            workers.append(_Worker(setup))
            idle.put(workers[-1])
        for block in blocks:
            pending.append((block, pool.submit(task, block)))
            if len(pending) >= AHEAD * count:
                yield _oldest(pending, check)
        while pending:
            yield _oldest(pending, check)
    finally:
        for _, future in pending:
            future.cancel()
        for worker in workers:
            worker.process.kill()  # whatever it is doing: nothing of it is wanted any more
        pool.shutdown(wait=True, cancel_futures=True)
        for worker in workers:
            worker.process.wait()
            worker.close()


def _oldest(pending: deque[tuple[Block, Future[Converted]]], check: Check) -> tuple[Block, Converted]:
    block, future = pending.popleft()
    while True:
        check()
        try:
            return block, future.result(timeout=PATIENCE)
        except NotYet:
            if future.done():  # a TimeoutError of the task's own
                raise


def serve() -> None:
    """A worker process: reader and recipe come first on its standard input, then blocks, until it ends."""
    incoming = sys.stdin.buffer
    outgoing = os.fdopen(os.dup(1), "wb")
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent decides when to stop
        signal.signal(number, signal.SIG_IGN)
    os.dup2(2, 1)  # what a library prints must not get between the answers
    converter: Converter | None = None
    try:
        reader, recipe = pickle.load(incoming)
        while True:
            block = pickle.load(incoming)
            answer: tuple[bool, Any]
            try:
                converter = converter or Converter(recipe)
                answer = True, converter.block(reader.read(block))
            except MemoryError:
                answer = False, UserError(f"memory ran out at row {block.start}: use fewer --workers")
            except UserError as error:
                answer = False, error
            except Exception:
                answer = False, traceback.format_exc()
            pickle.dump(answer, outgoing, protocol=pickle.HIGHEST_PROTOCOL)
            outgoing.flush()
    except (EOFError, BrokenPipeError, pickle.UnpicklingError):
        os._exit(0)  # the parent closed its end, or is gone
