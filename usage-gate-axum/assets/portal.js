// What the pages do beyond links and forms. Everything works without it.
(() => {
  'use strict';

  // Copy buttons appear with the script that makes them work.
  const ready = (root) => {
    for (const button of root.querySelectorAll('[data-copy]')) button.hidden = false;
  };

  document.addEventListener('click', async (event) => {
    const button = event.target.closest('[data-copy]');
    if (button) {
      const said = button.textContent;
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = button.dataset.copy;
      setTimeout(() => { button.textContent = said; }, 2000);
      return;
    }
    // «Keep it» closes the panel that was opened in the row; on its own page it is a link.
    const dismiss = event.target.closest('.keys [data-dismiss]');
    if (dismiss) {
      event.preventDefault();
      close(dismiss.closest('form'));
    }
  });

  // The panel of a row goes, and the focus to where it was opened.
  const close = (panel) => {
    const row = panel.closest('li');
    panel.remove();
    row.querySelector('.acts .bad').focus();
  };

  document.addEventListener('htmx:beforeRequest', (event) => {
    // A page that nobody looks at asks for nothing, and a row opens one panel.
    const source = event.detail.elt;
    if (source.id === 'live' ? document.hidden : source.closest('li')?.querySelector('form')) event.preventDefault();
  });

  // Numbers that changed light up once; the sheet leaves it out for those who want no motion.
  const numbers = new Map();
  const remember = () => {
    for (const row of document.querySelectorAll('[data-limit]')) {
      const shown = row.querySelector('.facts').textContent;
      const before = numbers.get(row.dataset.limit);
      if (before !== undefined && before !== shown) row.querySelector('.left b').classList.add('fresh');
      numbers.set(row.dataset.limit, shown);
    }
  };
  document.addEventListener('htmx:afterSettle', (event) => {
    remember();
    ready(document);
    // A panel that was opened takes the focus with it.
    event.detail.elt.querySelector?.('form.panel .danger')?.focus();
  });

  // Where a day is too narrow to be pointed at, the finger scrubs.
  const scrub = (event) => {
    const days = event.currentTarget.querySelectorAll('input[name=day]');
    const box = event.currentTarget.getBoundingClientRect();
    const columns = event.currentTarget.querySelectorAll('.days > input, .days > span').length;
    const axis = event.currentTarget.querySelector('.plot').getBoundingClientRect();
    if (event.clientY < box.top || !columns) return;
    const at = Math.floor((event.clientX - axis.left) / axis.width * columns);
    if (days[at]) days[at].checked = true;
  };
  for (const chart of document.querySelectorAll('.chart')) {
    chart.addEventListener('pointerdown', scrub);
    chart.addEventListener('pointermove', (event) => { if (event.buttons || event.pointerType === 'touch') scrub(event); });
  }

  // Escape closes the panel that it is pressed in, or the menu, and gives the focus back.
  document.addEventListener('keydown', (event) => {
    if (event.key !== 'Escape') return;
    const panel = event.target.closest('.keys form.panel');
    const menu = document.querySelector('.who[open]');
    if (panel) {
      close(panel);
    } else if (menu) {
      menu.open = false;
      menu.querySelector('summary').focus();
    }
  });

  ready(document);
  remember();
})();
