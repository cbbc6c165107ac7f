"""One product per pytest process, mended between tests: servers of its own, real processes."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Iterator

import asyncpg
import pytest

from deploy.embedded.valkey import EmbeddedValkey
from tests.acceptance.client import Client
from tests.acceptance.product import Product
from tests.fixtures.servers import with_database


@pytest.fixture(scope="session")
def deployment(
    postgres_server: str, postgres_template: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Product]:
    """The product, not yet started."""
    name = f"tk_{secrets.token_hex(6)}"

    async def execute(statement: str) -> None:
        connection = await asyncpg.connect(postgres_server)
        await connection.execute(statement)
        await connection.close()

    asyncio.run(execute(f"create database {name} template {postgres_template}"))
    directory = tmp_path_factory.mktemp("acceptance")
    with EmbeddedValkey(directory / "valkey") as valkey:
        product = Product(
            directory / "product",
            database_url=with_database(postgres_server, name),
            valkey=valkey,
            settings={"TURNKEEP_DRAIN_S": "1"},
        )
        yield product
        product.stop()
    asyncio.run(execute(f"drop database {name} with (force)"))


@pytest.fixture
async def product(deployment: Product) -> Product:
    """The product, whole: one API and two workers answer."""
    await deployment.be_whole()
    return deployment


@pytest.fixture
def client(product: Product) -> Client:
    return product.client
