"""The report in real, headless Chromium: its figures, its safety, and all who read it."""

import re
import shutil
import socket
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, cast

import pytest
from playwright.sync_api import Browser, Locator, Page, sync_playwright
from reported import CERTIFICATE, POLICY, PROFILE, Sample, audited, sample, wrong_clock

from guard import Query, Thresholds
from guard.audit_report import of_audit
from guard.report import Report

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
Scheme = Literal["light", "dark"]
SCHEMES: tuple[Scheme, ...] = ("light", "dark")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed"),
]


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@dataclass
class Opened:
    """A page, and what it did that it should not: logged, asked for, shown."""

    page: Page
    report: Report
    trouble: list[str] = field(default_factory=list[str])

    def figures(self) -> dict[str, dict[str, str]]:
        """What each tile holds, by the figure's name."""
        tiles = self.page.locator("#figures > div").all()
        return {str(tile.get_attribute("data-figure")): _held(tile) for tile in tiles}

    def set(self, thresholds: Thresholds) -> None:
        """Types both thresholds, the one that cannot push the other first."""
        self.page.locator("#answer-at-number").fill("1")
        self.page.locator("#refuse-below-number").fill(repr(thresholds.refuse_below))
        self.page.locator("#answer-at-number").fill(repr(thresholds.answer_at))


def _held(tile: Locator) -> dict[str, str]:
    names = ("value", "low", "high", "events", "n")
    held = {name: str(tile.get_attribute(f"data-{name}")) for name in names}
    return {**held, "shown": tile.locator(".value").inner_text()}


@contextmanager
def opened(
    browser: Browser,
    report: Report,
    path: Path,
    *,
    width: int = 1280,
    scheme: Scheme = "light",
    **options: Any,
) -> Generator[Opened]:
    """The report in a window; fails at the end if it logged or asked for anything."""
    report.write(path)
    context = browser.new_context(
        viewport={"width": width, "height": 844}, color_scheme=scheme, **options
    )
    page = context.new_page()
    found = Opened(page, report)
    page.on("console", lambda message: found.trouble.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: found.trouble.append(f"error: {error}"))
    page.on("dialog", lambda dialog: found.trouble.append(f"dialog: {dialog.message}"))
    context.on("page", lambda other: found.trouble.append(f"window: {other.url}"))
    page.on(
        "request",
        lambda request: (
            None if request.url == path.as_uri() else found.trouble.append(f"asks {request.url}")
        ),
    )
    page.goto(path.as_uri())
    try:
        yield found
        assert found.trouble == []
    finally:
        context.close()


@pytest.fixture
def evaluated(browser: Browser, tmp_path: Path) -> Generator[Opened]:
    with opened(browser, sample().report(texts=True), tmp_path / "report.html") as found:
        yield found


REPORTS = ["evaluation", "audit", "unlabelled", "shadow"]
DOWN = ["down", "audit of down"]


def report_of(kind: str, folder: Path) -> Report:
    """A report of each kind, with texts where there are any."""
    if kind == "evaluation":
        return sample().report(texts=True)
    if kind == "down":
        return sample().failing("unavailable").report(texts=True)
    found = audited(
        folder / "audit.jsonl",
        texts=True,
        labelled=0 if kind == "unlabelled" else 0.5,
        policy=replace(POLICY, mode="shadow" if kind == "shadow" else "enforce"),
        failing="unavailable" if kind in DOWN else None,
    )
    return of_audit(found, name="town guide", profile=PROFILE, texts=True)


# ── Figures ──────────────────────────────────────────────────────────────────────────────────────

PAIRS = [
    Thresholds(0.85, 0.3),
    Thresholds(0.5, 0.5),
    Thresholds(1.0, 0.0),
    Thresholds(0.0, 0.0),
    Thresholds(1.0, 1.0),
    Thresholds(0.6180339887498949, 0.1111111111111111),
]


