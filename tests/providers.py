"""Providers: loopback servers that imitate what each real one is known to do and to refuse.

    with imitating("openai-gpt-5.5") as running:
        ChatJudge(OpenAI(base_url=running.base_url, api_key=KEY), model=running.model)

Behind each stands one small model, which reads the prompt: contexts suffice if they hold a digit
and every content word of the question.
"""

import math
import os
import random
import re
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import urlsplit

from wire import Answer, Json, Request, WireServer, proxy_url

KEY = "sk-canary-0123456789abcdef"
"""What whoever needs a key is given."""

Body = dict[str, Any]
Test = Callable[[Body], bool]
Rule = Callable[[Body], Answer | None]
"""Looks at a request's body; an answer turns it down."""

# ── The model ────────────────────────────────────────────────────────────────────────────────────

_DELIMITER = re.compile(r"\[[0-9a-f]{16} ((?:passage \d+|question) (?:begins|ends))\]")
_WORD = re.compile(r"[^\W_]{4,}")
_ASKING = frozenset(("what", "which", "when", "year", "where", "does", "did", "many"))
_TASK = re.compile(
    r"needed to answer it .*?, write (?P<true>\w+)\..*\((?P<first>\w+) or (?P<second>\w+)\):\s*\Z",
    re.DOTALL,
)
# A thousand tokens that nobody asked for, each less likely than the one before.
_FILLERS = [(f"x{number}", -8.0 - number / 50) for number in range(1000)]
_THOUGHT = ("Let", " me", " see", ":", " is", " it", " False", "?", " They", " say", " it", ".")


def suffices(prompt: str) -> bool:
    """Whether the passages of a prompt, or what is left of them, answer its question."""
    parts = _DELIMITER.split(prompt)
    # What a delimiter ends stands before it, even where the prompt's beginning was cut off.
    ended = [(text, name) for text, name in zip(parts[0::2], parts[1::2], strict=False)]
    question = " ".join(text for text, name in ended if name == "question ends").casefold()
    passages = " ".join(text for text, name in ended if re.match(r"passage \d+ ends", name))
    passages = passages.casefold()
    words = set(_WORD.findall(question)) - _ASKING
    return bool(words) and all(word in passages for word in words) and _has_digit(passages)


def _has_digit(text: str) -> bool:
    return any(character.isdigit() for character in text)


# ── Refusals, each in its provider's own shape ───────────────────────────────────────────────────


def openai_error(
    message: str, code: Json = None, param: str | None = None, status: int = 400
) -> Answer:
    """OpenAI's, and that of most who imitate it."""
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return Answer({"error": error}, status=status)


def plain_error(message: str, status: int = 400, **more: Json) -> Answer:
    """Ollama's and TGI's: a text, without an object around it."""
    return Answer({"error": message, **more}, status=status)


def detail_error(message: str, kind: str, status: int) -> Answer:
    """TypeSafe's."""
    return Answer({"detail": {"error_type": kind, "message": message}}, status=status)


def gemini_error(message: str) -> Answer:
    """Google's, in a list."""
    error = {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}
    return Answer([{"error": error}], status=400)


def anthropic_error(message: str, status: int = 400) -> Answer:
    """Anthropic's."""
    error = {"type": "invalid_request_error", "message": message}
    return Answer({"type": "error", "error": error}, status=status)


def unsupported(param: str) -> Answer:
    """OpenAI's words for a parameter that a model does not take."""
    message = f"Unsupported parameter: '{param}' is not supported with this model."
    return openai_error(message, "unsupported_parameter", param)


def has(name: str, *values: Json) -> Test:
    """Whether a body has this field, with one of the values if any are given."""
    return lambda body: name in body and (not values or body[name] in values)


def lacks(test: Test) -> Test:
    """The opposite."""
    return lambda body: not test(body)


def _not_at_all(_body: Body) -> bool:
    return False


def wants_logprobs(body: Body) -> bool:
    """Whether a body asks for logprobs, in any of the ways there are."""
    return bool(body.get("logprobs") or body.get("top_logprobs"))


def refuse(test: Test, answer: Answer) -> Rule:
    """Turns down every body that the test is true of."""
    return lambda body: answer if test(body) else None


