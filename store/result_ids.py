"""The ids of a result line. They come from the batch and the line number alone: a line that is generated again keeps
its id, and a reader of the result files knows by the id which line a result belongs to."""

from __future__ import annotations

from hashlib import blake2b


def result_ids(batch_id: str, line_no: int) -> tuple[bytes, bytes]:
    """What follows `batch_req_` and `req_`."""
    digits = blake2b(b"%b:%d" % (batch_id.encode(), line_no), digest_size=32).hexdigest().encode()
    return digits[:32], digits[32:]
