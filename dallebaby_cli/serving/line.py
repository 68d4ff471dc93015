"""The line of wishes, and the one thread that draws: as many together as are alike and fit.

Every picture has random numbers of its own, so it is the same whatever is drawn beside it.
"""

import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from dallebaby_cli.drawing import fitting
from dallebaby_cli.drawing.asked import Asked
from dallebaby_cli.drawing.editing import TO_DRAW
from dallebaby_cli.drawing.sampler import Drawing
from dallebaby_cli.errors import out_of_memory
from dallebaby_cli.progress import Note, Report
from dallebaby_cli.serving import start
from dallebaby_cli.serving.job import Done, Failed, Job, Partial, Picture, Queued, Started, Stopped
from dallebaby_cli.serving.refused import Refused, refusal
from dallebaby_cli.stages import generate
from dallebaby_cli.stages.generate import Start

MOST_WAITING = 64  # jobs
ENDING = "the server is ending; ask again when it runs"
USUAL_S = 5  # after which to ask again, where nothing has been drawn yet


class Line:
    """Takes jobs from the event loop, and draws them in a thread of its own."""

    def __init__(self, home: Path, report: Report) -> None:
        self.home, self.report = home, report
        self.counts: Counter[str] = Counter()
        """what came of jobs, and pictures that were drawn"""
        self.seconds = 0.0
        """that drawing took"""
        self.ending = False
        self._waiting: list[Job] = []
        self._drawn: list[Job] = []
        """those that are drawn now"""
        self._began = 0.0
        self._usual_s: float | None = None
        """that a drawing takes"""
        self._changed = threading.Condition()
        self._threads = torch.get_num_threads()
        self._thread = threading.Thread(target=self._work, name="drawing", daemon=True)
        self._thread.start()

    # ------------------------------------------------------------ for the event loop

    def add(self, job: Job) -> Job:
        """Let a job wait for its turn. Raises Refused where the line is full, or ends."""
        with self._changed:
            self.require_room()
            self._waiting.append(job)
            self._tell_places([job])
            self._changed.notify()
        return job

    def require_room(self) -> None:
        """Raise Refused where the line is full, or ends."""
        with self._changed:
            if self.ending:
                raise Refused(503, ENDING)
            if len(self._waiting) >= MOST_WAITING:
                self.counts["refused"] += 1
                wait_s = math.ceil(self._eta_s(len(self._together())) or USUAL_S)
                said = f"{MOST_WAITING} drawings wait already; ask again in {wait_s} s"
                raise Refused(429, said, wait_s=wait_s)

    def stop(self, job: Job) -> None:
        """End a job that nobody wants any more; what is drawn beside it goes on."""
        with self._changed:
            self._end(job, Stopped())
            if job in self._waiting:
                self._waiting.remove(job)
                self._tell_places(self._waiting)

    def find(self, id: str) -> Job | None:
        """The job of that id, if it waits or is drawn."""
        with self._changed:
            jobs = [*self._waiting, *self._drawn]
        return next((job for job in jobs if job.id == id and not job.ended), None)

    def lengths(self) -> tuple[int, int]:
        """How many jobs wait, and how many are drawn."""
        with self._changed:
            return len(self._waiting), sum(not job.ended for job in self._drawn)

    def end(self) -> None:
        """Take no more, and tell all who wait."""
        with self._changed:
            self.ending = True
            for job in [*self._waiting, *self._drawn]:
                self._end(job, Failed(Refused(503, ENDING)))
            self._waiting.clear()
            self._changed.notify()

    def join(self, seconds: float) -> None:
        """Wait until the thread has ended: it does so before its next code."""
        self._thread.join(seconds)

    # ------------------------------------------------------------ who is drawn when

    def _end(self, job: Job, last: Done | Stopped | Failed) -> None:
        with self._changed:
            if not job.ended:
                self.counts[type(last).__name__.lower()] += 1
                job.tell(last)

    def _together(self) -> list[list[Job]]:
        """The jobs that wait, as they will be drawn: each that is first takes along all that are
        alike, as many as are drawn at a time."""
        rest, groups = [*self._waiting], []
        while rest:
            wish, taken = rest[0].wish, [rest[0]]
            room, alike = wish.at_a_time - wish.n, wish.alike
            for job in rest[1:]:
                if job.wish.n <= room and job.wish.alike == alike:
                    taken.append(job)
                    room -= job.wish.n
            groups.append(taken)
            rest = [job for job in rest if job not in taken]
        return groups

    def _tell_places(self, jobs: Sequence[Job]) -> None:
        for position, group in enumerate(self._together()):
            eta_s = self._eta_s(position + 1)
            for job in group:
                if job in jobs:
                    job.tell(Queued(position, eta_s))

    def _eta_s(self, drawings: int) -> float | None:
        """Estimate of what so many drawings take, after the one at work."""
        if self._usual_s is None:
            return None
        now = self._began + self._usual_s - time.monotonic() if self._drawn else 0.0
        return round(max(now, 0.0) + drawings * self._usual_s, 1)

    # ------------------------------------------------------------ the thread that draws

    def _work(self) -> None:
        torch.set_num_threads(self._threads)  # of this thread, whatever others have meanwhile
        while True:
            with self._changed:
                self._drawn = []
                while not self._waiting and not self.ending:
                    self._changed.wait()
                if self.ending:
                    return
                self._drawn = self._together()[0]
                self._waiting = [job for job in self._waiting if job not in self._drawn]
                self._began = time.monotonic()
                self._tell_places(self._waiting)
            try:
                self._draw(self._drawn)
            except Exception as error:  # the line goes on, whatever became of these
                if refusal(error).status == 500 or out_of_memory(error):
                    self.report(Note(f"serve: {type(error).__name__}: {error}", "warning"))
                for job in self._drawn:
                    self._end(job, Failed(refusal(error)))

    def _draw(self, jobs: list[Job]) -> None:
        """Draw what all of them ask for, keep the pictures and tell of them."""
        wish, sampler = jobs[0].wish, jobs[0].wish.sampler
        for job in jobs:
            job.tell(Started())
        begun = wish.start.begin(sampler) if wish.start else Start(start.canvas(sampler))
        prompts = [job.wish.prompt for job in jobs for _ in range(job.wish.n)]
        seeds = [job.wish.seed + index for job in jobs for index in range(job.wish.n)]
        whose = [(job, index) for job in jobs for index in range(job.wish.n)]

        def draw(size: int) -> Tensor | None:
            few, finished, rows = replace(wish.config, batch_size=size), [], 0
            for drawing in sampler.stream(prompts, seeds, few, begun.known):
                if all(job.ended for job in jobs):
                    return None
                before, rows = rows, drawing.count // wish.model.grid
                if drawing.finished:
                    finished.append(drawing.codes)
                    rows = 0
                elif rows > before:
                    _show(drawing, whose, partial(begun.paint, sampler))
            return torch.cat(finished)

        size = min(wish.at_a_time, len(prompts))
        codes = fitting.halving(draw, size, "drawing", "batch_size", self.report)
        if codes is None:
            return
        pictures, first = begun.paint(sampler, codes.cpu()), 0
        seconds = time.monotonic() - self._began
        self._usual_s = seconds if self._usual_s is None else (self._usual_s + seconds) / 2
        with self._changed:
            self.counts["pictures"] += len(pictures)
            self.seconds += seconds
        for job in jobs:
            if not job.ended:
                self._keep(job, pictures[first : first + job.wish.n], begun, seconds)
            first += job.wish.n

    def _keep(self, job: Job, pictures: np.ndarray, begun: Start, seconds: float) -> None:
        """Write a job's pictures as `generate` does, and tell of them."""
        wish = job.wish
        made = generate.made_with(wish.sampler, wish.config, begun)
        asked = Asked([wish.prompt], wish.n, wish.n, wish.seed, made)
        stem = f"{generate.slug(wish.prompt)}-{wish.seed}"
        grid = generate.place(self.home, stem, None, None, asked)
        singles = [grid.with_name(f"{grid.stem}-{i:02d}.png") for i in range(wish.n)]
        done = generate.Drawn(grid, singles, wish.seed, wish.model.folder, pictures)
        generate.write(done, asked, range(wish.seed, wish.seed + wish.n))
        for index, path in enumerate(singles):
            job.tell(Picture(index, pictures[index], path))
        self._end(job, Done(wish.n, round(seconds, 3)))


def _show(
    drawing: Drawing,
    whose: Sequence[tuple[Job, int]],
    paint: Callable[[Tensor], np.ndarray],
) -> None:
    """Tell of a moment of pictures that somebody looks at."""
    part = whose[drawing.first : drawing.first + len(drawing.codes)]
    seen = [place for place, (job, _) in enumerate(part) if job.partials and not job.ended]
    if seen:
        codes = drawing.codes.where(drawing.known, TO_DRAW)[seen].cpu()
        pictures = paint(codes)
        share = drawing.count / drawing.known[0].numel()
        for place, pixels in zip(seen, pictures, strict=True):
            job, index = part[place]
            job.tell(Partial(index, share, pixels))
