"""Arrow files, checked whole before anything of them is used: offsets of a damaged or forged one
would lead outside the memory, and take the process down without a word.

They are read into memory and not mapped: a mapped file that someone cuts ends the process, too.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from dallebaby_cli import files
from dallebaby_cli.text import one_line

Batch = tuple[pa.RecordBatch, Mapping[bytes, bytes]]


def read(path: Path) -> pa.Buffer:
    """A file's content. Raises FileNotFoundError or BadInput."""
    with files.open_regular(path) as opened:
        return pa.py_buffer(opened.read())


def batches(content: pa.Buffer, fits: Callable[[pa.Schema], bool]) -> list[Batch]:
    """The batches of an Arrow file, which share its memory, each with its metadata.

    Raises ValueError with the reason if the columns are not what `fits` takes, or anything in the
    file leads outside of it, is no UTF-8 or is not counted as it is.
    """
    try:
        reader = pa.ipc.open_file(pa.BufferReader(content))
        if not fits(reader.schema):
            raise ValueError("it has other columns")
        numbers = range(reader.num_record_batches)
        found = [reader.get_batch_with_custom_metadata(number) for number in numbers]
        for batch, _ in found:
            batch.validate(full=True)
        return [(batch, dict(metadata or {})) for batch, metadata in found]
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError, MemoryError) as error:
        raise ValueError(one_line(str(error))[:200] or "it cannot be read") from error


def has_nulls(array: pa.Array) -> bool:
    """Whether any value of a column, or of the lists in it, is null."""
    return bool(array.null_count) or (pa.types.is_list(array.type) and has_nulls(array.flatten()))


def longest(array: pa.Array) -> int:
    """Bytes of the longest text in a column of text, or of lists of it."""
    texts = array.flatten() if pa.types.is_list(array.type) else array
    return pc.max(pc.binary_length(texts)).as_py() or 0


def place_in(content: pa.Buffer, values: pa.Array) -> int:
    """Where the values of a column without nulls or offsets begin in the file. Raises ValueError if
    they are not in it as they are, but packed."""
    buffer, width = values.buffers()[1], values.type.bit_width // 8
    if not len(values):
        return 0
    start = buffer.address + values.offset * width - content.address
    if not 0 <= start <= content.size - len(values) * width:
        raise ValueError("its columns are packed")
    return start
