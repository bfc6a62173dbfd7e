"""Progress bars, in terminals and in notebooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

CONSOLE = Console(stderr=True)
Advance = Callable[[int, int], None]
"""Progress callback, called with (bytes done, total bytes)."""


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """Show a progress bar over bytes in a terminal or notebook."""
    with stage_progress() as advance:
        yield lambda done, total: advance(title, done, total)


@contextmanager
def count_progress(title: str) -> Iterator[Advance]:
    """Show a progress bar over a number of items; the callback takes (done, total)."""
    with _bar(MofNCompleteColumn()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def stage_progress() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar over the bytes of several stages; call with (stage, done, total)."""
    with _bar(DownloadColumn()) as bar:
        task = bar.add_task("", total=None)
        yield lambda stage, done, total: bar.update(
            task, description=stage, completed=done, total=total
        )


def _bar(amount: ProgressColumn) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), amount, TimeRemainingColumn())
    is_interactive = CONSOLE.is_terminal or CONSOLE.is_jupyter
    return Progress(*columns, console=CONSOLE, transient=True, disable=not is_interactive)
