"""Fixtures of the whole application, for the protocol that is one operation of it."""

from tests.integration.api_turns.conftest import add_user, app, user
from tests.integration.zylon_surface.conftest import add_member, member

__all__ = ["add_member", "add_user", "app", "member", "user"]
