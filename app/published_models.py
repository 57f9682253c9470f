"""What the model store holds, for people who look."""

import asyncio

from app.schemas import ModelsAnswer, ModelSummary
from model_store.bundle import ModelStore
from model_store.errors import TesseraError
from model_store.manifest import MANIFEST_NAME, Manifest


async def published_models(store: ModelStore, served: str) -> ModelsAnswer:
    """List every published version, oldest first; one that cannot be read does not hide the others."""
    return await asyncio.to_thread(_read, store, served)


def _read(store: ModelStore, served: str) -> ModelsAnswer:
    models, unreadable = [], {}
    for path in sorted(store.root.glob(f"*/{MANIFEST_NAME}")):
        folder = path.parent
        if folder.name.startswith("."):
            continue
        try:
            manifest = Manifest.read(folder)
        except TesseraError as error:
            # Without the path: the answer may go to another machine.
            unreadable[folder.name] = str(error).rpartition(f"{MANIFEST_NAME}: ")[2]
            continue
        models.append(
            ModelSummary(
                version=manifest.version,
                created_at=manifest.created_at,
                recipe=manifest.recipe,
                items=manifest.items,
                metrics=manifest.metrics,
                served=manifest.version == served,
            )
        )
    models.sort(key=lambda model: (model.created_at, model.version))
    return ModelsAnswer(served=served, models=models, unreadable=unreadable)
