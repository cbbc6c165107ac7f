"""Redis URLs."""

from __future__ import annotations

import pytest

from shared.redis.connection import RedisAddress, handshake


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://localhost", RedisAddress("localhost", 6379, None, None, None, 0, False)),
        ("redis://h:7000/3", RedisAddress("h", 7000, None, None, None, 3, False)),
        ("redis://", RedisAddress("127.0.0.1", 6379, None, None, None, 0, False)),
        ("rediss://u:p%40ss@h/1", RedisAddress("h", 6379, None, "u", "p@ss", 1, True)),
        ("redis://:secret@h", RedisAddress("h", 6379, None, None, "secret", 0, False)),
        ("redis://h/2?db=5", RedisAddress("h", 6379, None, None, None, 5, False)),
        ("unix:///a/b.sock", RedisAddress(None, 0, "/a/b.sock", None, None, 0, False)),
        ("unix:///a%20b/c.sock?db=2", RedisAddress(None, 0, "/a b/c.sock", None, None, 2, False)),
    ],
)
def test_urls(url: str, address: RedisAddress) -> None:
    assert RedisAddress.parse(url) == address


@pytest.mark.parametrize("url", ["", "localhost:6379", "http://h", "redis://h:port", "redis://h/x"])
def test_what_is_no_redis_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        RedisAddress.parse(url)


def test_the_handshake_says_who_and_where() -> None:
    assert handshake(RedisAddress.parse("redis://h")) == []
    assert handshake(RedisAddress.parse("redis://u:p@h/4")) == [("AUTH", "u", "p"), ("SELECT", 4)]
    assert handshake(RedisAddress.parse("redis://:p@h")) == [("AUTH", "p")]
