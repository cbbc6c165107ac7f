"""What bodies may hold, the same on every surface."""

from __future__ import annotations

from typing import Final

MAX_TEXT_CHARS: Final = 200_000
"""Of one message."""
MAX_PROMPT_CHARS: Final = 32_768
"""Of what is told to a model beside the messages."""
MAX_TITLE_CHARS: Final = 255
"""Of a thread, an artifact."""
MAX_OBJECT_BYTES: Final = 16_384
"""Of a JSON object that is kept as it is: metadata, settings."""
MAX_REASON_CHARS: Final = 2000
"""Of a denial."""
MAX_CALL_ID_CHARS: Final = 1000
MAX_DECISIONS: Final = 1000
"""Of one request."""
