"""An exchange: one judgement, with everything that went over the wire for it."""

import time
from dataclasses import dataclass, field

from guard._json import as_int, as_map
from guard.ask import ask
from guard.errors import JudgeError
from guard.flow import run
from guard.judge import Judge
from guard.judges.client_judge import ClientJudge
from guard.judges.connection import Post
from guard.loop import shared_loop
from guard.query import Query
from guard.verdict import Verdict


@dataclass(slots=True)
class Exchange:
    """What was sent, what came back, what it was taken for.

    Attributes:
        outcome: the verdict, or why there is none.
        sent: the body of every request, in order.
        replies: the JSON of every reply; a request that failed has none.
        seconds: wall-clock time of the last request.
    """

    outcome: Verdict | JudgeError
    sent: list[dict[str, object]] = field(default_factory=list[dict[str, object]])
    replies: list[object] = field(default_factory=list[object])
    seconds: float = 0.0

    @property
    def verdict(self) -> Verdict | None:
        """The verdict, if there is one."""
        return self.outcome if isinstance(self.outcome, Verdict) else None

    @property
    def error(self) -> JudgeError | None:
        """Why there is no verdict, if there is none."""
        return self.outcome if isinstance(self.outcome, JudgeError) else None

    @property
    def body(self) -> dict[str, object]:
        """The last request's body."""
        return self.sent[-1] if self.sent else {}

    @property
    def input_tokens(self) -> int | None:
        """How many tokens the endpoint says that the last prompt had."""
        usage = as_map(as_map(self.replies[-1] if self.replies else None).get("usage"))
        return as_int(usage.get("prompt_tokens", usage.get("input_tokens")))


class Line:
    """Makes exchanges, and counts the requests that they take.

    Attributes:
        seconds: the time limit of one exchange.
        calls: requests made so far.
        times: wall-clock seconds of each request that was answered.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.calls = 0
        self.times = list[float]()

    def exchange(self, judge: Judge, query: Query) -> Exchange:
        """One judgement, recorded."""
        made = Exchange(JudgeError("Nothing was asked."))
        try:
            made.outcome = self._measure(judge, query, made)
        except JudgeError as error:
            made.outcome = error
        return made

    def _measure(self, judge: Judge, query: Query, made: Exchange) -> Verdict:
        if not isinstance(judge, ClientJudge):
            started = time.monotonic()
            verdict = ask(judge, query, self.seconds)
            made.seconds = time.monotonic() - started
            return verdict
        end = time.monotonic() + self.seconds
        conversation = judge.conversation(judge.render(query))
        return run(conversation, lambda post: self.post(judge, post, end, made))

    def post(self, judge: ClientJudge, post: Post, end: float, made: Exchange) -> list[object]:
        """Sends one post, and notes it in ``made``."""
        self.calls += post.times
        made.sent.append(post.body)
        started = time.monotonic()
        try:
            left = max(0.001, end - started)
            replies = shared_loop.run(judge.connection.apost(post, end), left)
        finally:
            made.seconds = time.monotonic() - started
        made.replies += replies
        self.times.append(made.seconds)
        return replies
