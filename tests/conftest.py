"""Being here, it puts the repository root on the import path, so that tests can share `tests.tiny_bundle`."""
