"""`SECURITY.md` says what is so: its settings exist, its figures are the code's."""

from __future__ import annotations

import re
from pathlib import Path

from api import body, connection, failed_credentials, limits, multipart
from api.artifacts import content
from shared.automations.config import MAX_CONFIG_BYTES, MAX_STEPS
from shared.service import credentials
from shared.service.automation_runs import MAX_OPEN_RUNS
from shared.settings import Settings
from worker.automations.runner import MAX_OUTPUT_BYTES
from worker.ingestion.ingester import MAX_TRIES

_GUIDE = Path("SECURITY.md").read_text()


def test_its_settings_exist() -> None:
    for name in re.findall(r"TURNKEEP_(\w+)", _GUIDE):
        assert name.lower() in Settings.model_fields, name


def test_its_figures_are_those_of_the_code() -> None:
    fields = Settings.model_fields
    assert (connection.MAX_HEAD_BYTES, connection.HEAD_TIMEOUT_S) == (64 * 1024, 10)
    assert (body.MAX_DEPTH, body.RECEIVE_TIMEOUT_S) == (32, 10)
    assert fields["send_timeout_s"].default == 30
    assert fields["max_body_bytes"].default == 2**20
    assert fields["stream_max_age_s"].default == 900
    assert fields["keep_alive_s"].default == 15
    assert fields["event_log_ttl_s"].default == 3600
    assert fields["event_log_max_bytes"].default == 16 * 2**20
    timeouts = ("first_token_timeout_s", "idle_timeout_s", "turn_timeout_s")
    assert [fields[name].default for name in timeouts] == [30, 60, 300]
    assert (limits.MAX_TEXT_CHARS, limits.MAX_PROMPT_CHARS) == (200_000, 32_768)
    assert limits.MAX_OBJECT_BYTES == 16 * 1024
    assert fields["auth_failures_per_minute"].default == 120
    assert failed_credentials.WINDOW_S == 60
    assert fields["host"].default == "127.0.0.1"
    assert fields["redis_prefix"].default == "tk"
    prefixes = (credentials.SECRET_PREFIX, credentials.TOKEN_PREFIX, credentials.SESSION_PREFIX)
    assert (prefixes, credentials._SHOWN_CHARS) == (("vai_sk_", "vai_pat_", "vai_ses_"), 12)
    assert (fields["login_attempts"].default, fields["login_window_s"].default) == (10, 900)
    assert (multipart.IDLE_TIMEOUT_S, multipart.TOTAL_TIMEOUT_S) == (10, 600)
    assert (content.GRACE_S, content.MIN_BYTES_PER_S) == (30, 32 * 1024)
    assert fields["max_upload_bytes"].default == 50 * 2**20
    assert fields["max_transfers"].default == 64
    names = ("artifacts_per_tenant", "stored_bytes_per_tenant", "attachments_per_thread")
    assert [fields[f"max_{name}"].default for name in names] == [100_000, 100 * 2**30, 1000]
    assert fields["ingestion_memory_bytes"].default == 512 * 2**20
    assert [fields[f"ingestion_{name}_s"].default for name in ("cpu", "timeout")] == [60, 120]
    assert (fields["extracted_text_max_bytes"].default, MAX_TRIES) == (2**20, 3)
    assert (MAX_STEPS, MAX_CONFIG_BYTES) == (200, 256 * 1024)
    assert (MAX_OUTPUT_BYTES, MAX_OPEN_RUNS) == (4 * 2**20, 1000)
    assert len(_GUIDE.splitlines()) <= 120
