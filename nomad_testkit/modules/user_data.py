"""User data as EC2 and cloud-init take it: bytes, of which the first say what is to be done with them."""

from __future__ import annotations

import codecs
import zlib

from nomad_testkit.modules.cluster_tables import Fault

GZIP = b"\x1f\x8b"
HEADERS = (
    b"#!",
    b"#cloud-config",
    b"#cloud-boothook",
    b"#include",
    b"#part-handler",
    b"#upstart-job",
    b"## template: jinja",
)
"""How a part begins that cloud-init does something with; longer ones, such as ``#cloud-config-archive``, begin alike
(https://docs.cloud-init.io/en/latest/explanation/format.html)."""
_MIME = b"mime-version:"
_MIME_WITHIN = 4096
"""cloud-init looks for a MIME header in so many bytes."""
_MARKS = {
    b"\xef\xbb\xbf": "UTF-8",
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}
_MOST_UNPACKED = 16 * 1024 * 1024
_RIGHT = (
    "a beginning that cloud-init knows: #! and an interpreter, #cloud-config, #include, #cloud-boothook, "
    "#part-handler, ## template: jinja, a MIME header, or gzip of one of them"
)


def is_compressed(data: bytes) -> bool:
    """Whether user data is gzip, which is passed on as it is.

    >>> is_compressed(b"#!/bin/sh")
    False
    """
    return data.startswith(GZIP)


def user_data_fault(data: bytes) -> Fault | None:
    """Tell why an instance would boot and never run its user data; None where it would. None at all is no fault.

    >>> user_data_fault(b"echo hello")[1]
    "b'echo hello', which cloud-init passes over"
    """
    if not data:
        return None
    where, whole = "", True
    if is_compressed(data):
        where = "gzip of "
        try:
            unpacking = zlib.decompressobj(wbits=31)
            data = unpacking.decompress(data, _MOST_UNPACKED)
        except zlib.error as error:
            return "user_data", f"gzip that is damaged ({error})", "what gzip has written, whole"
        if not unpacking.eof and not unpacking.unconsumed_tail:
            return "user_data", "gzip that is cut off", "what gzip has written, whole"
        whole = unpacking.eof
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            found = f"{where}text that begins with a byte order mark of {encoding}"
            return "user_data", found, "UTF-8 without a byte order mark: nothing may come before the first line"
    try:
        # cloud-init takes all of it for UTF-8: where it is not, it finds no type, or cannot write the script it found.
        codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError as error:
        found = f"{where}bytes that are not UTF-8, the first of them {data[error.start]:#04x} at offset {error.start}"
        return "user_data", found, "UTF-8, or else cloud-init runs none of it; other bytes can be written as base64"
    first = data.split(b"\n", 1)[0]
    shown = f"{where}{first[:40]!r}"
    if data.startswith(b"#!"):
        if first.endswith(b"\r"):
            right = "lines that end in LF alone: the interpreter's name would end in the CR"
            return "user_data", f"{shown}, a first line that ends in CRLF", right
        if not first[2:].strip():
            return "user_data", f"{shown}, which names no interpreter", "one, such as #!/bin/bash"
        return None
    stripped = data.lstrip()
    if stripped.startswith(b"#!"):
        return "user_data", f"{where}white space before #!", "#! as the first two bytes"
    if stripped.lower().startswith(HEADERS) or _MIME in data[:_MIME_WITHIN].lower():
        return None
    return "user_data", f"{shown}, which cloud-init passes over", _RIGHT