@pytest.mark.parametrize("kind", REPORTS)
def test_figures_are_those_of_python(browser: Browser, tmp_path: Path, kind: str) -> None:
    """To the last bit, the page rounds as Python does, and the intervals agree."""
    report = report_of(kind, tmp_path)
    with opened(browser, report, tmp_path / "report.html") as found:
        for thresholds in (None, *PAIRS):
            if thresholds is not None:
                found.set(thresholds)
            _assert_same(found, report, thresholds)


_FIGURES_AT = """(pairs) => {
  const type = (id, value) => {
    const field = document.getElementById(id);
    field.value = String(value);
    field.dispatchEvent(new Event('input', { bubbles: true }));
  };
  return pairs.map(([answerAt, refuseBelow]) => {
    type('answer-at-number', 1);
    type('refuse-below-number', refuseBelow);
    type('answer-at-number', answerAt);
    return Object.fromEntries([...document.querySelectorAll('#figures > div')].map(
      ({ dataset: held }) =>
        [held.figure, [Number(held.events), Number(held.n)]]));
  });
}"""


def _assert_same(found: Opened, report: Report, thresholds: Thresholds | None) -> None:
    rates, shown = report.shares(thresholds), found.figures()
    assert shown.keys() >= {"coverage", "clarify_rate", "refuse_rate"}
    assert ({"leak", "false_refusal"} <= shown.keys()) is bool(report.points.labelled.any())
    for name, held in shown.items():
        rate = rates[name]
        assert (held["events"], held["n"]) == (str(rate.events), str(rate.n)), name
        if rate.value is None or rate.interval is None:
            assert (held["value"], held["shown"]) == ("null", "–")
            continue
        assert float(held["value"]) == rate.value, name
        ends = (float(held["low"]), float(held["high"]))
        assert ends == pytest.approx(rate.interval, rel=1e-12), name
        assert held["shown"] == f"{rate.value * 100:.1f}\u00a0%", name


def test_figures_are_those_of_an_evaluation(browser: Browser, tmp_path: Path) -> None:
    """Not only of our own sums: of guard.evaluation, at each pair of thresholds."""
    made = sample()
    with opened(browser, made.report(), tmp_path / "report.html") as found:
        for thresholds in PAIRS:
            found.set(thresholds)
            shown, figures = found.figures(), made.evaluation(thresholds).figures
            for name in ("leak", "false_refusal", "clarify_rate", "coverage"):
                value = figures[name].value
                assert shown[name]["value"] == "null" if value is None else True
                assert value is None or float(shown[name]["value"]) == value


def test_thresholds_at_the_rows_own_numbers(evaluated: Opened) -> None:
    """At the very number that a row has, it is answered, and not refused: at every one."""
    points = evaluated.report.points
    measured = points.kinds == 0
    pairs = [Thresholds(number, number) for number in sorted({*points.low[measured].tolist()})]
    pairs += [Thresholds(1.0, number) for number in sorted({*points.high[measured].tolist()})]
    found = evaluated.page.evaluate(
        _FIGURES_AT, [[each.answer_at, each.refuse_below] for each in pairs]
    )
    for thresholds, shown in zip(pairs, found, strict=True):
        rates = evaluated.report.shares(thresholds)
        for name, (events, n) in shown.items():
            assert (events, n) == (rates[name].events, rates[name].n), (name, thresholds)


@pytest.mark.parametrize("count", [7, 12, 53])
def test_intervals_of_all_and_none_end_exactly(
    browser: Browser, tmp_path: Path, count: int
) -> None:
    """Numbers for which Wilson's formula gives an end beside 1."""
    made = sample(profile=None)
    measured = [one for one in made.judgements if one.verdict is not None][:count]
    report = replace(made, judgements=measured).report()
    with opened(browser, report, tmp_path / "report.html") as found:
        found.set(Thresholds(0.0, 0.0))
        shown = found.figures()
        assert (shown["coverage"]["value"], shown["coverage"]["high"]) == ("1", "1")
        assert (shown["refuse_rate"]["value"], shown["refuse_rate"]["low"]) == ("0", "0")


