import pytest

from model_store.collaborative.configs import CONFIGS
from model_store.collaborative.encoder import CollaborativeEncoder
from offline.collaborative.kinds import train_encoder
from tests.offline.collaborative.clustered_shop import ClusteredShop, clustered_shop, quick_config


@pytest.fixture(scope="session")
def shop() -> ClusteredShop:
    return clustered_shop()


@pytest.fixture(scope="session", params=sorted(CONFIGS))
def kind(request) -> str:
    return request.param


@pytest.fixture(scope="session")
def trained(shop, kind) -> tuple[CollaborativeEncoder, dict[str, float]]:
    return train_encoder(shop.train, shop.validation, shop.items, quick_config(kind), seed=0)
