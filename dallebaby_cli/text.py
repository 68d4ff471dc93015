"""The one gate for text from outside: what may be stored, and what may reach a terminal.

Captions, labels, keys and file names come from archives, folders and servers, and hold anything:
halves of surrogate pairs, NULs, escape codes, marks that turn the reading direction around.
"""

import re
import unicodedata

# what no caption needs and what deceives a reader: controls, marks of reading direction, marks
# without width. The joiners U+200C and U+200D stay: Persian, Hindi and emoji are written with them
UNWANTED = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufeff\ufff9-\ufffb]"
)


def clean(text: str) -> str:
    """`text` as it may be stored: NFC, halves of surrogate pairs joined or U+FFFD, no controls but
    tab and line break, no marks without width or of reading direction."""
    if text.isascii() and text.isprintable():
        return text
    valid = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return UNWANTED.sub("", unicodedata.normalize("NFC", valid))


def one_line(text: str) -> str:
    """`text` as it may be shown on one line of a terminal: clean, every blank a space."""
    text = " ".join(text.split())  # before some blanks are cleaned away
    cleaned = clean(text)
    return text if cleaned is text else " ".join(cleaned.split())


def without_secrets(text: str) -> str:
    """`text` as it may be shown or written down: no address in it with a name and password."""
    return re.sub(r"(?<=://)[^/?#\s]*@", "", text)
