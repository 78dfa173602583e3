"""Progress bars on a terminal; where output goes into a file, a plain line now and then in their place."""

import sys
import time
from collections.abc import Iterator

from tqdm import tqdm

SECONDS = 60.0  # between plain lines


class Progress(tqdm):
    """A bar of tqdm's; where stderr is no terminal, a line to it every minute, and none of less than that."""

    def __init__(self, *args, **options) -> None:
        self.name, self.what, self.scaled = options.get("desc"), options.get("unit", ""), options.get("unit_scale")
        self.began = self.said = time.monotonic()
        super().__init__(*args, disable=None, **options)  # which disables it where there is no terminal

    def __iter__(self) -> Iterator:
        if not self.disable:
            yield from super().__iter__()
            return
        for item in self.iterable:
            yield item
            self.update()

    def update(self, n: float | None = 1) -> bool | None:
        if not self.disable:
            return super().update(n)
        self.n += n
        now = time.monotonic()
        if now - self.said >= SECONDS:
            self.said = now
            print(self.line(now - self.began), file=sys.stderr, flush=True)
        return None

    def line(self, seconds: float) -> str:
        """Write how far it is after so many seconds: ``train.zip: 120M of 240M B, about 2 min left``."""
        n, total = (tqdm.format_sizeof(x or 0) if self.scaled else str(x) for x in (self.n, self.total))
        far = f"{n} of {total}" if self.total else n
        left = f", about {duration(seconds / self.n * (self.total - self.n))} left" if self.total and self.n else ""
        return f"{self.name + ': ' if self.name else ''}{far} {self.what}{left}"


def close_bars() -> None:
    """Close all bars: what is printed next begins a line."""
    for bar in list(getattr(tqdm, "_instances", ())):
        bar.close()


def duration(seconds: float) -> str:
    """Write how long something takes: ``40 s``, ``12 min``, ``3.5 h``."""
    if round(seconds) < 60:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
