"""Why a version cannot be decoded now.

VersionUnusable
  VersionMissing  EngineRestarting
"""


class VersionUnusable(Exception):
    """A version that is not in the store, or that cannot be decoded."""


class VersionMissing(VersionUnusable):
    """It is not in the store."""


class EngineRestarting(VersionUnusable):
    """It could be decoded until its engine died; it is being loaded again."""
