"""How the page looks: two palettes and one style sheet, for screen, telephone and paper."""

LIGHT = {
    "page": "#ffffff",
    "panel": "#f5f6f8",
    "ink": "#1b1f24",
    "muted": "#57606a",
    "line": "#d5dae0",
    "accent": "#1a5fb4",
    "second": "#a4480b",
    "neutral": "#5c6670",
    "good": "#17683c",
    "bad": "#b01a1a",
    "warn": "#855300",
}
DARK = {
    "page": "#14171b",
    "panel": "#1d2127",
    "ink": "#e8eaed",
    "muted": "#a3adb8",
    "line": "#39414b",
    "accent": "#82b4ff",
    "second": "#f2a36b",
    "neutral": "#a3adb8",
    "good": "#6fd19a",
    "bad": "#ff8f88",
    "warn": "#f0bd55",
}
"""`page` and `panel` are backgrounds, `line` separates, all others are read."""

_SHEET = """
* { box-sizing: border-box; }
html { color-scheme: light dark; -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif; }
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.25rem; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0.1rem 0 1.1rem; letter-spacing: -0.01em; }
h2 { font-size: 1.3rem; line-height: 1.3; margin: 0 0 0.6rem; letter-spacing: -0.005em; }
p { margin: 0 0 0.8rem; max-width: 46rem; }
a { color: var(--accent); }
section { padding: 1.7rem 0 0.6rem; border-top: 1px solid var(--line); margin-top: 1.4rem; }
.over { margin: 0; color: var(--muted); font-size: 0.9rem; }
.missing, .note, footer { color: var(--muted); }
.note { font-size: 0.9rem; }
.missing { border-left: 3px solid var(--line); padding-left: 0.8rem; }
footer p { font-size: 0.85rem; max-width: none; border-top: 1px solid var(--line); margin: 2rem 0 2.5rem; padding-top: 1rem; }

.verdict { border-left: 5px solid var(--neutral); background: var(--panel); padding: 0.8rem 1rem; border-radius: 0 6px 6px 0; }
.verdict p { margin: 0; font-size: 1.1rem; font-weight: 600; max-width: none; }
ul { margin: 0 0 0.8rem; padding-left: 1.2rem; max-width: 46rem; }
.verdict ul { margin: 0.4rem 0 0; }
.verdict.good { border-color: var(--good); } .verdict.bad { border-color: var(--bad); } .verdict.warn { border-color: var(--warn); }

.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9.5rem, 1fr)); gap: 0.7rem; margin: 1rem 0 0; padding: 0; }
.tiles.six { grid-template-columns: repeat(3, 1fr); }
.tiles.six dt { min-height: 0; }
.tile { background: var(--panel); border-radius: 6px; padding: 0.7rem 0.9rem; }
.tile dt { color: var(--muted); font-size: 0.85rem; line-height: 1.3; min-height: 2.6em; }
.tile dd { margin: 0; }
.tile dd.figure { font-size: 1.55rem; font-weight: 600; line-height: 1.35; }
.tile dd.below { font-size: 0.85rem; color: var(--muted); line-height: 1.35; }
.interval { white-space: nowrap; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.25rem 1.1rem; margin: 1.2rem 0 0; padding: 0; max-width: none; font-size: 0.95rem; }

.scroll { overflow-x: auto; margin: 0.9rem 0 1.1rem; }
.scroll:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
table { border-collapse: collapse; min-width: min(100%, 36rem); font-size: 0.9rem; }
table, .figure, .value, .spark, svg text { font-variant-numeric: tabular-nums lining-nums; }
caption { text-align: left; color: var(--muted); font-size: 0.85rem; padding-bottom: 0.3rem; }
caption span { position: sticky; left: 0; display: inline-block; max-width: min(46rem, calc(100vw - 2.5rem)); }
th, td { padding: 0.32rem 1.3rem 0.32rem 0; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); font-weight: 400; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--muted); font-size: 0.85rem; vertical-align: bottom; }
td { white-space: nowrap; }
.titles { white-space: normal; }
th.num, td.num { text-align: right; }
tr.strong th, tr.strong td { font-weight: 600; }
tr.part th { padding-left: 1.3rem; color: var(--muted); }
tr.group th { color: var(--muted); font-size: 0.85rem; padding-top: 1rem; }
tbody th { min-width: 7rem; }
.gate { display: block; color: var(--muted); font-size: 0.85rem; min-width: 12rem; max-width: 30rem; }
.status { white-space: nowrap; font-weight: 600; }
.good { color: var(--good); } .bad { color: var(--bad); } .warn { color: var(--warn); } .skipped { color: var(--muted); }
.verdict.good, .verdict.bad, .verdict.warn { color: var(--ink); }

figure { margin: 1rem 0 1.3rem; }
figcaption { font-size: 0.9rem; margin-bottom: 0.5rem; max-width: 46rem; }
.legend { max-width: none; display: flex; flex-wrap: wrap; gap: 0.1rem 1.2rem; color: var(--muted); font-size: 0.85rem; margin: 0 0 0.3rem; padding: 0; list-style: none; }
.legend svg { vertical-align: -2px; margin-right: 0.4rem; }
.row { display: grid; grid-template-columns: 17rem minmax(0, 1fr) 13.5rem; column-gap: 1rem; align-items: center; font-size: 0.9rem; }
.row .value { text-align: right; white-space: nowrap; }
.row.bars { grid-template-columns: 17rem minmax(0, 1fr) 7rem; }
.row .strong { font-weight: 600; }
.unit, .row .unit { color: var(--muted); font-weight: 400; }
svg { display: block; overflow: visible; }
.legend svg { display: inline-block; }
svg text { fill: var(--muted); font-size: 12px; }
.grid { stroke: var(--line); stroke-width: 1; }
.zero { stroke: var(--neutral); stroke-width: 1; }
.bound { stroke: var(--muted); stroke-width: 1; stroke-dasharray: 3 3; }
.mark { stroke-width: 2; }
.accent.mark, .accent.trace { stroke: var(--accent); } .accent.dot, .accent.bar { fill: var(--accent); }
.second.mark, .second.trace { stroke: var(--second); } .second.dot, .second.bar { fill: var(--second); }
.neutral.mark, .neutral.trace { stroke: var(--neutral); } .neutral.dot, .neutral.bar { fill: var(--neutral); }
.bad.dot, .bad.bar { fill: var(--bad); }
.trace { stroke-width: 2; fill: none; }
svg text.accent { fill: var(--accent); } svg text.neutral { fill: var(--neutral); } svg text.second { fill: var(--second); }

.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(19rem, 100%), 1fr)); gap: 0 2.5rem; }
.pair table { min-width: 100%; }
.pair > div { overflow-x: auto; }
.pair td { white-space: normal; }
.pair td.num { white-space: nowrap; }
article { border-top: 1px solid var(--line); padding: 0.9rem 0 0.5rem; }
article:first-of-type { border-top: 0; padding-top: 0; }
article h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
article table { font-size: 0.87rem; }
article th, article td { border: 0; padding-top: 0.1rem; padding-bottom: 0.1rem; }
article tbody th { white-space: nowrap; min-width: 0; color: var(--muted); }

.because { display: block; color: var(--muted); font-size: 0.8rem; }

@media screen and (max-width: 760px) {
  h1 { font-size: 1.55rem; }
  header { padding-top: 1.25rem; }
  .tiles, .tiles.six { grid-template-columns: 1fr 1fr; }
  .tiles.six dt { min-height: 2.6em; }
  th, td { padding-right: 0.9rem; }
  .row, .row.bars { grid-template-columns: 1fr auto; margin-top: 0.35rem; }
  .row > :nth-child(2) { grid-column: 1 / -1; grid-row: 2; }
}
@media print {
  :root { font-size: 80%; }
  nav { display: none; }
  article, figure, tr { break-inside: avoid; }
  h2, h3, caption, figcaption { break-after: avoid; }
  .scroll { overflow: visible; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


def _variables(palette: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in palette.items())


def style_sheet() -> str:
    """The page's whole CSS: light, dark where the reader's system is dark and the page is not printed."""
    dark = f"@media screen and (prefers-color-scheme: dark) {{ :root {{ {_variables(DARK)} }} }}"
    return f":root {{ {_variables(LIGHT)} }}\n{dark}\n{_SHEET.strip()}\n"