def cap(most: int, message: str, shape: Callable[[str], Answer] = openai_error) -> Rule:
    """Turns down more than so many alternatives; the message may say {k} and {most}."""

    def rule(body: Body) -> Answer | None:
        k = body.get("top_logprobs") or 0
        return shape(message.format(k=k, most=most)) if k > most else None

    return rule


def only(known: str, answer: Callable[[str], Answer]) -> Rule:
    """Turns down the first field beside these, and beside what everybody takes."""
    names = {"model", "messages", "stream", *known.split()}

    def rule(body: Body) -> Answer | None:
        odd = next((name for name in body if name not in names), None)
        return None if odd is None else answer(odd)

    return rule


def floor(least: int, answer: Callable[[int], Answer]) -> Rule:
    """Turns down a smaller token budget."""

    def rule(body: Body) -> Answer | None:
        budget = _budget(body, _LIMITS)
        return answer(budget) if budget < least else None

    return rule


# ── An imitation ─────────────────────────────────────────────────────────────────────────────────

_LIMITS = ("max_tokens", "max_completion_tokens")
_UNLIMITED = 1 << 30
_NOT_FOUND = plain_error("Not Found", 404)
NO_OPENAI_PATH = openai_error("Invalid URL", "unknown_url", status=404)


@dataclass
class Imitation:
    """One provider; calling it answers one request.

    Attributes:
        model: the name under which it is asked; any other is unknown, unless it is blank.
        served: the name that its replies carry.
        judge: the kind of judge that a configuration names for it.
        host: its own, where rag-guard knows it; then it is reached through a proxy.
        root: the path of its API, below its address.
        key: in which header it wants one; ``None`` = it wants none.
        keys: how the keys that it takes begin.
        rules: what it refuses, the first that applies.
        logit: its log-odds of True where contexts suffice; the opposite where they do not.
        leaning: log-odds added to the label that the prompt names first.
        listing: which alternatives it lists: the k best; those that it deems likely; the emitted
            token alone; the two labels and placeholders; none.
        shape: of its logprobs.
        silent: when it answers without logprobs, although they were asked for.
        after_temperature: logprobs are those after temperature (greedy: before).
        end: an end-of-turn token that it lists behind the answer.
        thinks: when it thinks before it answers.
        shows_thoughts: whether the tokens of its thoughts are in the list of logprobs.
        limits: the fields from which it reads the token budget; others it ignores.
        context: characters of prompt that it takes.
        cuts: it drops the beginning of longer ones, instead of refusing them.
        too_long: how it refuses them; may say {n} and {most} (tokens).
        caches: from how many tokens on, and in which steps, it reports cached prompts.
        chat: what it answers to every chat request, if always the same.
        decisions, systemone: what it answers there; ``None`` = it rates.
        faults: what it answers instead, by the number of the request, from 0 on.
        mistakes: what went wrong in here.
    """

    model: str = "judge-1"
    served: str = "judge-1-0815"
    judge: Literal["openai", "azure", "systemone", "decisions"] = "openai"
    host: str | None = None
    root: str = "/v1"
    key: str | None = None
    keys: str = "sk-"
    rules: Sequence[Rule] = ()
    logit: float = 4.0
    leaning: float = 0.0
    listing: Literal["full", "likely", "emitted", "placeholders", "none"] = "full"
    shape: Literal["openai", "lists", "parts"] = "openai"
    silent: Test = _not_at_all
    after_temperature: bool = False
    end: str | None = None
    thinks: Test = _not_at_all
    shows_thoughts: bool = False
    limits: Sequence[str] = _LIMITS
    context: int = 400_000
    cuts: bool = False
    too_long: Answer = field(
        default_factory=lambda: openai_error(
            "This model's maximum context length is {most} tokens. However, your messages resulted "
            "in {n} tokens. Please reduce the length of the messages.",
            "context_length_exceeded",
            "messages",
        )
    )
    caches: tuple[int, int] | None = None
    chat: Answer | None = None
    decisions: Answer | None = field(default_factory=lambda: _NOT_FOUND)
    systemone: Answer | None = field(default_factory=lambda: _NOT_FOUND)
    faults: Mapping[int, Answer] = field(init=False, default_factory=dict[int, Answer])
    mistakes: list[Exception] = field(init=False, default_factory=list[Exception])
    _seen: list[str] = field(init=False, default_factory=list[str])
    _number: int = field(init=False, default=0)
    _dice: random.Random = field(init=False, default_factory=lambda: random.Random(7))

    def __call__(self, request: Request) -> Answer:
        """Answers one request; a mistake of ours must not look like an outage of theirs."""
        number, self._number = self._number, self._number + 1
        if number in self.faults:
            return self.faults[number]
        try:
            return self._answer(request)
        except Exception as error:
            self.mistakes.append(error)
            raise

    def _answer(self, request: Request) -> Answer:
        path = urlsplit(request.path).path
        if locked := self._locked(request.headers):
            return locked
        if request.body is None:
            models = {"object": "list", "data": [{"id": self.model, "object": "model"}]}
            return Answer(models) if path.endswith("/models") else _NOT_FOUND
        if path.endswith("/chat/completions"):
            return self._chat(request.body)
        if path.endswith("/decisions"):
            return self.decisions or self._unknown(request.body) or self._decide(request.body)
        if path.endswith("/systemone"):
            return self.systemone or self._unknown(request.body) or self._rate(request.body)
        return _NOT_FOUND

    def belief(self, prompt: str) -> float:
        """The log-odds of sufficient for this prompt."""
        logit = self.logit if suffices(prompt) else -self.logit
        if found := _TASK.search(prompt):
            logit += self.leaning if found["first"] == found["true"] else -self.leaning
        return logit

    @property
    def chat_hangs(self) -> bool:
        """Whether it never answers."""
        return self.chat is not None and self.chat.hang

    # ── Keys and models ──

    def _locked(self, headers: Mapping[str, str]) -> Answer | None:
        if self.key is None:
            return None
        lower = {name.casefold(): value for name, value in headers.items()}
        key = lower.get(self.key, "").removeprefix("Bearer ")
        if key.startswith(self.keys):
            return None
        # OpenAI masks it; others do not.
        return openai_error(f"Incorrect API key provided: {key}", "invalid_api_key", status=401)

    def _unknown(self, body: Body) -> Answer | None:
        if self.judge == "azure" or body.get("model") == self.model or not self.model:
            return None
        message = f"The model `{body.get('model')}` does not exist or you do not have access to it."
        return openai_error(message, "model_not_found", status=404)

    # ── Chat ──

    def _chat(self, body: Body) -> Answer:
        if self.chat is not None:
            return self.chat
        if refused := self._unknown(body) or self._refused(body):
            return refused
        prompt = "\n".join(_text(message["content"]) for message in body["messages"])
        if len(prompt) > self.context and not self.cuts:
            return _filled(self.too_long, n=len(prompt) // 4, most=self.context // 4)
        cached = self._cached(prompt)
        prompt = prompt[-self.context :]
        choice = self._choice(body, prompt)
        usage = {"prompt_tokens": len(prompt) // 4, "completion_tokens": 2}
        usage["total_tokens"] = usage["prompt_tokens"] + 2
        details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
        return Answer(
            {
                "id": f"chatcmpl-{self._number}",
                "object": "chat.completion",
                "created": 1,
                "model": self.served,
                "choices": [choice],
                "usage": {**usage, **details},
            }
        )

    def _refused(self, body: Body) -> Answer | None:
        return next((answer for rule in self.rules if (answer := rule(body))), None)

    def _choice(self, body: Body, prompt: str) -> Body:
        temperature = body.get("temperature", 1.0)
        logits = self._logits(prompt)
        emitted = self._emitted(logits, temperature)
        thought = _THOUGHT if self.thinks(body) else ()
        budget = _budget(body, self.limits)
        finished = not thought or budget >= 200
        answer = [emitted, *([self.end] if self.end else [])] if finished else []
        tokens = [*thought[:budget], *answer] if self.shows_thoughts else answer
        scale = temperature if self.after_temperature and temperature else 1.0
        message: Body = {"role": "assistant", "content": emitted if finished else ""}
        if self.shape == "parts":
            message["content"] = [{"type": "text", "text": message["content"]}]
        if thought and self.shows_thoughts:
            message["reasoning"] = "".join(thought[:budget])
        choice: Body = {
            "index": 0,
            "message": message,
            "finish_reason": "stop" if finished else "length",
        }
        if wants_logprobs(body) and self.listing != "none" and not self.silent(body):
            listed = [self._entry(token, emitted, logits, body, scale) for token in tokens]
            choice["logprobs"] = _lists(listed) if self.shape == "lists" else {"content": listed}
        return choice

    def _logits(self, prompt: str) -> list[tuple[str, float]]:
        """Every token of the vocabulary, likeliest first."""
        found = _TASK.search(prompt)
        if found is None:
            return [("Hello", 4.0), *_FILLERS]
        half = self.belief(prompt) / 2
        [other] = {found["first"], found["second"]} - {found["true"]}
        labels = sorted([(found["true"], half), (other, -half)], key=lambda one: -one[1])
        return [*labels, *_FILLERS]

    def _emitted(self, logits: Sequence[tuple[str, float]], temperature: float) -> str:
        # A list of one token is that of a model which always says the same.
        if not temperature or self.listing == "likely":
            return logits[0][0]
        values = _log_softmax(logits[:2], temperature)
        return logits[0][0] if self._dice.random() < math.exp(values[0][1]) else logits[1][0]

    def _entry(
        self,
        token: str,
        verdict: str,
        logits: Sequence[tuple[str, float]],
        body: Body,
        scale: float,
    ) -> Body:
        """One position of the list."""
        k = body.get("top_logprobs")
        k = body["logprobs"] if k is None and body["logprobs"] is not True else k or 0
        if token != verdict:
            logits = [(token, 9.0), *_FILLERS]
        values = _log_softmax(logits, scale)
        alternatives = values[:k]
        if self.listing == "likely":
            alternatives = [(text, round(value, 1)) for text, value in alternatives if value > -3]
        elif self.listing == "placeholders":
            alternatives = [(text, value if value > -7 else -9999.0) for text, value in values[:k]]
        elif self.listing == "emitted":
            alternatives = []
        own = dict(alternatives).get(token, dict(values)[token])
        entry = {**_token(token, own), "top_logprobs": [_token(*one) for one in alternatives]}
        return {**entry, "token_id": 7} if self.shape == "parts" else entry

    def _cached(self, prompt: str) -> int | None:
        if self.caches is None:
            return None
        shared = max((len(os.path.commonprefix([prompt, one])) for one in self._seen), default=0)
        self._seen.append(prompt)
        least, step = self.caches
        return shared // 4 // step * step if shared // 4 >= least else 0

    # ── Statements ──

    def _decide(self, body: Body) -> Answer:
        p = 1 / (1 + math.exp(-self.belief(_text(body["input"]))))
        answers = [
            {"type": "predicate", "name": one["name"], "probability": round(p, 2)}
            for one in body["questions"]
        ]
        usage = {"input_tokens": len(_text(body["input"])) // 4, "output_tokens": 0}
        return Answer({"id": "dec_1", "model": self.served, "answers": answers, "usage": usage})

    def _rate(self, body: Body) -> Answer:
        p = 1 / (1 + math.exp(-self.belief(_text(body["state"]))))
        answers = {name: {"type": "noul", "noul": round(p, 3)} for name in body["questions"]}
        usage = {"input_tokens": len(_text(body["state"])) // 4, "output_tokens": 1}
        return Answer({"model": self.served, "answers": answers, "usage": usage})


def _text(content: Json) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_text(part.get("text") or part.get("content") or "") for part in content)


def _budget(body: Body, limits: Sequence[str]) -> int:
    return min((body[name] for name in limits if name in body), default=_UNLIMITED)


def _filled(answer: Answer, **values: int) -> Answer:
    body = answer.body["error"]
    message = body["message"].format(**values)
    more = {"n_prompt_tokens": values["n"], "n_ctx": values["most"]} if "n_ctx" in body else {}
    return replace(answer, body={"error": {**body, "message": message, **more}})


def _log_softmax(logits: Sequence[tuple[str, float]], scale: float) -> list[tuple[str, float]]:
    scaled = [(text, logit / scale) for text, logit in logits]
    top = scaled[0][1]
    total = top + math.log(math.fsum(math.exp(logit - top) for _, logit in scaled))
    return [(text, logit - total) for text, logit in scaled]


def _token(text: str, logprob: float) -> Body:
    return {"token": text, "bytes": list(text.encode()), "logprob": logprob}


def _lists(entries: Sequence[Body]) -> Body:
    """Together's shape, which is that of the old completions: parallel lists."""
    return {
        "tokens": [entry["token"] for entry in entries],
        "token_logprobs": [entry["logprob"] for entry in entries],
        "token_ids": [7 for _ in entries],
        "top_logprobs": [
            {one["token"]: one["logprob"] for one in entry["top_logprobs"]} for entry in entries
        ],
        "content": None,
    }


# ── The providers ────────────────────────────────────────────────────────────────────────────────

_GEMINI_FIELDS = "logprobs top_logprobs max_tokens max_completion_tokens temperature seed"
# openai 2.54: chat.completions.create, without what only some models take.
_OPENAI_FIELDS = f"""{_GEMINI_FIELDS} top_p n stop user safety_identifier store metadata
stream_options logit_bias presence_penalty frequency_penalty response_format tools tool_choice
parallel_tool_calls service_tier prompt_cache_key"""
_ALONE = refuse(
    lambda body: "top_logprobs" in body and not body.get("logprobs"),
    openai_error("top_logprobs requires logprobs to be set to true"),
)
_AT_MOST = "Invalid 'top_logprobs': integer above maximum value. Expected a value <= {most}."


def _unrecognised(name: str) -> Answer:
    return openai_error(f"Unrecognized request argument supplied: {name}")


def _extra_inputs(name: str) -> Answer:
    return anthropic_error(f"{name}: Extra inputs are not permitted")


def _mistral_extra(name: str) -> Answer:
    found = {"type": "extra_forbidden", "loc": ["body", name]}
    detail = [{**found, "msg": "Extra inputs are not permitted", "input": None}]
    return Answer({"object": "error", "message": {"detail": detail}, "code": None}, status=422)


def _gemini_unknown(name: str) -> Answer:
    return gemini_error(f'Invalid JSON payload received. Unknown name "{name}": Cannot find field.')


def _deepseek_thinks(body: Body) -> bool:
    switch: Body = body.get("thinking", {})
    return bool(switch.get("type") != "disabled")


def _qwen_thinks(body: Body) -> bool:
    switch: Body = body.get("chat_template_kwargs", {})
    return bool(switch.get("enable_thinking", True))


def _always(_body: Body) -> bool:
    return True


def _reasons(effort: str) -> Test:
    """Whether it reasons, where this is its effort unless another is asked for."""
    return lambda body: body.get("reasoning_effort", effort) != "none"


_UNFINISHED = openai_error(
    "Could not finish the message because max_tokens or model output limit was reached. Please try "
    "again with higher max_tokens."
)
_WARM_ONLY = refuse(
    lambda body: body.get("temperature", 1) != 1,
    openai_error(
        "Unsupported value: 'temperature' does not support 0 with this model. Only the default (1) "
        "value is supported.",
        "unsupported_value",
        "temperature",
    ),
)
_NEW_NAME = refuse(
    has("max_tokens"),
    openai_error(
        "Unsupported parameter: 'max_tokens' is not supported with this model. Use "
        "'max_completion_tokens' instead.",
        "unsupported_parameter",
        "max_tokens",
    ),
)
_FROM_OPENAI = Imitation(
    key="authorization",
    caches=(1024, 128),
    decisions=openai_error("This model does not support decisions.", "model_not_found", status=404),
    systemone=NO_OPENAI_PATH,
)


def _reasoner(effort: str, *, model: str) -> Imitation:
    """OpenAI's reasoning families, by the effort that they make unless told otherwise."""
    return replace(
        _FROM_OPENAI,
        model=model,
        served=f"{model or 'gpt-5.5'}-2026-08-01",
        listing="likely",
        thinks=_reasons(effort),
        rules=[
            only(f"{_OPENAI_FIELDS} reasoning_effort", _unrecognised),
            _NEW_NAME,
            _WARM_ONLY,
            refuse(
                lambda body: wants_logprobs(body) and _reasons(effort)(body),
                unsupported("logprobs"),
            ),
            _ALONE,
            cap(5, _AT_MOST),
            floor(4, lambda _budget: _UNFINISHED),
        ],
    )


def _never(refusal: Answer, *, model: str, unfinished: Answer | None = None) -> Imitation:
    """An OpenAI model that gives no logprobs and cannot be kept from thinking."""
    efforts = openai_error(
        "Unsupported value: 'reasoning_effort' does not support 'none' with this model. Supported "
        "values are: 'low', 'medium', and 'high'.",
        "unsupported_value",
        "reasoning_effort",
    )
    rules = [
        only(f"{_OPENAI_FIELDS} reasoning_effort", _unrecognised),
        _NEW_NAME,
        _WARM_ONLY,
        refuse(wants_logprobs, refusal),
        refuse(has("reasoning_effort", "none"), efforts),
    ]
    if unfinished is not None:
        rules.append(floor(200, lambda _budget: unfinished))
    return replace(_FROM_OPENAI, model=model, served=model, thinks=_always, rules=rules)


_NOT_ALLOWED = openai_error(
    "You are not allowed to request logprobs from this model", None, None, status=403
)
_LLAMA_CPP = Imitation(
    rules=[_ALONE],
    end="",
    context=16_384,
    too_long=Answer(
        {
            "error": {
                "code": 400,
                "message": "request ({n} tokens) exceeds the available context size ({most} tokens)"
                ", try increasing it",
                "type": "exceed_context_size_error",
                "n_prompt_tokens": 0,
                "n_ctx": 0,
            }
        },
        status=400,
    ),
    caches=(1, 1),
    decisions=Answer(
        {"error": {"code": 404, "message": "File Not Found", "type": "not_found_error"}}, status=404
    ),
    systemone=Answer(
        {
            "error": {
                "code": 501,
                "message": "This model is not a decision model",
                "type": "not_supported_error",
            }
        },
        status=501,
    ),
)
_OLLAMA = Imitation(
    rules=[cap(20, "top_logprobs must be between 0 and {most}", plain_error)],
    limits=("max_tokens",),
    context=16_384,
    cuts=True,
    decisions=Answer(b"404 page not found", status=404, headers={"content-type": "text/plain"}),
    systemone=Answer(b"404 page not found", status=404, headers={"content-type": "text/plain"}),
)
_VLLM = Imitation(
    rules=[
        cap(5, "Requested sample logprobs of {k}, which is greater than max allowed: {most}"),
    ],
)
_TOGETHER = Imitation(host="api.together.xyz", key="authorization", model="meta-llama/Judge")
_LM_STUDIO_PATH = Answer({"error": "Unexpected endpoint or method. (POST)"})  # Yes, HTTP 200.
_AT_CHANCE = 0.04

PROVIDERS: Mapping[str, Imitation] = {
    "openai-full": replace(
        _FROM_OPENAI,
        model="gpt-4.1-mini",
        rules=[only(_OPENAI_FIELDS, _unrecognised), _ALONE, cap(20, _AT_MOST)],
    ),
    "openai-gpt-5.4": _reasoner("none", model="gpt-5.4-mini"),
    "openai-gpt-5.5": _reasoner("medium", model="gpt-5.5"),
    # The same under a name that does not tell: everything must be learnt.
    "gateway-gpt-5.5": _reasoner("medium", model="our-judge"),
    "openai-never": _never(_NOT_ALLOWED, model="o3"),
    "openai-never-unfinished": _never(
        unsupported("logprobs"), model="gpt-6.1-sol", unfinished=_UNFINISHED
    ),
    "gateway-never": _never(_NOT_ALLOWED, model="our-judge"),
    "openai-decisions": replace(
        _never(unsupported("logprobs"), model="gpt-6-luna"), decisions=None
    ),
    "azure-old-api": replace(
        _FROM_OPENAI,
        model="our-deployment",
        judge="azure",
        root="",
        key="api-key",
        rules=[
            only(_OPENAI_FIELDS, _unrecognised),
            cap(5, "Invalid value for 'top_logprobs': must be less than or equal to {most}."),
        ],
        decisions=openai_error("Resource not found", "404", status=404),
        systemone=openai_error("Resource not found", "404", status=404),
    ),
    "azure-content-filter": replace(
        _FROM_OPENAI,
        model="our-deployment",
        judge="azure",
        root="",
        key="api-key",
        chat=openai_error(
            "The response was filtered due to the prompt triggering Azure OpenAI's content "
            "management policy.",
            "content_filter",
            "prompt",
        ),
    ),
    "vllm": _VLLM,
    "vllm-masked": replace(_VLLM, listing="placeholders"),
    "sglang": Imitation(after_temperature=True),
    "llama-cpp": _LLAMA_CPP,
    "llama-cpp-decision-model": replace(
        _LLAMA_CPP,
        judge="systemone",
        systemone=None,
        chat=openai_error("This model is a decision model", status=501),
    ),
    "ollama": _OLLAMA,
    "ollama-thinking": replace(
        _OLLAMA, thinks=lacks(has("reasoning_effort", "none")), shows_thoughts=True
    ),
    "lm-studio": Imitation(
        listing="none", decisions=_LM_STUDIO_PATH, systemone=_LM_STUDIO_PATH, context=16_000
    ),
    "deepseek": Imitation(
        host="api.deepseek.com",
        root="",
        model="deepseek-chat",
        key="authorization",
        thinks=_deepseek_thinks,
    ),
    # The same model behind a gateway: the switch must be found.
    "gateway-deepseek": Imitation(thinks=_deepseek_thinks),
    "qwen-on-vllm": replace(
        _VLLM,
        rules=[],
        thinks=_qwen_thinks,
        shows_thoughts=True,
    ),
    "gemini": Imitation(
        host="generativelanguage.googleapis.com",
        root="/v1beta/openai",
        model="gemini-3.5-flash",
        key="authorization",
        rules=[
            only(f"{_GEMINI_FIELDS} reasoning_effort", _gemini_unknown),
            refuse(
                wants_logprobs,
                gemini_error("Logprobs is not enabled for models/gemini-3.5-flash"),
            ),
            refuse(
                has("reasoning_effort", "none"),
                gemini_error("Thinking can not be disabled: reasoning_effort none is invalid."),
            ),
        ],
        thinks=_always,
    ),
    "gemini-unknown-name": Imitation(
        model="gemini-2.5-flash",
        rules=[
            only(
                "max_tokens max_completion_tokens temperature seed reasoning_effort",
                _gemini_unknown,
            )
        ],
        thinks=lacks(has("reasoning_effort", "none")),
    ),
    "anthropic": Imitation(
        host="api.anthropic.com",
        model="claude-haiku-5",
        key="authorization",
        rules=[only("max_tokens max_completion_tokens temperature", _extra_inputs)],
        decisions=anthropic_error("Not found", 404),
        systemone=anthropic_error("Not found", 404),
    ),
    "anthropic-compatible": Imitation(model="claude-haiku-5", listing="none"),
    "mistral": Imitation(
        shape="parts",
        rules=[
            only("logprobs top_logprobs max_tokens temperature reasoning_effort", _mistral_extra)
        ],
    ),
    "groq": Imitation(
        rules=[
            refuse(
                wants_logprobs,
                openai_error("`logprobs` is not supported with this model", None, None),
            ),
            refuse(
                has("reasoning_effort"),
                openai_error("`reasoning_effort` is not supported with this model"),
            ),
        ],
    ),
    "xai": Imitation(host="api.x.ai", model="grok-4.20", key="authorization", silent=_always),
    "together": replace(
        _TOGETHER,
        shape="lists",
        rules=[
            refuse(
                has("logprobs", True),
                openai_error(
                    "Invalid type for 'logprobs': expected an integer, but got a boolean instead.",
                    "invalid_type",
                    "logprobs",
                    422,
                ),
            )
        ],
    ),
    # UKGovernmentBEIS/inspect_ai pull request 5149: newer models take OpenAI's form only.
    "together-newer-model": replace(
        _TOGETHER,
        rules=[
            refuse(
                lambda body: type(body.get("logprobs", True)) is int,
                openai_error(
                    "Invalid JSON data: invalid type: integer `20`, expected a boolean", None, None
                ),
            ),
        ],
    ),
    "fireworks": Imitation(
        host="api.fireworks.ai",
        root="/inference/v1",
        key="authorization",
        rules=[cap(5, "top_logprobs: Input should be less than or equal to {most}")],
    ),
    "openrouter": Imitation(
        host="openrouter.ai",
        root="/api/v1",
        model="meta-llama/judge",
        key="authorization",
        silent=lambda body: not body.get("provider", {}).get("require_parameters"),
        rules=[
            floor(
                16,
                lambda budget: openai_error(
                    f"Provider returned error: Invalid 'max_output_tokens': integer below minimum "
                    f"value. Expected a value >= 16, but got {budget} instead.",
                    400,
                ),
            )
        ],
    ),
    "litellm-drop-params": Imitation(silent=_always, key="authorization"),
    "litellm-refuses": Imitation(
        key="authorization",
        rules=[
            only(
                "max_tokens max_completion_tokens temperature",
                lambda name: openai_error(
                    "litellm.UnsupportedParamsError: anthropic does not support parameters: "
                    f"['{name}'], for model=claude. To drop these, set `litellm.drop_params=True`.",
                    "400",
                ),
            )
        ],
    ),
    "tgi": Imitation(
        rules=[
            cap(
                5,
                "Input validation error: `top_n_tokens` must be >= 0 and <= {most}. Given: {k}",
                lambda message: plain_error(message, 422, error_type="validation"),
            )
        ],
    ),
    "emitted-only": Imitation(listing="emitted"),
    "jev": Imitation(
        judge="systemone",
        model="jev-latest",
        served="jev-1.13.0",
        key="authorization",
        chat=detail_error("Not Found", "not_found", 404),
        systemone=None,
    ),
    # ── Trouble ──
    "unauthorized": replace(_FROM_OPENAI, keys="sk-another-"),
    "forbidden": replace(
        _FROM_OPENAI,
        chat=openai_error(
            "Country, region, or territory not supported",
            "unsupported_country_region_territory",
            status=403,
        ),
        decisions=openai_error("Country, region, or territory not supported", status=403),
        systemone=openai_error("Country, region, or territory not supported", status=403),
    ),
    "unknown-model": replace(_FROM_OPENAI, model="another"),
    "slow": Imitation(chat=Answer(hang=True), decisions=Answer(hang=True)),
    "rate-limited": Imitation(
        chat=openai_error("Rate limit reached", "rate_limit_exceeded", status=429),
        decisions=openai_error("Rate limit reached", "rate_limit_exceeded", status=429),
        systemone=openai_error("Rate limit reached", "rate_limit_exceeded", status=429),
    ),
    "web-page": Imitation(
        chat=Answer(b"<html>hello</html>", headers={"content-type": "text/html"}),
        decisions=Answer(b"<html>hello</html>", headers={"content-type": "text/html"}),
        systemone=Answer(b"<html>hello</html>", headers={"content-type": "text/html"}),
    ),
    "at-chance": Imitation(logit=_AT_CHANCE),
    "leaning": Imitation(leaning=1.5),
    "wrong-way": Imitation(leaning=6.0),
    "inverted": Imitation(logit=-4.0),
}
"""By name. "down" is none of them: see `imitating`."""

_MISSPELT = {"unknown-model": "judge-1"}


@dataclass(frozen=True)
class Running:
    """An imitation that serves.

    Attributes:
        judge: the name of the judge to configure.
        base_url: where it serves.
        environ: variables that a client needs: the key, a proxy where it has a host of its own.
    """

    imitation: Imitation
    server: WireServer
    judge: str
    base_url: str
    environ: Mapping[str, str]

    @property
    def model(self) -> str:
        """The model to ask for."""
        return self.judge.partition(":")[2]

    @property
    def requests(self) -> list[Request]:
        """What it has received."""
        return self.server.requests


@contextmanager
def imitating(name: str) -> Generator[Running]:
    """Starts a fresh imitation of the provider of this name."""
    imitation = replace(PROVIDERS[name])
    server = WireServer(imitation, host=imitation.host)
    try:
        base_url, environ = server.url.removesuffix("/v1") + imitation.root, {"OPENAI_API_KEY": KEY}
        if imitation.host is not None:
            base_url = f"http://{imitation.host}{imitation.root}"
            environ |= {"HTTP_PROXY": proxy_url(), "http_proxy": proxy_url(), "no_proxy": ""}
        if imitation.judge == "azure":
            environ |= {"OPENAI_API_VERSION": "2024-06-01", "AZURE_OPENAI_API_KEY": KEY}
        model = _MISSPELT.get(name, imitation.model)
        yield Running(imitation, server, f"{imitation.judge}:{model}", base_url, environ)
    finally:
        server.close()
    if imitation.mistakes:
        raise ExceptionGroup("The imitation is broken.", imitation.mistakes)