def test_sliders_by_hand(evaluated: Opened) -> None:
    """Arrow keys move by a thousandth; figures, marks and the field follow."""
    slider = evaluated.page.locator("#answer-at")
    slider.focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowLeft", "PageUp"):
        evaluated.page.keyboard.press(key)
    value = float(slider.input_value())
    assert value != pytest.approx(PROFILE.thresholds.answer_at, abs=0.01)
    thresholds = Thresholds(value, PROFILE.thresholds.refuse_below)
    _assert_same(evaluated, evaluated.report, thresholds)
    assert slider.get_attribute("aria-valuetext") == f"{value:.3f}"
    assert evaluated.page.locator("#answer-at-number").input_value() == f"{value:.3f}"


def test_the_lower_threshold_never_passes_the_upper(evaluated: Opened) -> None:
    page = evaluated.page
    page.locator("#refuse-below-number").fill("0.95")
    assert page.locator("#answer-at-number").input_value() == "0.950"
    _assert_same(evaluated, evaluated.report, Thresholds(0.95, 0.95))
    page.locator("#answer-at-number").fill("0.2")
    assert page.locator("#refuse-below-number").input_value() == "0.200"
    _assert_same(evaluated, evaluated.report, Thresholds(0.2, 0.2))
    page.get_by_role("button", name="The thresholds in use").click()
    _assert_same(evaluated, evaluated.report, PROFILE.thresholds)


@pytest.mark.parametrize("typed", ["", "2", "-0.1", "1e9"])
def test_what_is_no_threshold_changes_nothing(evaluated: Opened, typed: str) -> None:
    field = evaluated.page.locator("#answer-at-number")
    field.fill(typed)
    field.blur()
    _assert_same(evaluated, evaluated.report, PROFILE.thresholds)
    assert field.input_value() == repr(PROFILE.thresholds.answer_at)


@pytest.mark.parametrize(
    ("thresholds", "told"),
    [
        (PROFILE.thresholds, "Within the certified region."),
        (replace(PROFILE.thresholds, answer_at=0.9), "stricter than what was certified"),
        (replace(PROFILE.thresholds, refuse_below=0.1), "Within the certified region."),
        (
            replace(PROFILE.thresholds, answer_at=0.8),
            "Outside the certified region: it answers below the certified 0.8320183851339245. ",
        ),
        (
            replace(PROFILE.thresholds, refuse_below=0.4),
            "Outside the certified region: it refuses above the certified 0.31002551887238755. ",
        ),
        (
            Thresholds(0.8, 0.4),
            "Outside the certified region: it answers below the certified 0.8320183851339245, and "
            "it refuses above the certified 0.31002551887238755. ",
        ),
    ],
)
def test_the_certified_region(evaluated: Opened, thresholds: Thresholds, told: str) -> None:
    evaluated.set(thresholds)
    region = evaluated.page.locator("#region")
    assert told in region.inner_text()
    assert (region.get_attribute("class") == "inside") is told.startswith(("Within", "stricter"))
    mark = evaluated.page.locator("#answer-at-band i").bounding_box()
    slider = evaluated.page.locator("#answer-at").bounding_box()
    assert mark is not None and slider is not None
    share = (mark["x"] - slider["x"]) / slider["width"]
    assert share == pytest.approx(PROFILE.thresholds.answer_at, abs=0.02)


def test_rows_that_break_the_promise_are_told(browser: Browser, tmp_path: Path) -> None:
    made = sample()
    flipped = [
        replace(one, sufficient=not one.sufficient) if number % 2 else one
        for number, one in enumerate(made.judgements)
    ]
    report = replace(made, judgements=flipped).report()
    with opened(browser, report, tmp_path / "report.html") as found:
        region = found.page.locator("#region")
        assert "But these queries show leaks of at least" in region.inner_text()
        assert region.get_attribute("class") == "outside"


def test_where_the_promise_is_void_no_region(browser: Browser, tmp_path: Path) -> None:
    certificate = replace(CERTIFICATE, routes=(("low_mass", "refuse"),))
    report = sample(profile=replace(PROFILE, certificate=certificate)).report()
    with opened(browser, report, tmp_path / "report.html") as found:
        region = found.page.locator("#region")
        assert "The promise is void here" in region.inner_text()
        assert region.get_attribute("class") == "none"
        assert "other routes for low mass" in found.page.locator("#alerts").inner_text()
        assert not found.page.get_by_role("button", name="The certified thresholds").is_visible()


