"""What the environment asks for: the model by key, the address, numbers that are none."""

import pytest

from deploy.configuration import Configuration, StartupError, children_environment, choose_model


@pytest.mark.parametrize(
    ("environment", "installed", "model_id"),
    [
        ({}, True, "local:smollm2"),
        ({}, False, "scripted"),
        ({"LOCAL_LLM": "0"}, True, "scripted"),
        ({"OPENAI_API_KEY": "k", "ANTHROPIC_API_KEY": "k"}, True, "openai:gpt-5-mini"),
        ({"ANTHROPIC_API_KEY": "k", "GEMINI_API_KEY": "k"}, True, "anthropic:claude-haiku-4-5"),
        ({"GEMINI_API_KEY": "k"}, True, "google:gemini-2.5-flash"),
        ({"GOOGLE_API_KEY": "k"}, True, "google:gemini-2.5-flash"),
        ({"OPENAI_API_KEY": ""}, True, "local:smollm2"),
        ({"OPENAI_API_KEY": "k", "TURNKEEP_DEFAULT_MODEL": "local:smollm2"}, True, "local:smollm2"),
    ],
)
def test_default_model(environment: dict[str, str], installed: bool, model_id: str) -> None:
    choice = choose_model(environment, local_llm_installed=installed)
    assert choice.model_id == model_id
    assert choice.reason


def test_defaults_are_the_documented_ones() -> None:
    configuration = Configuration.from_environment({})
    assert configuration.base_url == "http://127.0.0.1:8000"
    assert configuration.state_dir.name == ".turnkeep"
    assert configuration.workers == 2
    assert configuration.database_url is None
    assert configuration.redis_url is None


@pytest.mark.parametrize(
    ("host", "base_url"),
    [
        ("0.0.0.0", "http://127.0.0.1:9"),  # noqa: S104  that it is reachable is the point
        ("::", "http://[::1]:9"),
        ("::1", "http://[::1]:9"),
        ("example.test", "http://example.test:9"),
    ],
)
def test_base_url_is_one_that_can_be_called(host: str, base_url: str) -> None:
    environment = {"TURNKEEP_HOST": host, "TURNKEEP_PORT": "9"}
    assert Configuration.from_environment(environment).base_url == base_url


def test_port_zero_means_any_free_port() -> None:
    assert Configuration.from_environment({"TURNKEEP_PORT": "0"}).port > 0


@pytest.mark.parametrize("text", ["eighty", "-1", "65536", "8 000", "٨"])
def test_a_port_that_is_no_port(text: str) -> None:
    with pytest.raises(StartupError, match="TURNKEEP_PORT"):
        Configuration.from_environment({"TURNKEEP_PORT": text})


def test_children_never_see_the_development_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TURNKEEP_DEV_API_KEY", "secret")
    monkeypatch.setenv("TURNKEEP_DEV_PASSWORD", "a secret")
    configuration = Configuration.from_environment({})
    environment = children_environment(configuration, {"TURNKEEP_DATABASE_URL": "d"})
    assert "TURNKEEP_DEV_API_KEY" not in environment
    assert "TURNKEEP_DEV_PASSWORD" not in environment
    assert environment["TURNKEEP_DATABASE_URL"] == "d"
