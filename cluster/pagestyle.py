"""How reports look: one style sheet, light and dark, from a phone to a wide screen, and on paper.

Colours are variables, so that charts follow the reader's scheme. The series colours keep apart for colour-blind eyes and in grey.
"""

from __future__ import annotations

SERIES = 6
"""How many series colours there are; ``--s0`` is what the page is about, ``--base`` is what it is compared with."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbfa; --card: #ffffff; --ink: #16191d; --soft: #565d67; --faint: #676e78; --rule: #e3e4e7; --hair: #eeeff1; --wash: #f3f4f5;
  --s0: #0b5fae; --s1: #c2500a; --s2: #087a5b; --s3: #9a4a8a; --s4: #8a6a00; --s5: #3a8ec2; --base: #858c96;
  --good: #0a7a50; --good-wash: #e9f5ef; --bad: #b3261e; --bad-wash: #fbeceb; --warn: #8a5a00; --warn-wash: #fdf4e1; --mark: #0b5fae14;
  --text: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", Arial, sans-serif;
  --mono: ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", "Liberation Mono", monospace;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #111316; --card: #181b1f; --ink: #e8eaed; --soft: #a9b0ba; --faint: #88909b; --rule: #2d3238; --hair: #23272c; --wash: #1d2125;
    --s0: #6db3f2; --s1: #f0924f; --s2: #4cc39a; --s3: #d394c6; --s4: #d9b44a; --s5: #9ad4f5; --base: #7d8590;
    --good: #5ecb9b; --good-wash: #12281f; --bad: #f08a80; --bad-wash: #2e1917; --warn: #e0b050; --warn-wash: #2a2213; --mark: #6db3f21f;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.55 var(--text); font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
main, header, footer { max-width: 72rem; margin: 0 auto; padding: 0 clamp(1rem, 4vw, 2.5rem); }
header { padding-top: clamp(1.75rem, 4vw, 3.25rem); }
footer { padding-top: 1.25rem; padding-bottom: 3rem; color: var(--faint); font-size: .8125rem; }
.kind { margin: 0; color: var(--soft); font-size: .8125rem; letter-spacing: .01em; }
h1 { margin: .15rem 0 0; font-size: clamp(1.6rem, 1.1rem + 1.9vw, 2.35rem); line-height: 1.15; font-weight: 660; letter-spacing: -.022em; text-wrap: balance; }
h2 { margin: 0; font-size: 1.25rem; line-height: 1.3; font-weight: 640; letter-spacing: -.012em; }
h3 { margin: 0; font-size: .9375rem; line-height: 1.4; font-weight: 620; }
p { margin: .5rem 0; max-width: 46rem; }
a { color: inherit; text-decoration-color: var(--rule); text-underline-offset: .2em; }
a:hover { text-decoration-color: currentColor; }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible { outline: 2px solid var(--s0); outline-offset: 3px; border-radius: 2px; }
.lede { color: var(--soft); margin: .6rem 0 0; }
nav { display: flex; flex-wrap: wrap; gap: .35rem 1.15rem; margin-top: 1.4rem; padding: .7rem 0; border-block: 1px solid var(--rule); font-size: .875rem; }
nav a { color: var(--soft); text-decoration: none; }
nav a:hover { color: var(--ink); }
section { padding: clamp(1.75rem, 3.5vw, 2.6rem) 0 0; scroll-margin-top: .5rem; }
.about { color: var(--soft); font-size: .9375rem; }
main section > * + * { margin-top: 1.1rem; }
main section > h2 + .about { margin-top: .2rem; }
.verdict { margin-top: 1.5rem; padding: 1.1rem 1.35rem 1.2rem; border-radius: 10px; background: var(--wash); border-left: 4px solid var(--faint); }
.verdict p { margin: 0; max-width: 54rem; }
.verdict .said { font-size: clamp(1.15rem, 1rem + .75vw, 1.5rem); line-height: 1.32; font-weight: 600; letter-spacing: -.012em; text-wrap: pretty; }
.verdict .why { margin-top: .45rem; color: var(--soft); font-size: .9375rem; }
.good { --tone: var(--good); --tone-wash: var(--good-wash); } .bad { --tone: var(--bad); --tone-wash: var(--bad-wash); }
.warn { --tone: var(--warn); --tone-wash: var(--warn-wash); } .plain { --tone: var(--faint); --tone-wash: var(--wash); }
.verdict.good, .verdict.bad, .verdict.warn { background: var(--tone-wash); border-left-color: var(--tone); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.25rem, 1fr)); gap: 1.2rem 1.25rem; margin: 1.5rem 0 0; }
.figures > div { border-top: 1px solid var(--rule); padding-top: .6rem; display: flex; flex-direction: column; min-width: 0; }
.figures dt { order: 0; color: var(--soft); font-size: .8125rem; }
.figures dd { margin: 0; }
.figures .value { font-size: 1.55rem; line-height: 1.25; font-weight: 620; letter-spacing: -.02em; color: var(--ink); }
.figures .unit { white-space: nowrap; font-size: .9375rem; font-weight: 500; letter-spacing: 0; color: var(--soft); }
.figures .more { color: var(--soft); font-size: .8125rem; line-height: 1.4; }
.figures .good .value, .figures .bad .value, .figures .warn .value { color: var(--tone); }
.notice { margin: .6rem 0; padding: .65rem .95rem; border-radius: 8px; background: var(--tone-wash); border-left: 3px solid var(--tone); font-size: .9375rem; }
.notice p { margin: 0; max-width: none; } .notice p + p { margin-top: .2rem; color: var(--soft); white-space: pre-wrap; }
.grid { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); gap: 0 2.25rem; align-items: start; margin-bottom: -.9rem; }
.grid > * { padding-bottom: 1.75rem; } .grid > figure { padding-bottom: 0; } .grid > figure > :last-child { padding-bottom: 1.75rem; }
.grid.small { grid-template-columns: repeat(auto-fit, minmax(min(100%, 18rem), 1fr)); }
.grid > * { min-width: 0; margin: 0; grid-row: span 2; } .grid > figure { display: grid; grid-template-rows: subgrid; row-gap: 0; }
.scroll { overflow-x: auto; max-width: 100%; } details > .scroll + .scroll { margin-top: 1.25rem; }
table { border-collapse: collapse; width: 100%; font-size: .9063rem; line-height: 1.4; }
caption { text-align: left; padding-bottom: .5rem; font-weight: 620; font-size: .9375rem; }
th, td { padding: .48rem .9rem .48rem 0; text-align: left; vertical-align: baseline; border-bottom: 1px solid var(--hair); overflow-wrap: break-word; }
th:last-child, td:last-child { padding-right: 0; }
thead th { color: var(--soft); font-weight: 500; font-size: .8125rem; border-bottom-color: var(--rule); vertical-align: bottom; }
tbody th { font-weight: 500; }
.number { text-align: right; white-space: nowrap; overflow-wrap: normal; } .number:has(.aside) { white-space: normal; }
.aside { color: var(--soft); font-weight: 400; white-space: nowrap; } td .aside { font-size: .8438rem; }
th .about { font-size: .8438rem; font-weight: 400; } th:has(.about) { min-width: 9rem; }
tbody tr:last-child > * { border-bottom-color: var(--rule); }
td.good, td.bad, td.warn { color: var(--tone); font-weight: 560; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 21rem), 1fr)); gap: 0 2.5rem; margin: .8rem 0 0; font-size: .9063rem; }
.facts > div { display: grid; grid-template-columns: minmax(7rem, 2fr) 3fr; gap: .75rem; padding: .42rem 0; border-bottom: 1px solid var(--hair); }
.facts dt { color: var(--soft); } .facts dd { margin: 0; min-width: 0; }
pre, code, .text { font-family: var(--mono); font-size: .8125rem; }
pre { margin: 0; padding: 1rem 1.15rem; background: var(--wash); border-radius: 8px; line-height: 1.55; white-space: pre-wrap; tab-size: 2; }
details { border-bottom: 1px solid var(--hair); padding: .55rem 0; }
details > summary { cursor: pointer; font-size: .9375rem; color: var(--ink); }
details > summary .aside { color: var(--soft); white-space: normal; font-size: .8125rem; margin-left: .5rem; }
details[open] > summary { margin-bottom: .7rem; }
.texts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 17rem), 1fr)); gap: 1px; }
.texts { background: var(--rule); border: 1px solid var(--rule); border-radius: 8px; overflow: hidden; }
.texts > div { background: var(--card); padding: .75rem 1rem .95rem; min-width: 0; }
.texts h3, .above h3 { color: var(--soft); font-size: .75rem; font-weight: 560; margin-bottom: .25rem; }
.texts .lead h3 { color: var(--s0); }
.text { font-family: var(--text); font-size: .9375rem; line-height: 1.5; white-space: pre-wrap; unicode-bidi: isolate; max-height: 22.5rem; overflow: auto; }
.text.none { color: var(--faint); font-style: italic; }
.above { margin: 1.4rem 0 .55rem; } .above .text { color: var(--ink); }
.case + .case { margin-top: 1.1rem; }
.key { display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: 0; padding: 0; list-style: none; color: var(--soft); font-size: .8125rem; }
.key li { display: inline-flex; align-items: center; gap: .42rem; }
.key svg { width: 18px; height: 10px; flex: none; overflow: visible; } .key svg .faint { opacity: .8; }
figure { margin: 0; }
figcaption { margin-bottom: .7rem; }
figcaption .about { color: var(--soft); font-size: .8125rem; display: block; line-height: 1.4; }
.plot { display: grid; grid-template-columns: var(--axis, 3.4rem) minmax(0, 1fr); }
.plot svg { display: block; width: 100%; overflow: visible; }
.plot .y { grid-column: 1; } .plot .body { grid-column: 2; padding-right: .5rem; }
.along { text-align: center; color: var(--faint); font-size: .75rem; margin: -.1rem 0 0; padding-right: .5rem; max-width: none; }
.plot .along, .rows .along, .rows .under { grid-column: 2; }
svg text { font: 11px var(--text); fill: var(--faint); font-variant-numeric: tabular-nums; }
svg .grid-line { stroke: var(--hair); stroke-width: 1; } svg .axis-line { stroke: var(--rule); stroke-width: 1; }
svg .zero-line { stroke: var(--faint); stroke-width: 1; }
svg .curve { fill: none; stroke: var(--c); stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; vector-effect: non-scaling-stroke; }
svg .curve.faint { stroke-width: 1; opacity: .5; } svg .curve.dashed { stroke-dasharray: 5 4; stroke-linecap: butt; }
svg .band { fill: var(--c); opacity: .16; } svg .fill { fill: var(--c); } svg path.fill { opacity: .72; }
svg .whisker { stroke: var(--c); stroke-width: 2; } svg .dot { fill: var(--c); stroke: var(--paper); stroke-width: 1.5; }
svg .split { stroke: var(--paper); stroke-width: 1.5; } .stack svg { display: block; border-radius: 4px; overflow: hidden; }
svg .mark { stroke: var(--warn); stroke-width: 1; stroke-dasharray: 2 3; } svg .mark-label { fill: var(--warn); }
svg .value { fill: var(--ink); font-size: 12px; } svg .reads { fill: var(--ink); }
svg .strip > rect { fill: transparent; } svg .strip > :not(rect) { opacity: 0; } svg .strip:hover > :not(rect) { opacity: 1; }
svg .thread { pointer-events: stroke; } svg .thread:hover { stroke-width: 4; opacity: 1; } .tracks svg { display: block; overflow: visible; }
svg .track { stroke-width: 1.5; } svg :is(.track-name, .track-tick) { paint-order: stroke; stroke: var(--paper); stroke-width: 4px; stroke-linejoin: round; }
svg .track-name { fill: var(--soft); font-size: 12px; }
svg .guide { stroke: var(--faint); stroke-width: 1; }
.c0 { --c: var(--s0); } .c1 { --c: var(--s1); } .c2 { --c: var(--s2); }
.c3 { --c: var(--s3); } .c4 { --c: var(--s4); } .c5 { --c: var(--s5); } .cbase { --c: var(--base); }
.rows { display: grid; grid-template-columns: minmax(5.5rem, max-content) minmax(0, 1fr); column-gap: 1rem; align-items: center; align-content: start; }
.rows.valued { grid-template-columns: minmax(5.5rem, max-content) minmax(0, 1fr) max-content; }
.rows.alone { grid-template-columns: minmax(0, 1fr); } .rows.alone .along, .rows.alone .under { grid-column: 1; }
.rows { font-size: .875rem; } .rows .name { color: var(--soft); max-width: 13rem; } .rows svg { display: block; width: 100%; overflow: visible; }
.parts { margin: .7rem 0 0; }
.parts th svg { width: 12px; height: 12px; margin-right: .6rem; vertical-align: -1px; } .parts tbody th { font-weight: 400; }
@media (max-width: 34rem) {
  .text { max-height: 30.9375rem; } .rows:not(.valued) { grid-template-columns: minmax(0, 1fr); }
  .rows:not(.valued) .along, .rows:not(.valued) .under { grid-column: 1; }
  th, td { padding-right: .65rem; } .number .aside { white-space: normal; } .facts > div { grid-template-columns: 2fr 3fr; } .plot { --axis: 2.9rem; }
}
@media print {
  :root { --paper: #fff; --card: #fff; --ink: #000; --soft: #333; }
  body { font-size: 10pt; } nav { display: none; } main, header, footer { max-width: none; padding-inline: 0; }
  figure, .texts, .notice, .verdict, tr { break-inside: avoid; } h2, h3 { break-after: avoid; } .text { max-height: none; }
}
""".strip()