def _drawn_width(section: Locator) -> float:
    box = section.locator("svg[role=img]").get_attribute("viewBox") or ""
    return float(box.split()[2])


@pytest.mark.parametrize("clock", ["1970-01-01", "0001-01-01"])
def test_one_wrong_clock(browser: Browser, tmp_path: Path, clock: str) -> None:
    audit = wrong_clock(audited(tmp_path / "audit.jsonl"), clock)
    with opened(browser, of_audit(audit), tmp_path / "report.html") as found:
        section = found.page.locator("#unmeasured")
        assert section.locator("details tbody tr").count() == 2
        assert section.locator("svg rect.bar-good").count() == 2
        last = section.locator("svg rect.bar-good").last
        assert float(last.get_attribute("x") or 0) > 0.9 * _drawn_width(section), "where it belongs"
        section.locator("summary").click()
        assert "Queries by month (UTC)" in section.inner_text()
        assert f"\n{clock[:7]}" in section.inner_text()


@pytest.mark.parametrize("kind", ["evaluation", "audit"])
def test_the_ring_is_of_the_rows_of_the_curve(browser: Browser, tmp_path: Path, kind: str) -> None:
    """Measured ones with a label: at 0 it answers all of them, whatever else is answered."""
    report = report_of(kind, tmp_path)
    with opened(browser, report, tmp_path / "report.html") as found:
        right, shares = list[float](), list[float]()
        for thresholds in (Thresholds(0.0, 0.0), PROFILE.thresholds):
            found.set(thresholds)
            points = report.points
            rows = (points.kinds < 2) & points.labelled
            answered = rows & (points.low >= thresholds.answer_at)
            leaked = (answered & (points.truths == 0)).sum() / answered.sum()
            coverage = answered.sum() / rows.sum()
            words = found.page.locator("#curve svg[role=img] desc").text_content() or ""
            assert f"answer {coverage * 100:.1f}\u00a0% of these queries" in words
            assert f"leaks in {leaked * 100:.1f}\u00a0%" in words
            ring = found.page.locator("#curve .chart .ring")
            right.append(float(ring.get_attribute("cx") or "nan"))
            shares.append(float(coverage))
        line = found.page.locator("#curve .chart .line").get_attribute("d") or ""
        end = float(line.rpartition("L")[2].split()[0])
        assert right[0] == pytest.approx(end, abs=0.1)
        assert (right[1] - 50) / (end - 50) == pytest.approx(shares[1], abs=0.01)


def test_questions_and_passages_scroll_by_keyboard(evaluated: Opened) -> None:
    boxes = evaluated.page.locator("#mistakes .said")
    labels = boxes.evaluate_all(
        "all => all.map((each) => [each.tabIndex, each.getAttribute('role'), each.ariaLabel])"
    )
    assert {label for _, _, label in labels} == {"Question", "Passage 1", "Passage 2"}
    assert all((index, role) == (0, "group") for index, role, _ in labels)


def test_without_certificate_no_region(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, sample(profile=None).report(), tmp_path / "report.html") as found:
        assert "nothing is promised" in found.page.locator("#region").inner_text()
        assert not found.page.locator("#answer-at-band").is_visible()
        assert not found.page.get_by_role("button", name="The certified thresholds").is_visible()
        assert "Not calibrated" in found.page.locator("#alerts").inner_text()


@pytest.mark.parametrize("kind", DOWN)
def test_nothing_that_was_not_measured_is_drawn(
    browser: Browser, tmp_path: Path, kind: str
) -> None:
    """No sliders, no charts; what was not measured is told beside what was refused."""
    report = report_of(kind, tmp_path)
    with opened(browser, report, tmp_path / "report.html") as found:
        page = found.page
        assert page.locator("input, button, #histogram, #curve, #reliability").count() == 0
        _assert_same(found, report, None)
        tile = page.locator("#figures [data-figure=refuse_rate]").inner_text()
        assert re.search(r"of them \d+ not measured, \d+ with nothing retrieved", tile)
        assert "The judge gave no verdict on any of the" in page.locator("#alerts").inner_text()
        assert "Routes" in page.get_by_role("navigation").inner_text()


