"""What TensorBoard shows of a run, in its own format (records of `Event` messages), written as it
comes: TensorBoard's writer has a thread, which prints a traceback where the disk is full."""

import contextlib
import io
import socket
import time
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from dallebaby_cli.progress import Note, Report


class Board:
    """The events file of one start of a run. Where it cannot be written, that is told of once, and
    the run goes on without."""

    def __init__(self, folder: Path, report: Report) -> None:
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self.report = report
        self.file: BinaryIO | None = None
        self._broken = False
        self._write(Event(file_version="brain.Event:2"))

    def scalar(self, name: str, value: float, step: int) -> None:
        """Add a point to a curve."""
        self._add(Summary.Value(tag=name, simple_value=value), step)

    def picture(self, name: str, picture: np.ndarray, step: int) -> None:
        """Add a picture (H, W, 3) uint8."""
        content = io.BytesIO()
        Image.fromarray(picture).save(content, format="PNG", compress_level=1)
        height, width, _ = picture.shape
        shown = Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=content.getvalue()
        )
        self._add(Summary.Value(tag=name, image=shown), step)

    def close(self) -> None:
        """Nothing can be added any more."""
        if self.file is not None:
            with contextlib.suppress(OSError):
                self.file.close()
        self.file, self._broken = None, True

    def _add(self, value: Summary.Value, step: int) -> None:
        self._write(Event(step=step, summary=Summary(value=[value])))

    def _write(self, event: Event) -> None:
        if self._broken:
            return
        event.wall_time = time.time()
        try:
            if self.file is None:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.file = self.path.open("xb")
            RecordWriter(self.file).write(event.SerializeToString())
            self.file.flush()
        except OSError as error:
            self.close()
            text = f"{self.path} cannot be written ({error}), so TensorBoard does not show the rest"
            self.report(Note(text, "warning"))
