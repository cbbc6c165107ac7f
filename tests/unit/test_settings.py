"""Which models a deployment runs, and that no setting is without effect."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.settings import Settings

SETTINGS = Settings.model_validate(
    {
        "database_url": "postgresql://x",
        "redis_url": "redis://x",
        "key_pepper": "p" * 16,
        "openai_chat_base_url": "http://x",
        "GEMINI_API_KEY": "k",
        "OPENAI_API_KEY": "",
        "ANTHROPIC_API_KEY": "",
    }
)


@pytest.mark.parametrize(
    "model_id",
    [
        "scripted",
        "google:gemini-2.5-flash",
        "google:tunedModels/mine-1",
        "openai-chat:meta-llama/Llama-3.1:free",
        "openai-chat:@cf/meta/llama-3",
        "openai-chat:ft:gpt-4o-mini:org::Ab1",
    ],
)
def test_models_that_run(model_id: str) -> None:
    assert SETTINGS.runs_model(model_id)


@pytest.mark.parametrize(
    "model_id",
    [
        "",
        "google:",
        "google",
        "scripted:x",
        "scriptedx",
        "local:smollm2",
        "openai:gpt-5",
        "GOOGLE:gemini",
        " google:gemini",
    ],
)
def test_models_that_do_not(model_id: str) -> None:
    assert not SETTINGS.runs_model(model_id)


@pytest.mark.parametrize(
    "name",
    ["../files", "a/../../b", "..", "/x", "x?key=1", "x#y", "x%2f..", "x\r\ny", "x y", "é", "\\x"],
)
def test_a_name_cannot_lead_a_provider_s_url_elsewhere(name: str) -> None:
    assert not SETTINGS.runs_model(f"google:{name}")
    assert not SETTINGS.runs_model(f"openai-chat:{name}")


def test_every_setting_is_read_somewhere() -> None:
    folders = ("api", "deploy", "shared", "worker")
    code = "\n".join(path.read_text() for name in folders for path in Path(name).rglob("*.py"))
    assert not [name for name in Settings.model_fields if f".{name}" not in code]