@pytest.mark.parametrize("kind", ["evaluation", "shadow"])
def test_tiles_say_whether_it_was_done(browser: Browser, tmp_path: Path, kind: str) -> None:
    with opened(browser, report_of(kind, tmp_path), tmp_path / "report.html") as found:
        tile = found.page.locator("#figures [data-figure=refuse_rate]").inner_text()
        assert tile.startswith("Would refuse" if kind == "shadow" else "Refused")
        assert re.search(r"\d of \d+ queries", tile)
        assert re.search(r"of them \d+ not measured", tile)


def test_managers_find_words_and_what_to_do(evaluated: Opened) -> None:
    short = evaluated.page.locator("#short")
    assert short.locator("dt").all_inner_texts() == ["Leak", "False refusal", "P(True)"]
    last = short.locator("xpath=*[last()]")
    assert last.inner_text().startswith("Next: Enforce the gate for a few")
    assert re.search(r"\b2 passages retrieved", evaluated.page.locator("#mistakes").inner_text())


@pytest.mark.parametrize("kind", REPORTS)
def test_one_word_for_a_query(browser: Browser, tmp_path: Path, kind: str) -> None:
    with opened(browser, report_of(kind, tmp_path), tmp_path / "report.html") as found:
        page = found.page
        page.evaluate(
            "document.querySelectorAll('details, .said').forEach((each) =>"
            " each.matches('.said') ? each.remove() : (each.open = true))"
        )
        text = page.locator("#report").inner_text() + " ".join(
            page.locator("#report desc, #report svg title").all_text_contents()
        )
        assert not re.findall(r"(?i)\b(?:rows?|records?|decisions?)\b(?!-)", text)


# ── Safety ───────────────────────────────────────────────────────────────────────────────────────

ATTACKS = [
    "</script><script>window.hit=1;alert(1)</script>",
    "<img src=x onerror='window.hit=1'><svg onload=alert(1)>",
    "<style>*{display:none}</style><link rel=stylesheet href=http://127.0.0.1:9/x.css>",
    "<a href='javascript:window.hit=1'>x</a><iframe src=http://127.0.0.1:9/></iframe>",
    '"\'><body onload=window.hit=1 style="background:url(http://127.0.0.1:9/a)">',
    "</noscript><script>window.hit=1</script><noscript>",
    "--></textarea></title><script>window.hit=1</script><meta http-equiv=refresh content=0>",
    "}*{background:url(http://127.0.0.1:9/b)}@import 'http://127.0.0.1:9/c';",
    "\u202etfel ot thgir\u202c \u2066isolate \u200bzero\ufeff \x1b[31m\x00 \u2028 \ud800",
    "Z\u0301\u0323" + "\u0302" * 99 + " piled",
    "{{script}}{{data}}{{policy}} __proto__ ${window.hit=1} {{constructor.constructor('hit=1')()}}",
]


def hostile() -> Sample:
    """Rows whose every text attacks."""
    made = sample(120)
    rows, judged = list(made.dataset.rows), list(made.judgements)
    for at, (row, one) in enumerate(zip(rows, judged, strict=True)):
        text = ATTACKS[at % len(ATTACKS)]
        id = f"{text} {at}"
        query = Query(f"{text} question", (f"{text} passage",) * 2, lang=text)
        rows[at] = replace(row, id=id, group=text, query=query)
        judged[at] = replace(one, id=id, group=text, lang=text, detail=text)
    return replace(
        made,
        dataset=replace(made.dataset, rows=tuple(rows)),
        judgements=[replace(one, fingerprint=ATTACKS[0]) for one in judged],
        profile=None,
    )


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_text_runs_or_restyles(browser: Browser, tmp_path: Path, attack: str) -> None:
    report = hostile().report(texts=True, name=attack)
    with opened(browser, report, tmp_path / "report.html") as found:
        page = found.page
        for details in page.locator("details").all():
            details.evaluate("each => { each.open = true }")
        page.locator("#answer-at").focus()
        page.keyboard.press("ArrowLeft")
        page.wait_for_timeout(50)
        assert page.evaluate("window.hit") is None
        counts = page.evaluate(
            "['script', 'style', 'img', 'iframe', 'link', 'meta', 'object', 'base']"
            ".map((tag) => document.querySelectorAll(tag).length)"
        )
        assert counts == [2, 1, 0, 0, 0, 5, 0, 0]
        assert (
            page.evaluate("document.querySelectorAll('[onerror], [onload], [style*=url]').length")
            == 0
        )
        links = page.evaluate("[...document.links].map((link) => link.getAttribute('href'))")
        assert all(link.startswith("#") for link in links)
        assert page.locator("#figures").is_visible()
        _assert_shown(page, attack)


