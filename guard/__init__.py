"""rag-guard: asks whether retrieved contexts hold the answer, before the answer is written."""

from guard.decision import Decision, Reason, Route
from guard.errors import (
    ConfigError,
    GuardError,
    JudgeError,
    JudgeRejected,
    JudgeUnavailable,
    NotAsked,
    ProfileMismatch,
    StaleProfile,
    Unmeasured,
)
from guard.gate import Gate
from guard.judge import Judge
from guard.labels import Labels
from guard.limit import Limit
from guard.policy import Messages, Policy
from guard.price import Price
from guard.profile import Profile
from guard.prompt import Prompt
from guard.query import Query
from guard.reading import read_verdict
from guard.retry import Retry
from guard.thresholds import Thresholds
from guard.verdict import Usage, Verdict
from guard.windows import Windows

__version__ = "0.1.0"

__all__ = [
    "ConfigError",
    "Decision",
    "Gate",
    "GuardError",
    "Judge",
    "JudgeError",
    "JudgeRejected",
    "JudgeUnavailable",
    "Labels",
    "Limit",
    "Messages",
    "NotAsked",
    "Policy",
    "Price",
    "Profile",
    "ProfileMismatch",
    "Prompt",
    "Query",
    "Reason",
    "Retry",
    "Route",
    "StaleProfile",
    "Thresholds",
    "Unmeasured",
    "Usage",
    "Verdict",
    "Windows",
    "__version__",
    "read_verdict",
]
