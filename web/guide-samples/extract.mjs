// Cuts every code sample out of the streaming guide:
//   node extract.mjs GUIDE.md          writes samples/
//   node extract.mjs GUIDE.md --check  fails when samples/ is not what the guide has
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = join(dirname(fileURLToPath(import.meta.url)), 'samples');
const endings = { javascript: 'js', jsx: 'jsx', vue: 'vue', html: 'html' };

/** samples finds the code of a Markdown document, named by number and heading. */
function samples(guide) {
  const found = {};
  let heading = '';
  let open;
  for (const line of guide.split('\n')) {
    if (open && line === '```') {
      const number = String(Object.keys(found).length + 1).padStart(2, '0');
      const slug = heading.toLowerCase().replace(/[^a-z]+/g, '-').replace(/^-|-$/g, '');
      found[`${number}-${slug}.${open.ending}`] = open.lines.map((l) => `${l}\n`).join('');
      open = undefined;
    } else if (open) open.lines.push(line);
    else if (/^#+ /.test(line)) heading = line.replace(/^#+ /, '');
    else if (endings[line.slice(3)] && line.startsWith('```')) open = { ending: endings[line.slice(3)], lines: [] };
    else if (line.startsWith('```')) open = undefined;
  }
  return found;
}

const [path, check] = process.argv.slice(2);
if (!path) throw new Error('usage: node extract.mjs GUIDE.md [--check]');
const wanted = samples(readFileSync(path, 'utf8'));
if (check) {
  const names = [...new Set([...readdirSync(folder), ...Object.keys(wanted)])];
  const wrong = names.filter((name) => !wanted[name] || readFileSync(join(folder, name), 'utf8') !== wanted[name]);
  if (wrong.length > 0) {
    console.error(`samples/ is not what the guide has: ${wrong.join(', ')}`);
    process.exit(1);
  }
} else {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  for (const [name, text] of Object.entries(wanted)) writeFileSync(join(folder, name), text);
}
console.log(`${Object.keys(wanted).length} samples`);