def _assert_shown(page: Page, attack: str) -> None:
    """The text is there, as text, and each sign that hides is a number."""
    text = page.locator("#report").inner_text()
    if attack.isascii():
        assert attack[:12] in page.locator("#title").inner_text()
    else:
        hidden = "[U+0302]" if "\u0302" in attack else "[U+202E]"
        assert hidden in page.locator("#title").inner_text()
    assert not re.search("[\u0300-\u036f]{5}", page.content())
    assert page.evaluate(
        "[...document.querySelectorAll('.note, td, #title')]"
        ".every((each) => getComputedStyle(each).overflow === 'clip')"
    )
    assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b\x00\x1b]", text)
    turned = page.evaluate(
        "[...document.querySelectorAll('.said, #report bdi')]"
        ".every((each) => getComputedStyle(each).unicodeBidi.includes('isolate'))"
    )
    assert turned


def test_nothing_may_be_added_later(evaluated: Opened) -> None:
    """Even a hole in the script could put in no markup and run no other script."""
    page = evaluated.page
    assert (
        page.evaluate(
            "() => { try { document.body.innerHTML = '<b>x</b>'; return 'set' } "
            "catch (error) { return error.name } }"
        )
        == "TypeError"
    )
    page.evaluate(
        "() => { const made = document.createElement('div'); made.id = 'made';"
        " made.setAttribute('style', 'color: red'); document.body.append(made); }"
    )
    assert (
        page.evaluate("getComputedStyle(document.getElementById('made')).color") != "rgb(255, 0, 0)"
    )
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        page.evaluate(
            "(url) => { new Image().src = url; return fetch(url).catch(() => null) }",
            f"http://127.0.0.1:{server.getsockname()[1]}/",
        )
        page.wait_for_timeout(200)
        with pytest.raises(BlockingIOError):
            server.accept()
    assert any("Content Security Policy" in each for each in evaluated.trouble)
    evaluated.trouble.clear()


# ── People ───────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", [320, 360, 390, 768, 1280])
@pytest.mark.parametrize("kind", [*REPORTS, *DOWN])
def test_it_fits_and_is_legible(
    browser: Browser, tmp_path: Path, kind: str, width: int, scheme: Scheme
) -> None:
    """No sideways scrolling, and 4.5 : 1 between every text and what lies behind it."""
    report = report_of(kind, tmp_path)
    with opened(browser, report, tmp_path / "report.html", width=width, scheme=scheme) as found:
        page = found.page
        page.evaluate(
            "document.querySelectorAll('details').forEach((each) => { each.open = true })"
        )
        wide = page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        narrow = page.evaluate(
            "[...document.querySelectorAll('caption, p, li, td')].filter((each) =>"
            " each.checkVisibility() && !each.closest('.visually-hidden') &&"
            " each.textContent.length > 30 && each.clientWidth < 150).length"
        )
        assert narrow == 0
        low = page.evaluate(_CONTRASTS)
        assert low["seen"] > 100
        assert low["poor"] == []
        page.evaluate(
            "document.querySelectorAll('details').forEach((each) => { each.open = false })"
        )
        picture = page.screenshot(
            path=tmp_path / f"{kind}-{width}-{scheme}.png", full_page=True, animations="disabled"
        )
        assert len(picture) > 20_000


