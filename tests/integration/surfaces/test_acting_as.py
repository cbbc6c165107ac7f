"""Whoever talks in a colleague's shared thread acts with its owner's rights, and learns no more."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from tests.integration.surfaces.conftest import Person

APP = "/api/v1/app"


async def test_a_model_is_not_told_who_owns_the_thread(
    owner: Person, colleague: Person, admin: Any
) -> None:
    me = (await owner.ask("zylon", "GET", f"{APP}/me")).json()
    thread = await owner.made(
        "zylon", f"{APP}/project/{me['default_project_id']}/thread", name="T", visibility="Public"
    )
    for who, is_anonymous in ((owner, None), (colleague, "true")):
        made = await who.made(
            "zylon",
            f"{APP}/thread/{thread['id']}/interaction",
            pgpt={"messages": [{"role": "user", "content": "Who am I?"}], "stream": True},
        )
        row = await admin.fetchrow(
            "select t.settings ->> 'isAnonymous' as is_anonymous, m.created_by from turns t"
            " join messages m on m.id = t.input_message_id where t.id = $1",
            UUID(made["id"].removeprefix("inter_")),
        )
        assert row["is_anonymous"] == is_anonymous
        assert row["created_by"] == who.user_id
