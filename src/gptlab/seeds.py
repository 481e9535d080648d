"""Randomness by counter: every draw is a function of (seed, what it is for, step, …), never of a history.

So resuming, skipping, replaying and changing the number of processes are all the same thing.
"""

import hashlib


def key(*parts: int | str) -> int:
    """A number below 2**63 that depends on all parts, for seeding a generator: key(seed, "dropout", step)."""
    digest = hashlib.blake2b("\0".join(map(repr, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1
