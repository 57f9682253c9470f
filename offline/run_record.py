"""What a run was made with, for its manifest."""

import importlib.metadata
import platform

_LIBRARIES = ("torch", "transformers", "tokenizers", "sentence-transformers", "faiss-cpu", "numpy")


def library_versions() -> dict[str, str]:
    """Python and the libraries that decide a run's numbers."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in _LIBRARIES}
