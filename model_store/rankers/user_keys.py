"""Users in a ranker's files: by a digest of their id, so that a bundle names nobody.

Ids that can be guessed can be found out from their digests; they are no secret, only no names.
"""

import hashlib


def user_key(user_id: str) -> int:
    """A signed 64-bit number that stands for a user.

    >>> user_key("user-17") == user_key("user-17")
    True
    """
    return int.from_bytes(hashlib.blake2b(user_id.encode(), digest_size=8).digest(), "little", signed=True)
