"""Writes docs/judges.md from guard/data/providers.toml.

    python scripts/judges_page.py [--write]

Without --write the page is printed. A test holds that the page in the repository is this one.
"""

import argparse
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from guard.policy import DEFAULT_THRESHOLDS
from guard.posterior import posterior
from guard.providers import Provider, providers

PAGE = Path(__file__).parent.parent / "docs" / "judges.md"
IN_PROCESS = ("gguf", "embedded")
SAMPLES = (5, 10, 15, 18, 20, 30, 50)
"""Answers per query in the table of what samples can reach."""

VERDICTS = {
    "works": "yes",
    "only with": "with a condition",
    "no": "no",
    "not spoken": "there, not read by rag-guard",
}
CHECKED = {
    "run": "run by us",
    "read": "read in code, not tried by us",
    "documented": "documented elsewhere, not tried by us",
    "conflicting": "sources disagree; not tried by us",
}

TEMPLATE = """\
<!-- Generated: python scripts/judges_page.py --write. Edit guard/data/providers.toml instead. -->

# Judges: what each provider gives, and the lines to write

rag-guard needs a number, not a word: how likely the judge finds it that the contexts suffice. Which
endpoint gives such a number changes by the month, and not every documentation tells. This page is a
first guess, as of November 2026. **`rag-guard doctor` asks your endpoint itself** and says what to
write; it is right where it and this page disagree.

We ran llama.cpp's server, xllamacpp and the embedded judge ourselves. Nobody of us has tried the
hosted endpoints: each section says where its facts come from.

## Which number to prefer

Best first; the order is ours, by how finely each one shows what the judge thinks. `signal` in a
record names the one it was.

| `signal` | what it is | costs |
|---|---|---|
| `logprobs` | the 5 or 20 likeliest tokens, all listed: tight bounds | 1 request |
| `logprobs-truncated` | a list cut short (gpt-5.x): coarse near 0 and 1 | 1 request |
| `predicate`, `noul` | a decision endpoint names the probability itself | 1 request |
| `logprobs-emitted` | the written token's own logprob alone: only a bound | 1 request |
| `encoder` | the embedded judge's own output layer: exact, of a small model | none |
| `samples` | counted answers of a model that shows no numbers: wide bounds | 3 to 200 requests |

**Thresholds are never shared between signals**, nor between models: 0.85 from one is not 0.85 from
another. When `signal` or `fingerprint` in your records changes, set or fit them again.

## All of them

*Write* is what works there: a provider without logprobs of its own may still serve as a judge, or
its place is taken by another one. Requests are those of that judge; with `both_orders` it is asked
twice. What runs on your own machine comes first, what is hosted after it.

{table}

The whole lines are in each section: words in capitals are yours to fill in, and `api_key_env` holds
the name of a variable, never the key. Without it the key is read from `OPENAI_API_KEY`, whoever the
provider is (Azure: `AZURE_OPENAI_API_KEY`); an address on this machine needs none.

{sections}

## When doctor says …

- *can judge* (exit code 0): paste its lines into guard.toml, then set thresholds on queries of your
  own.
- *only with* (0): the same. Each line below the conclusion is a key to set, which its lines hold,
  or a thing to accept.
- *cannot* (6): *Use instead* names another kind of judge, with thresholds of its own. Where there
  is none, take another model or provider from the table above.
- *not known* (5): it came to no judgement. Mend `reachable`, `auth` or `model`, and run it again.

Its findings, as `--json` names them (the printed table writes *order bias* for `order_bias`), and
what to do where one is not *ok*:

- `reachable`: start the server, or mend `base_url`, which mostly ends in `/v1`; after a time-out,
  give a longer `--timeout`. With *warn* something answers that is no model: a proxy, or a web page.
- `auth`: put the key into `OPENAI_API_KEY` (Azure: `AZURE_OPENAI_API_KEY`), or name its variable in
  `api_key_env`. A 403 can also be a region, or a model that your account may not use.
- `model`: write the name as the server lists it. A 404 can also mean a wrong path in `base_url`; a
  501 means that this model needs another kind of judge.
- `logprobs`, *truncated*: set thresholds for it, and expect values near 0 and 1. *emitted only*:
  there are bounds alone, and a query whose bounds reach across a threshold is clarified. *absent*:
  see the findings `openai` to `samples`, and the provider's section above.
- `alternatives`: fewer than 20 widen the bounds; on vLLM raise `--max-logprobs`.
- `mass`: the model writes something else than the two words. Take one that follows instructions
  better, or `labels` that suit it.
- `verdicts`, *bad*: take another model. *warn*: both cases lie on one side of 0.5; set thresholds
  of your own before anything else.
- `order_bias`: set `both_orders = true`, at two requests a query, or take another model.
- `temperature`, `reasoning`, `token_floor`: nothing to do; rag-guard sends what they found.
- `latency`: raise `deadline`, or take a smaller model.
- `prompt_limit`: set `max_context_chars`, retrieve fewer passages, or give the server more context
  (`OLLAMA_CONTEXT_LENGTH`; llama.cpp: `--ctx-size`). A server that refuses long prompts shows in
  the record as `context_too_long`; one that cuts them silently judges what it has
  not read: rag-guard notices that by the tokens counted, but not every small cut.
- `prefix_cache`: nothing to set here; the beginning of a repeated prompt is read, and paid, again.
- `openai`, `decisions`, `systemone`, `samples`: another kind of judge, tried at the same address;
  *ok* = it works there. For a `samples:` judge of yours: what it costs.
- `fallback`: was not examined; run doctor for that deployment too.

## Common beliefs that are wrong

- **“Every large provider has logprobs.”** Anthropic has no field for them at all.
- **“Gemini has them.”** On Vertex AI, and for its 2.x models only; with an AI Studio key every
  model that was probed refused.
- **“HTTP 200, so they came.”** Grok 4.20 and newer, LM Studio's chat route, a LiteLLM proxy with
  `drop_params`, and OpenRouter without `require_parameters` drop the parameter silently. rag-guard
  records `no_logprobs` then, never a number.
- **“It is in the schema.”** It is in Groq's, and no model there takes it.
- **“gpt-4o-mini is the safe choice.”** gpt-4o and gpt-4.1, the models with a full list of 20, are
  announced to shut down on 2027-01-14.
- **“A reasoning model judges better.”** Perhaps, but it gives no logprobs while it reasons, and the
  o-series and gpt-5 give none at all.
- **“`logit_bias` makes sure of True or False.”** With llama.cpp it changes the token and not the
  numbers (run by us), Ollama ignores it, at OpenAI it was reported to do nothing, and with SGLang
  it distorts what is read. rag-guard never sends it.
- **“JSON mode or a grammar helps.”** With llama.cpp the numbers are those without the grammar (run
  by us), with vLLM those behind it, where the captured mass says nothing any more; at OpenAI they
  were reported not to match what is sampled. One plain word is read best.
- **“Temperature 0 repeats exactly.”** The same prompt, cached and not, differed by up to 0.07 nats
  with llama.cpp (run by us). Keep thresholds away from where your queries crowd.
- **“A decision endpoint is calibrated, so 0.85 will do.”** An independent run of 1,000 questions
  against OpenAI's found 61 % right in all, and 199 of the 201 that were rated 0.8 or surer
  (etsabary/luna-decisions-benchmark, 2026). Your own labels tell.
- **“A table like this one settles it.”** It does not. `rag-guard doctor` asks.

## Samples

`samples:MODEL` asks the same question many times at temperature 1 and counts. The share of True
gives P(True), and how few answers there are gives the bounds: the 5 % and 95 % points of its
posterior under a uniform prior. Even answers that all agree reach only so far:

{samples}

The last two columns are for the default thresholds, {answer_at:.2f} and {refuse_below:.2f}. One
answer that differs widens the bounds: with 19 True of 20 the low end is {nineteen:.3f}.

Do not use it

- where any line above gives you a number for one request: it is never a default;
- where every second or cent counts: `samples` requests a query (20 unless set), each with the whole
  prompt;
- with a tight rate limit: all requests of a query are made at the same time;
- to mend a bad judge: asking one model twenty times averages out its dice, not its errors.

## Fallback chains

A deployment may name another one that is asked where its own judge gives no verdict:

```toml
[deployment.default]
judge = "openai:MODEL"
answer_at = 0.85
refuse_below = 0.30
fallback = "counted"

[deployment.counted]
judge = "samples:MODEL"
base_url = "https://api.anthropic.com/v1"
api_key_env = "ANTHROPIC_API_KEY"
samples = 30
answer_at = 0.80
refuse_below = 0.20
```

The fallback brings its judge and that judge's thresholds; deadline, routes, messages and mode are
the first one's. Each judge but the last gets an equal share of the time that is left. The record's
`tried` says who was asked before and why each was left. All keys:
[configuration.md](configuration.md); how the parts fit: [architecture.md](architecture.md).
"""