_CONTRASTS = """() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((each) => each / 255)
      .map((each) => (each <= 0.04045 ? each / 12.92 : ((each + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = (element) => {
    for (let each = element; each; each = each.parentElement) {
      const colour = getComputedStyle(each).backgroundColor;
      const parts = numbers(colour);
      if (parts.length < 4 || parts[3] === 1) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const poor = []; let seen = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || !element.checkVisibility()) continue;
    if (element.closest('desc, title, script, noscript')) continue;
    const style = getComputedStyle(element);
    const colour = element.closest('svg') ? style.fill : style.color;
    const [one, two] = [light(colour), light(behind(element))];
    const contrast = (Math.max(one, two) + 0.05) / (Math.min(one, two) + 0.05);
    seen += 1;
    if (contrast < 4.5) poor.push([walker.currentNode.data, contrast]);
  }
  return { seen, poor };
}"""


@pytest.mark.parametrize("scheme", SCHEMES)
def test_marks_stand_out_and_are_told_apart_without_colour(
    browser: Browser, tmp_path: Path, scheme: Scheme
) -> None:
    """3 : 1 for what charts draw; labels differ by pattern as well as by colour."""
    with opened(browser, sample().report(), tmp_path / "report.html", scheme=scheme) as found:
        colours = found.page.evaluate(
            "['--good', '--bad', '--none', '--ink', '--accent', '--warn-line', '--soft', '--card']"
            ".map((name) => getComputedStyle(document.body).getPropertyValue(name).trim())"
        )
        *marks, card = [_luminance(colour) for colour in colours]
        for mark in marks:
            assert (max(mark, card) + 0.05) / (min(mark, card) + 0.05) >= 3
        fills = [
            found.page.locator(f"#histogram .chart .{kind}").first.evaluate(
                "each => getComputedStyle(each).fill"
            )
            for kind in ("bar-good", "bar-bad")
        ]
        assert fills[0].startswith("rgb") and "#hatch" in fills[1]


def _luminance(colour: str) -> float:
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_every_control_by_keyboard(evaluated: Opened) -> None:
    """Tab goes through all of them in order, and each shows that it has the focus."""
    page, reached = evaluated.page, list[str]()
    page.keyboard.press("Tab")
    for _ in range(200):
        seen = page.evaluate(
            "() => { const each = document.activeElement; const style = getComputedStyle(each);"
            " return [each.id || each.getAttribute('href') || each.textContent.slice(0, 30),"
            " each.tagName, style.outlineStyle, parseFloat(style.outlineWidth)] }"
        )
        name, tag, outline, width = cast("tuple[str, str, str, float]", tuple(seen))
        if tag == "BODY":
            break
        assert outline != "none" and width >= 2, f"{name} shows no focus"
        reached.append(name)
        page.keyboard.press("Tab")
    assert reached[0] == "#short", "first of all, a way past the contents"
    wanted = ["answer-at-number", "answer-at", "refuse-below-number", "refuse-below", "reset"]
    places = [reached.index(name) for name in (*wanted, "certified")]
    assert places == sorted(places)
    assert {"#explorer", "#certificate", "The histogram as a table"} <= {*reached}


def test_for_a_screen_reader(evaluated: Opened) -> None:
    page = evaluated.page
    for landmark in ("banner", "navigation", "main", "contentinfo"):
        assert page.get_by_role(cast("Any", landmark)).count() == 1, landmark
    levels = [
        int(each.evaluate("each => each.tagName")[1])
        for each in page.locator("h1, h2, h3").all()
        if each.is_visible()
    ]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    for name in ("Answer at", "Refuse below"):
        assert page.get_by_role("slider", name=name).count() == 1
        assert page.get_by_role("spinbutton", name=f"{name}, exactly").count() == 1
    charts = page.get_by_role("img").all()
    assert len(charts) == 3
    for chart in charts:
        words = chart.locator("desc").text_content() or ""
        assert len(words) > 60 and any(map(str.isdigit, words))
    assert page.locator("section:not([aria-labelledby])").count() == 0
    assert page.locator("details table caption").count() == 3
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))
    assert page.evaluate("document.documentElement.lang") == "en"


