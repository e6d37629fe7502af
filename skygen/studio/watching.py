"""How somebody looks on: work in a thread of its own that tells how far it is, and ends where nobody listens."""

from __future__ import annotations

import importlib.metadata
import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar, final

from PIL import Image

from skygen.generation.xmp import write_xmp
from skygen.studio.pictures import Drawing, Progress, Request

T = TypeVar("T")
SECONDS_BETWEEN_PREVIEWS: Final = 0.25


class Stopped(Exception):
    """Ends a drawing that nobody waits for any longer."""


@final
@dataclass
class Watch:
    """Gathers what is told of a drawing, and tells it on, not too often.

    Args:
        tell: gets the progress.
        stop: ends the drawing where it is set.
        request: what is drawn.
        at_a_time: pictures of a round.
        drawings: that are finished.
        previews: of those that are being drawn, by their place.
        told: when the last preview was.
        begun: rounds before this one; a round without candidates is shorter than one with, and counts the same.
    """

    tell: Callable[[Progress], None]
    stop: threading.Event
    request: Request
    at_a_time: int
    drawings: tuple[Drawing, ...] = ()
    previews: dict[int, Image.Image] = field(default_factory=dict)
    told: float = -math.inf
    begun: int = -1

    def begin(self) -> None:
        """Begin a round.

        Raises:
            Stopped: nobody waits for it.
        """
        self.begun += 1
        self.previews = {}
        if self.stop.is_set():
            raise Stopped

    def on_preview(self, place: int, image: Image.Image) -> None:
        """Keep what is to be seen of a picture; it says of itself that it is synthetic, for it can be kept too."""
        record = {"text": self.request.prompt, "synthetic": True, "unfinished": True}
        tool = f"skygen {importlib.metadata.version('skygen')}"
        image.info |= {"XML:com.adobe.xmp": write_xmp(record, tool), "skygen": json.dumps(record)}
        self.previews[place] = image

    def on_step(self, done: int, total: int) -> None:
        """Tell the progress where that is due.

        Raises:
            Stopped: nobody waits for it.
        """
        if self.stop.is_set():
            raise Stopped
        now = time.monotonic()
        if self.previews and now - self.told >= SECONDS_BETWEEN_PREVIEWS:
            self.told = now
            rounds = math.ceil(self.request.count / self.at_a_time) * (1 + self.request.beside_base)
            seen = tuple(self.previews[place] for place in sorted(self.previews))
            self.tell(Progress(self.drawings, seen, round(100 * (self.begun + done / total) / rounds), 100))

    def finish(self, finished: Sequence[Drawing]) -> None:
        """Tell that pictures are finished."""
        self.drawings += tuple(finished)
        self.previews = {}
        share = round(100 * len(self.drawings) / self.request.count)
        self.tell(Progress(self.drawings, (), share, 100))


def in_background(work: Callable[[Callable[[T], None], threading.Event], None]) -> Iterator[T]:
    """Run work in a thread, and yield what it tells as it tells it.

    Whoever stops listening sets the work's event, and waits until it has ended: a pipeline is never asked twice at a time.

    Args:
        work: gets a function that tells something, and the event that asks it to stop.

    Raises:
        Exception: what the work raised, after all that it told before.
    """
    told: queue.Queue[tuple[bool, Any]] = queue.Queue()
    stop = threading.Event()

    def run() -> None:
        error: BaseException | None = None
        try:
            work(lambda something: told.put((True, something)), stop)
        except BaseException as raised:
            error = raised
        told.put((False, error))

    worker = threading.Thread(target=run, name="studio", daemon=True)
    worker.start()
    try:
        while True:
            is_more, something = told.get()
            if not is_more:
                if something is not None:
                    raise something
                return
            yield something
    finally:
        stop.set()
        worker.join()