def page() -> str:
    """The whole page."""
    all_of_them = sorted(providers(), key=lambda each: (not _local(each), each.name.casefold()))
    return TEMPLATE.format(
        table=_table(
            ("provider", "its own logprobs", "write", "requests a query", "note"),
            (_row(each) for each in all_of_them),
        ),
        sections="\n\n".join(_section(each) for each in all_of_them),
        samples=_table(
            ("answers = requests", "all True: low", "all False: high", "can answer", "can refuse"),
            (_reach(count) for count in SAMPLES),
        ),
        answer_at=DEFAULT_THRESHOLDS.answer_at,
        refuse_below=DEFAULT_THRESHOLDS.refuse_below,
        nineteen=posterior(19, 1).low,
    )


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _row(each: Provider) -> Sequence[str]:
    return (
        f"[{each.name}](#{slug(each.name)})",
        _own(each),
        f"`{_keys(each)['judge']}`",
        _requests(each),
        each.note,
    )


def _own(each: Provider) -> str:
    """Whether it gives logprobs, and how many at each token."""
    if each.rates or each.kind == "embedded":
        return "none: it names P itself"
    if each.checked == "conflicting":
        return "disputed"
    heard = each.verdict in ("works", "only with") and each.alternatives
    return (
        f"{VERDICTS[each.verdict]}, up to {each.alternatives}" if heard else VERDICTS[each.verdict]
    )