def test_new_figures_are_announced_once_the_hand_rests(evaluated: Opened) -> None:
    page, status = evaluated.page, evaluated.page.get_by_role("status")
    assert status.inner_text() == ""
    page.evaluate(
        "() => { window.told = 0; new MutationObserver(() => { window.told += 1 })"
        ".observe(document.getElementById('status'), { childList: true }) }"
    )
    page.locator("#answer-at").focus()
    for _ in range(12):
        page.keyboard.press("ArrowLeft")
    assert page.evaluate("window.told") == 0
    status.get_by_text("Answer at 0.820").wait_for()
    assert page.evaluate("window.told") == 1
    rate = evaluated.report.shares(replace(PROFILE.thresholds, answer_at=0.82))["leak"]
    assert rate.value is not None
    assert f"leaks {rate.value * 100:.1f}\u00a0%" in (status.text_content() or "")


def test_without_javascript(browser: Browser, tmp_path: Path) -> None:
    made = sample()
    with opened(
        browser, made.report(), tmp_path / "report.html", width=360, java_script_enabled=False
    ) as found:
        text = found.page.locator("body").inner_text()
        assert "Without JavaScript" in text
        value = made.evaluation().figures["leak"].value
        assert value is not None and f"{value * 100:.1f} %" in text
        assert not found.page.locator("#report").is_visible()
        assert found.page.get_by_role("main").count() == 1
        assert found.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_on_paper(evaluated: Opened) -> None:
    """White, without what only a screen can do, and with every table opened."""
    page = evaluated.page
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert not page.locator("#answer-at").is_visible()
    assert page.locator("#answer-at-number").is_visible()
    assert page.locator("details:not([open])").count() == 0
    assert page.evaluate("getComputedStyle(document.body.parentElement).backgroundColor") == (
        "rgb(255, 255, 255)"
    )


def test_nothing_moves_by_itself(browser: Browser, tmp_path: Path) -> None:
    with opened(
        browser, sample().report(), tmp_path / "report.html", reduced_motion="reduce"
    ) as found:
        moving = found.page.evaluate(
            "[...document.querySelectorAll('*')].filter((each) => {"
            " const style = getComputedStyle(each);"
            " return style.transitionDuration !== '0s' || style.animationName !== 'none' }).length"
        )
        assert moving == 0


def test_charts_are_drawn_again_where_the_window_changes(evaluated: Opened) -> None:
    page = evaluated.page
    before = page.locator("#curve svg[role=img]").get_attribute("viewBox")
    page.set_viewport_size({"width": 400, "height": 800})
    page.wait_for_function(
        "(before) => document.querySelector('#curve svg[role=img]')"
        ".getAttribute('viewBox') !== before",
        arg=before,
    )
    assert page.evaluate("document.documentElement.scrollWidth") <= 400


def test_ten_thousand_rows_are_quick(browser: Browser, tmp_path: Path) -> None:
    """A step of the slider takes less than what a hand notices."""
    with opened(browser, sample(10_000).report(), tmp_path / "report.html") as found:
        seconds = found.page.evaluate(
            "() => { const slider = document.getElementById('answer-at');"
            " const start = performance.now();"
            " for (let at = 0; at < 20; at += 1) { slider.value = 0.5 + at / 100;"
            " slider.dispatchEvent(new Event('input', { bubbles: true })) }"
            " return (performance.now() - start) / 20_000 }"
        )
        assert seconds < 0.1


def test_why_queries_were_asked_back_is_drawn(browser: Browser, tmp_path: Path) -> None:
    made = of_audit(audited(tmp_path / "audit.jsonl"))
    with opened(browser, made, tmp_path / "report.html") as found:
        table = found.page.locator("#asked-back table")
        assert "Why queries were asked back" in table.inner_text()
        rows = table.locator("tbody tr").all()
        shown = [row.locator("th, td").all_inner_texts() for row in rows]
    assert shown and shown == made.tables[1][2]
