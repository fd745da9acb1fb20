// Keeps the parts of a page that change up to date, and lets the operator pause that. Every page works without it.
'use strict';
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
      for (const part of next.querySelectorAll('[data-part]')) {
        const old = main.querySelector(`[data-part="${CSS.escape(part.dataset.part)}"]`);
        if (old && !old.contains(document.activeElement) && old.innerHTML !== part.innerHTML) old.replaceWith(part);
      }
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
const all = document.getElementById('all');
if (all) {
  all.closest('label').hidden = false;
  all.addEventListener('change', () => {
    for (const box of document.querySelectorAll('td input[type=checkbox]')) box.checked = all.checked;
  });
}