def _requests(each: Provider) -> str:
    if each.kind in IN_PROCESS:
        return "none"
    return "20" if each.kind == "samples" else "1"


def _local(each: Provider) -> bool:
    """Whether its lines lead to one's own machine."""
    return each.kind in IN_PROCESS or "//127.0.0.1" in _keys(each).get("base_url", "")


def _keys(each: Provider) -> Mapping[str, str]:
    keys: Mapping[str, str] = tomllib.loads(each.lines)["deployment"]["default"]
    return keys


def _section(each: Provider) -> str:
    notes = {
        "Needs": each.needs,
        "Lists": _listed(each),
        "The numbers": each.numbers,
        "In the record": f"`signal` is `{each.signal}`.",
        "Costs": each.cost,
        "Refuses with": each.refusal,
        "Instead": each.instead,
        f"Source ({CHECKED[each.checked]})": each.source,
    }
    shown = [f"- {name}: {text}" for name, text in notes.items() if text]
    parts = [f"### {each.name}", each.works, f"```toml\n{each.lines}```", "\n".join(shown)]
    return "\n\n".join(parts)


def _listed(each: Provider) -> str:
    count = f"{each.alternatives} tokens at most." if each.alternatives else ""
    return f"{count} {each.alternatives_note}".strip()


def _reach(count: int) -> Sequence[str]:
    low, high = posterior(count, 0).low, posterior(0, count).high
    answers = low >= DEFAULT_THRESHOLDS.answer_at
    refuses = high < DEFAULT_THRESHOLDS.refuse_below
    return (str(count), f"{low:.3f}", f"{high:.3f}", _word(answers), _word(refuses))


def _word(truth: bool) -> str:
    return "yes" if truth else "no"


def main() -> None:
    """Prints or writes the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="write docs/judges.md")
    if parser.parse_args().write:
        PAGE.write_text(page(), "utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
