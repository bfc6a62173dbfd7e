"""Progress bars, in terminals and in notebooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True)
Advance = Callable[[int, int], None]
"""Progress callback, called with (bytes done, total bytes)."""


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """Show a progress bar over bytes in a terminal or notebook."""
    with staged() as advance:
        yield lambda done, total: advance(title, done, total)


@contextmanager
def staged() -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar over the bytes of several stages; call with (stage, done, total)."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    is_interactive = CONSOLE.is_terminal or CONSOLE.is_jupyter
    with Progress(*columns, console=CONSOLE, transient=True, disable=not is_interactive) as bar:
        task = bar.add_task("", total=None)
        yield lambda stage, done, total: bar.update(
            task, description=stage, completed=done, total=total
        )
