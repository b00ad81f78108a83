"""The doctor: what a judge's endpoint can do, found out by a handful of calls.

    two known cases ─► a verdict on both? ─► lists, mass, order, temperature, limits, cache ─► needs
                            └─ none ─► why? what else works at this address? ─► instead

Nothing is taken from a model's name: which models give logprobs changes by the month.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

from guard.config import Deployment
from guard.doctor.cases import INSUFFICIENT, SUFFICIENT
from guard.doctor.chat import Examination, examine_chat
from guard.doctor.exchange import Exchange, Line
from guard.doctor.findings import APART, Pair, latency, pair_of, tells_apart, verdicts
from guard.doctor.instead import Instead, instead_of
from guard.doctor.lines import lines, shown_address
from guard.doctor.report import Conclusion, Finding, Report
from guard.doctor.trouble import REACHED, trouble
from guard.errors import JudgeError
from guard.judge import Fitted, Judge
from guard.judges.chat import ChatJudge
from guard.judges.client_judge import ClientJudge
from guard.judges.sampled import SampledJudge
from guard.judges.several import Chain, Mean
from guard.policy import Policy
from guard.posterior import posterior
from guard.providers import Provider, likely_local, provider_of
from guard.query import Query
from guard.routing import Routed, route_verdict
from guard.verdict import Verdict

__all__ = ["INSUFFICIENT", "SUFFICIENT", "Finding", "Report", "examine"]

Route = Callable[[Verdict], Routed]
Progress = Callable[[str], None]

# A deadline must leave room for a slow day.
_DEADLINE_FACTOR = 2
_MIN_ROOM = 500
# What asking again would not change, or not soon.
_FINAL = ("timeout", "no_logprobs")
_FINAL_STATUSES = (401, 403, 404, 405, 501)


def examine(
    judge: Judge,
    keys: Deployment,
    *,
    route: Route | None = None,
    name: str = "default",
    time_limit: float = 30.0,
    progress: Progress = lambda _what: None,
) -> Report:
    """Examines a judge: in a chain the first one, in a mean of two orders the model behind it.

    Args:
        judge: made from ``keys``.
        keys: the deployment; its name of the judge and its address go into the report.
        route: where a query with a verdict goes, see `guard.Gate.route`; ``None`` = by the
            thresholds of ``keys``.
        name: the deployment's, for the lines to paste.
        time_limit: seconds for each judgement.
        progress: told what is being done, in words.
    """
    if route is None:
        route = partial(_by_keys, keys.policy())
    return _Visit(_single(judge), keys, name, Line(time_limit), progress, route).report()


def _by_keys(policy: Policy, verdict: Verdict) -> Routed:
    return route_verdict(policy, None, verdict, None)


def _single(judge: Judge) -> Judge:
    if isinstance(judge, Chain):
        return _single(judge.links[0].judge)
    return judge.judges[0] if isinstance(judge, Mean) else judge


class _Visit:
    """One examination under way."""

    def __init__(
        self,
        judge: Judge,
        keys: Deployment,
        name: str,
        line: Line,
        progress: Progress,
        route: Route,
    ) -> None:
        self.judge, self.keys, self.name = judge, keys, name
        self.line, self.progress, self.route = line, progress, route
        self.kind = (keys.judge or "").partition(":")[0]
        self.findings = list[Finding]()
        self.needs = list[str]()
        self.extra = dict[str, object]()

    def report(self) -> Report:
        self.progress("asking about two known cases")
        yes = self.ask(self.judge, SUFFICIENT)
        no = self.ask(self.judge, INSUFFICIENT) if yes.error is None else yes
        error = yes.error or no.error
        return self._with(yes, no) if error is None else self._without(error)

    def ask(self, judge: Judge, query: Query) -> Exchange:
        """One exchange, or a second one where the first may have been bad luck."""
        made = self.line.exchange(judge, query)
        if made.error is None or made.error.kind in _FINAL or made.error.status in _FINAL_STATUSES:
            return made
        return self.line.exchange(judge, query)

    # ── It gave verdicts ─────────────────────────────────────────────────────────────────────────

    def _with(self, yes: Exchange, no: Exchange) -> Report:
        if isinstance(self.judge, ClientJudge):
            self.findings += REACHED
        pair = self._chat(yes, no) if isinstance(self.judge, ChatJudge) else self._other(yes, no)
        if pair is None or not tells_apart(pair):
            return self._report("cannot", _wrong(pair))
        self._require_routes(pair)
        self._require_time(yes, no)
        if self.needs:
            return self._report("only with", "It gives verdicts, if you set or accept this.")
        return self._report("can judge", "It gives verdicts, and routes both known cases rightly.")

    def _chat(self, yes: Exchange, no: Exchange) -> Pair | None:
        """Everything about a chat endpoint; the verdicts as they will be once needs are met."""
        assert isinstance(self.judge, ChatJudge)
        self.progress("trying orders, temperatures and lengths")
        found = examine_chat(self.judge, self.line, yes, no, both_orders=self.keys.both_orders)
        self.findings += found.findings
        if found.signal == "logprobs-truncated":
            self.needs.append("Accept that P(True) is mostly near 0 or 1.")
        if found.signal == "logprobs-emitted":
            self.needs.append("Accept bounds instead of P(True).")
        self._require_room(found)
        return self._ordered(found)

    def _ordered(self, found: Examination) -> Pair | None:
        """The verdicts, with the labels in both orders where one order alone misleads."""
        if found.mean is None or not (found.flips or self.keys.both_orders):
            return found.pair
        if not tells_apart(found.mean):
            return None
        if not self.keys.both_orders:
            self.extra["both_orders"] = True
            why = "the verdict depends on which label is named first. It doubles the requests."
            self.needs.append(f"Set both_orders = true: {why}")
        return found.mean

    def _other(self, yes: Exchange, no: Exchange) -> Pair | None:
        pair = pair_of(yes, no)
        assert pair is not None
        self.findings += [verdicts(pair), latency(self.line.times or [yes.seconds, no.seconds])]
        if isinstance(self.judge, SampledJudge):
            self.findings.append(price(self.judge.samples))
        return pair

    def _require_room(self, found: Examination) -> None:
        if not found.is_cut:
            return
        if found.room is None or found.room < _MIN_ROOM:
            self.needs.append(
                "Give the server more context: it cuts prompts silently, and there is no "
                "max_context_chars that would surely avoid it."
            )
            return
        self.extra["max_context_chars"] = found.room
        self.needs.append(
            f"Set max_context_chars = {found.room} (for English; less for other scripts, code, "
            "tables and very short passages), or give the server more context: it cuts longer "
            "prompts silently."
        )

    def _require_routes(self, pair: Pair) -> None:
        """The thresholds that apply must answer the one case and refuse the other."""
        routed = [self.route(one) for one in pair]
        routes = [one.route.value if one.route else "raise" for one in routed]
        cuts = routed[0].thresholds
        if routes != ["answer", "refuse"]:
            self.needs.append(
                f"Set thresholds that fit it: at answer_at = {cuts.answer_at:g} and refuse_below = "
                f"{cuts.refuse_below:g} the known cases would be: {routes[0]}, {routes[1]}."
            )

    def _require_time(self, yes: Exchange, no: Exchange) -> None:
        deadline = float(math.ceil(_DEADLINE_FACTOR * max(yes.seconds, no.seconds)))
        if deadline > self.keys.deadline:
            self.extra["deadline"] = deadline
            self.needs.append(f"Set deadline = {deadline:g}: that is how slow it is.")

    # ── It did not ───────────────────────────────────────────────────────────────────────────────

    def _without(self, error: JudgeError) -> Report:
        why = trouble(error, self.judge, self.line.seconds)
        self.findings += why.findings
        if why.final or not isinstance(self.judge, ClientJudge):
            return self._report(why.conclusion, why.because, lines_too=False)
        found = instead_of(self.judge, self._row(), self.ask, self.progress)
        self.findings += found.findings
        if found.address is not None:
            because = f"It answers at {shown_address(found.address)}: write that as base_url."
            return self._report("not known", because, lines_too=False)
        if found.judge is None:
            return self._report(why.conclusion, why.because, lines_too=False)
        return self._report("cannot", why.because, instead=found)

    # ── What is said ─────────────────────────────────────────────────────────────────────────────

    def _row(self) -> Provider | None:
        address = self._address()
        return address and provider_of(address, self.judge.model or "", self.kind) or None

    def _address(self) -> str | None:
        judge = self.judge
        return judge.connection.base_url if isinstance(judge, ClientJudge) else None

    def _report(
        self,
        conclusion: Conclusion,
        because: str,
        *,
        instead: Instead | None = None,
        lines_too: bool = True,
    ) -> Report:
        address, row, known = self._address(), self._row(), None
        if row is not None:
            known = " ".join(part for part in (f"{row.name}:", row.works, row.needs) if part)
        elif address and (row := likely_local(address)):
            told = (f"On this port usually {row.name} listens:", row.works, row.needs)
            known = " ".join(part for part in told if part)
        if self.keys.fallback is not None:
            told_of = f"Not examined: rag-guard doctor --deployment {self.keys.fallback}"
            self.findings.append(Finding("fallback", "unknown", self.keys.fallback, told_of))
        works = conclusion in ("can judge", "only with") or instead is not None
        extra = self.extra if instead is None else instead.keys
        return Report(
            judge=self.keys.judge or "",
            address=address and shown_address(address),
            provider=row.id if row else None,
            known=known,
            conclusion=conclusion,
            because=because,
            needs=tuple(self.needs) if conclusion == "only with" else (),
            instead=None if instead is None else instead.judge,
            findings=tuple(self.findings),
            calls=self.line.calls,
            toml=self._lines(extra, address) if works and lines_too else None,
        )

    def _lines(self, extra: Mapping[str, object], address: str | None) -> str:
        is_fitted = isinstance(self.judge, Fitted) and self.judge.default_profile is not None
        return lines(self.keys, extra, self.name, address, is_fitted=is_fitted)


def price(samples: int) -> Finding:
    """What counting costs, and how far it reaches."""
    reach = posterior(samples, 0).low
    told = (
        f"{samples} requests a query, each with the whole prompt; {samples} of {samples} True "
        f"reaches low = {reach:.3f}."
    )
    return Finding("samples", "ok", samples, told)


def _wrong(pair: Pair | None) -> str:
    """Why verdicts are of no use."""
    if pair is None:
        return "Its verdicts depend on which label is named first, and their mean does not help."
    if pair[1].p_true - pair[0].p_true >= APART:
        return "It answers the wrong way round: check labels and template, or use another model."
    return "It gives verdicts, but cannot tell two plain cases apart. A larger model may."
