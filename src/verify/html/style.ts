export const STYLE = `
:root{color-scheme:light dark;--bg:#fff;--fg:#1b1f24;--soft:#59636e;--card:#f6f8fa;--edge:#d1d9e0;--a0:#5b6b7b;--a1:#0969da;--ok:#1a7f37;--bad:#cf222e;--warn:#9a6700;--range:#0969da22}
@media (prefers-color-scheme:dark){:root{--bg:#0d1117;--fg:#e6edf3;--soft:#9198a1;--card:#151b23;--edge:#3d444d;--a0:#8b98a6;--a1:#4493f8;--ok:#3fb950;--bad:#f85149;--warn:#d29922;--range:#4493f833}}
*{box-sizing:border-box}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.5 system-ui,-apple-system,"Segoe UI",sans-serif}
main{max-width:860px;margin:0 auto;padding:1.5rem 1rem 4rem}
h1{font-size:1.5rem;margin:0 0 .25rem;overflow-wrap:anywhere}h2{font-size:1.15rem;margin:2.25rem 0 .75rem}
p{margin:.4rem 0}.soft,caption{color:var(--soft)}small,caption{font-size:.85rem}
.verdict{display:inline-block;padding:.15rem .7rem;border-radius:2rem;font-weight:600;border:2px solid currentColor}
.ok{color:var(--ok)}.suspect{color:var(--bad)}.not-verified,.warning{color:var(--warn)}.error{color:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(150px,1fr));gap:.75rem;margin:1.25rem 0}
.card{background:var(--card);border:1px solid var(--edge);border-radius:8px;padding:.7rem .9rem}.card b{display:block;font-size:1.3rem;font-variant-numeric:tabular-nums}
svg{width:100%;height:auto;display:block;background:var(--card);border:1px solid var(--edge);border-radius:8px}
svg text{fill:var(--fg);font:13px system-ui,sans-serif}svg .tick{fill:var(--soft);font-size:12px}.mid{text-anchor:middle}.end{text-anchor:end}
.axis{stroke:var(--edge)}.grid{stroke:var(--edge);stroke-dasharray:2 4}.line{fill:none;stroke:var(--a1);stroke-width:1.5;opacity:.6}.whisker{stroke:var(--fg);stroke-width:2}
.s0{fill:var(--a0)}.s1{fill:var(--a1)}.muted{fill:var(--bg);stroke:var(--a0)}.area{fill:var(--a0)}.range{fill:var(--range);stroke:var(--a1)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums;font-size:.9rem}caption{text-align:left;padding:.25rem 0}
th,td{text-align:left;padding:.3rem .6rem .3rem 0;border-bottom:1px solid var(--edge);vertical-align:top}td.n,th.n{text-align:right}td.n{white-space:nowrap}figure{content-visibility:auto;contain-intrinsic-size:auto 300px}td.w{overflow-wrap:anywhere;min-width:9rem}
.scroll{overflow-x:auto;max-height:32rem;overflow-y:auto;border:1px solid var(--edge);border-radius:8px;padding:0 .7rem}.scroll thead th{position:sticky;top:0;background:var(--bg)}
.scroll:focus-visible,input:focus-visible,select:focus-visible,summary:focus-visible,a:focus-visible{outline:3px solid var(--a1);outline-offset:2px}
input,select{font:inherit;width:100%;padding:.45rem .6rem;border:1px solid var(--edge);border-radius:6px;background:var(--bg);color:var(--fg);margin:.25rem 0 .6rem}
.heat td{background:color-mix(in srgb,var(--bad) calc(var(--a)*75%),transparent);text-align:right;padding:.2rem .5rem}
.flips{display:flex;flex-wrap:wrap;gap:.6rem;padding:0;margin:.5rem 0;list-style:none}.flips li{border:1px solid var(--edge);border-radius:6px;padding:.35rem;max-width:112px;font-size:.78rem;overflow-wrap:anywhere}.flips img{display:block;width:96px;height:96px;object-fit:contain;image-rendering:pixelated;background:#000}
nav a{margin-right:.9rem;color:var(--a1)}code{font:.9em ui-monospace,monospace;overflow-wrap:anywhere}
@media (max-width:520px){main{padding:1rem .7rem 3rem}svg text{font-size:20px}svg .tick{font-size:18px}th,td{padding-right:.4rem}}
`;

/** Two controls: a filter over tables, and a choice among figures. Without scripts everything is shown. */
export const SCRIPT = `
for(const box of document.querySelectorAll('input[data-filter]')){const rows=[...document.querySelectorAll('#'+box.dataset.filter+' tbody tr')];const out=document.getElementById(box.dataset.filter+'-n');const f=()=>{const words=box.value.toLowerCase().split(/\\s+/).filter(Boolean);let n=0;for(const r of rows){const t=r.textContent.toLowerCase();r.hidden=!words.every(w=>t.includes(w));if(!r.hidden)n++}out.textContent=n+' of '+rows.length};box.addEventListener('input',f);f()}
const pick=document.getElementById('tensor');if(pick){const f=()=>{for(const s of document.querySelectorAll('figure[data-tensor]'))s.hidden=s.dataset.tensor!==pick.value};pick.addEventListener('change',f);f()}
`;
