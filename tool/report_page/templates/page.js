'use strict';

// Enlarge a picture. The dialog element closes with Escape and holds the keyboard's focus itself.
const dialog = document.querySelector('dialog');
const large = document.getElementById('large');
const caption = document.getElementById('caption');
let opened = null;

function enlarge(cell) {
  const image = cell.querySelector('img');
  opened = cell;
  large.src = image.src;
  large.alt = image.alt;
  large.className = image.className;
  caption.textContent = cell.dataset.caption;
  if (!dialog.open) {
    dialog.showModal();
  }
}

// Go to another picture of the same row; after the last one comes the first.
function step(count) {
  const cells = [...opened.closest('.row').querySelectorAll('.cell')];
  const place = cells.indexOf(opened) + count;
  enlarge(cells[(place + cells.length) % cells.length]);
}

for (const cell of document.querySelectorAll('.cell')) {
  cell.addEventListener('click', () => enlarge(cell));
}
document.getElementById('previous').addEventListener('click', () => step(-1));
document.getElementById('next').addEventListener('click', () => step(1));
document.getElementById('close').addEventListener('click', () => dialog.close());
large.addEventListener('click', () => dialog.close());
dialog.addEventListener('click', (event) => {
  if (event.target === dialog) {  // beside its content
    dialog.close();
  }
});
dialog.addEventListener('keydown', (event) => {
  if (event.key === 'ArrowLeft') {
    step(-1);
  } else if (event.key === 'ArrowRight') {
    step(1);
  }
});
dialog.addEventListener('close', () => opened.focus());

// Show only the pictures of the class that was chosen.
const chips = [...document.querySelectorAll('.chip')];
const rows = [...document.querySelectorAll('.row')];

function filter(chosen) {
  for (const chip of chips) {
    chip.setAttribute('aria-pressed', String(chip.dataset.class === chosen));
  }
  let count = 0;
  for (const row of rows) {
    row.hidden = chosen !== '' && !row.dataset.classes.split(' ').includes(chosen);
    count += row.hidden ? 0 : 1;
  }
  document.getElementById('shown').textContent = `${count} of ${rows.length} pictures.`;
}

for (const chip of chips) {
  const isPressed = () => chip.getAttribute('aria-pressed') === 'true';
  // pressed again, a class shows all pictures
  chip.addEventListener('click', () => filter(isPressed() ? '' : chip.dataset.class));
}
if (chips.length > 0) {
  filter('');
}
