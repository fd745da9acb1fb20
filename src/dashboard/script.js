// Keeps the parts of a page that change up to date, and lets the operator pause that. Every page works without it.
'use strict';
// Changes an element into another one, and keeps the elements that stay: with their focus, their ticks, and what is opened. Rows have keys.
const key = (node) => (node.dataset ? node.dataset.key : undefined);
const change = (old, next) => {
  if (old.isEqualNode(next)) return;
  if (old.nodeType !== Node.ELEMENT_NODE) { old.data = next.data; return; }
  // These two belong to the browser and to this script.
  const is = (name) => name !== 'open' && name !== 'hidden';
  for (const name of old.getAttributeNames().filter(is)) if (!next.hasAttribute(name)) old.removeAttribute(name);
  for (const name of next.getAttributeNames().filter(is)) {
    if (old.getAttribute(name) !== next.getAttribute(name)) old.setAttribute(name, next.getAttribute(name));
  }
  const stay = new Set([...next.children].map(key));
  const rows = new Map();
  for (const child of [...old.children].filter(key)) {
    if (stay.has(key(child)) && !rows.has(key(child))) rows.set(key(child), child); else child.remove();
  }
  let at = old.firstChild;
  for (const child of [...next.childNodes]) {
    const same = key(child) ? rows.get(key(child)) : at;
    if (same && same.nodeName === child.nodeName && key(same) === key(child)) {
      rows.delete(key(child));
      if (same === at) at = at.nextSibling; else old.insertBefore(same, at);
      change(same, child);
    } else {
      old.insertBefore(child, at);
    }
  }
  while (at) { const gone = at; at = at.nextSibling; gone.remove(); }
};
// Runs a change of the page. The focus of a row that goes moves to the row beside it.
const keepFocus = (run) => {
  const active = document.activeElement;
  const row = active.closest('[data-key]');
  const all = row ? [...row.parentNode.children] : [];
  const place = all.indexOf(row);
  run();
  if (active === document.body || document.activeElement === active) return;
  const beside = [...all.slice(place + 1), ...all.slice(0, Math.max(place, 0)).reverse()].find((one) => one.isConnected);
  const alike = beside && beside.querySelector(active.tagName + (active.name ? `[name="${CSS.escape(active.name)}"]` : ''));
  const to = active.isConnected ? active : alike || document.getElementById('content');
  to.focus({ preventScroll: true });
};
// The box that ticks all of a page. An update may bring it, or rows that are not ticked.
const boxes = () => [...document.querySelectorAll('td input[type=checkbox]')];
const showAll = () => {
  const all = document.getElementById('all');
  if (!all) return;
  all.closest('label').hidden = false;
  all.checked = boxes().length > 0 && boxes().every((box) => box.checked);
};
document.addEventListener('change', (event) => {
  if (event.target.id === 'all') for (const box of boxes()) box.checked = event.target.checked;
  showAll();
});
showAll();
const main = document.querySelector('main[data-live]');
const button = document.getElementById('pause');
if (main && button && window.EventSource) {
  let source = null;
  let late = null;
  const say = document.getElementById('live');
  const start = () => {
    source = new EventSource(main.dataset.live);
    source.addEventListener('part', (event) => {
      const next = new DOMParser().parseFromString(event.data, 'text/html');
      keepFocus(() => {
        for (const part of next.querySelectorAll('[data-part]')) {
          const old = main.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
          if (old) change(old, part);
        }
        showAll();
      });
      clearTimeout(late);
      late = null;
      say.textContent = 'live';
    });
    // The server ends the events now and then; only a longer silence is worth a word.
    source.onerror = () => {
      late = late || setTimeout(() => { say.textContent = 'not connected; trying again'; }, 5000);
    };
  };
  const stop = () => { source.close(); source = null; };
  const show = (paused) => {
    button.textContent = paused ? 'Resume updates' : 'Pause updates';
    say.textContent = paused ? 'paused' : 'live';
  };
  let paused = sessionStorage.getItem('paused') === 'yes';
  button.hidden = false;
  show(paused);
  if (!paused) start();
  button.addEventListener('click', () => {
    paused = !paused;
    sessionStorage.setItem('paused', paused ? 'yes' : 'no');
    if (paused) stop(); else start();
    show(paused);
  });
}
// Counts down how long a drop can be undone. The page says until when, too.
const ends = new WeakMap();
setInterval(() => {
  for (const timer of document.querySelectorAll('[data-left]')) {
    if (!ends.has(timer)) ends.set(timer, performance.now() + 1000 * timer.dataset.left);
    const left = Math.max(0, Math.round((ends.get(timer) - performance.now()) / 1000));
    if (left < 60) timer.textContent = `${left}s`;
    else if (left < 3600) timer.textContent = `${Math.floor(left / 60)}m ${left % 60}s`;
    timer.closest('form').querySelector('button').disabled = left === 0;
  }
}, 1000);
