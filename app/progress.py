"""Progress bars, in terminals and in notebooks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

CONSOLE = Console(stderr=True)
Advance = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


@contextmanager
def progress(title: str) -> Iterator[Advance]:
    """A bar over bytes; silent where nobody would see it move."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
    )
    is_seen = CONSOLE.is_terminal or CONSOLE.is_jupyter
    with Progress(*columns, console=CONSOLE, transient=True, disable=not is_seen) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
