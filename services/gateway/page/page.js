// The page of the gateway: a conversation over the plain protocol of /streaming.
// One socket carries one answer after another; closing it stops the cluster.

const $ = (id) => document.getElementById(id);
const log = $('log'), prompt = $('prompt'), send = $('send'), stop = $('stop');

/** What has been said, as the protocol's messages. */
let history = [];
/** The model to ask; empty is the server's default. */
let model = '';
/** The API key, for this tab only. */
let key = sessionStorage.getItem('shoal-key') ?? '';
/** The answer that is being written, or null. */
let current = null;
let socket = null;

// --- talking to the server ------------------------------------------------

/** connect resolves to an open socket. */
function connect() {
  if (socket?.readyState === WebSocket.OPEN) return Promise.resolve(socket);
  const url = new URL('streaming', location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.hash = url.search = '';
  const protocols = ['shoal.v1.plain'];
  if (key) protocols.push('bearer.' + key);
  return new Promise((resolve, reject) => {
    const s = new WebSocket(url, protocols);
    let opened = false;
    s.onopen = () => { opened = true; resolve(s); };
    s.onmessage = (event) => { if (s === socket) receive(JSON.parse(event.data)); };
    s.onclose = (event) => {
      if (s !== socket) return reject(new Error('stopped'));
      if (opened) return lost(event);
      socket = null;
      reject(new Error('not connected'));
    };
    socket = s;
  });
}

/** lost ends the answer that a closed socket was carrying: never as a whole one. */
function lost(event) {
  socket = null;
  if (!current) return;
  fail(event.code === 1001
    ? 'The server is shutting down. Try again in a moment.'
    : 'The connection to the server was lost before the answer was complete.');
  refresh();
}

const explanations = {
  busy: 'Another answer is still being written.',
  model_loading: 'The model is still loading. Try again in a moment.',
  no_capacity: 'The cluster has no room for another answer right now.',
  rate_limit_exceeded: 'The server is busy. Try again in a moment.',
  shard_lost: 'A machine that held part of the model went away, so the answer could not be finished.',
  coordinator_unavailable: 'No coordinator is connected to this server at the moment.',
  coordinator_lost: 'The connection to the coordinator was lost before the answer was complete.',
  context_length_exceeded: 'The conversation has become longer than the model can read. Start a new chat.',
};

function receive(frame) {
  if (!current) return;
  switch (frame.type) {
    case 'token':
      current.token(frame.token);
      break;
    case 'complete':
      current.complete(frame);
      finish();
      break;
    case 'stopped':
      current.stopped(frame.reason === 'drain' ? 'ended by the server' : 'ended: ' + frame.reason);
      finish();
      break;
    case 'error':
      fail(explanations[frame.code] ?? frame.message);
      break;
  }
}

// --- one answer -----------------------------------------------------------

/** Answer is one turn of the model on the page. */
class Answer {
  constructor() {
    this.asked = performance.now();
    this.first = this.last = 0;
    this.tokens = 0;
    this.text = '';
    this.waiting = ''; // text that is not on the page yet
    this.turn = element('article', 'turn assistant writing');
    this.turn.setAttribute('aria-label', 'Answer');
    this.body = this.turn.appendChild(element('div', 'text'));
    this.node = this.body.appendChild(document.createTextNode(''));
    this.stats = this.turn.appendChild(element('p', 'stats'));
    show(this.turn);
  }

  token(text) {
    this.last = performance.now();
    if (this.tokens++ === 0) this.first = this.last;
    this.text += text;
    this.waiting += text;
    this.frame ??= requestAnimationFrame(() => this.paint());
  }

  /** paint puts what arrived since the last frame on the page. */
  paint() {
    cancelAnimationFrame(this.frame);
    this.frame = null;
    const follow = atBottom();
    this.node.appendData(this.waiting);
    this.waiting = '';
    this.measure();
    if (follow) toBottom();
  }

  /** measure writes speed and delay; ended is a word about the end. */
  measure(ended) {
    const parts = [];
    if (this.tokens > 0) parts.push(measured(this.tokens, this.tokens === 1 ? 'token' : 'tokens'));
    if (this.tokens > 1) parts.push(measured(rate(this.tokens - 1, this.last - this.first), 'tokens/s'));
    if (this.tokens > 0) parts.push(measured(time(this.first - this.asked), 'to the first token'));
    if (ended) parts.push(element('span', 'ended', ended));
    this.stats.replaceChildren(...parts);
  }

  end(ended) {
    this.paint();
    this.measure(ended);
    this.turn.classList.remove('writing');
  }

  complete(frame) {
    // The whole text may end with some that was held back and is in no token.
    this.waiting += frame.text.slice(this.text.length);
    this.text = frame.text;
    this.end(frame.finishReason === 'length' ? 'token limit reached' : '');
    history.push({ role: 'assistant', content: this.text });
  }

  stopped(why) {
    this.end(why);
    history.push({ role: 'assistant', content: this.text });
  }

  failed(message, again) {
    this.end('');
    const box = element('div', 'trouble');
    box.setAttribute('role', 'alert');
    const retry = element('button', '', 'Try again');
    retry.type = 'button';
    retry.onclick = () => { this.turn.remove(); again(); };
    box.append(element('span', '', message), retry);
    this.turn.append(box);
    toBottom();
  }
}

const measured = (value, unit) => {
  const span = element('span');
  span.append(element('b', '', String(value)), ' ' + unit);
  return span;
};
const rate = (n, ms) => (ms > 0 ? (1000 * n / ms).toFixed(1) : '–');
const time = (ms) => (ms < 1000 ? Math.round(ms) + ' ms' : (ms / 1000).toFixed(2) + ' s');

// --- asking and stopping --------------------------------------------------

async function ask() {
  if (current) return;
  const answer = current = new Answer();
  busy(true);
  try {
    const s = await connect();
    if (current === answer) s.send(JSON.stringify(request()));
  } catch {
    if (current === answer) fail('The server cannot be reached.');
    refresh();
  }
}

function request() {
  const r = { messages: history, temperature: number('temperature') ?? 0.7, maxTokens: number('max-tokens') ?? 500 };
  const seed = number('seed');
  if (seed !== undefined) r.seed = seed;
  if (model) r.model = model;
  return r;
}

function number(id) {
  const field = $(id);
  return field.value === '' || !field.validity.valid ? undefined : field.valueAsNumber;
}

/** halt stops the answer: a closed socket stops every machine. */
function halt() {
  if (!current) return;
  const s = socket;
  socket = null;
  s?.close(1000, 'stopped');
  current.stopped('stopped');
  finish('Stopped.');
}

function finish(word = 'Answer complete.') {
  current = null;
  busy(false);
  announce(word);
  refresh();
}

function fail(message) {
  const answer = current;
  current = null;
  busy(false);
  answer.failed(message, ask);
}

function busy(on) {
  log.setAttribute('aria-busy', String(on));
  $('stages').dataset.busy = String(on);
  const had = document.activeElement === send || document.activeElement === stop;
  send.hidden = on;
  stop.hidden = !on;
  if (had) (on ? stop : prompt).focus();
  typed();
}

function say(text) {
  $('welcome').hidden = true;
  const turn = element('article', 'turn user');
  turn.setAttribute('aria-label', 'You');
  turn.append(element('div', 'text', text));
  show(turn);
  history.push({ role: 'user', content: text });
  ask();
}

// --- the page -------------------------------------------------------------

function element(name, className = '', text = '') {
  const e = document.createElement(name);
  if (className) e.className = className;
  if (text) e.textContent = text;
  return e;
}

function show(turn) {
  log.append(turn);
  toBottom();
}

const atBottom = () => log.scrollHeight - log.scrollTop - log.clientHeight < 48;
const toBottom = () => { log.scrollTop = log.scrollHeight; };
const announce = (text) => { $('announce').textContent = text; };

/** typed fits the prompt box to its text. */
function typed() {
  prompt.style.height = 'auto';
  prompt.style.height = prompt.scrollHeight + 'px';
  send.disabled = prompt.value.trim() === '';
}

prompt.addEventListener('input', typed);
prompt.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $('composer').requestSubmit();
  }
});
$('composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const text = prompt.value.trim();
  if (!text || current) return;
  prompt.value = '';
  typed();
  say(text);
});
stop.addEventListener('click', halt);
document.addEventListener('keydown', (event) => {
  if (event.key !== 'Escape') return;
  if ($('settings').open) $('settings').open = false;
  else halt();
});
document.addEventListener('click', (event) => {
  if (!$('settings').contains(event.target)) $('settings').open = false;
});
$('ideas').addEventListener('click', (event) => {
  if (event.target.closest('button') && !current) say(event.target.textContent);
});
$('fresh').addEventListener('click', () => {
  halt();
  history = [];
  log.replaceChildren($('welcome'));
  $('welcome').hidden = false;
  prompt.focus();
});
$('key-form').addEventListener('submit', (event) => {
  event.preventDefault();
  key = $('key').value.trim();
  sessionStorage.setItem('shoal-key', key);
  refresh();
  prompt.focus();
});
$('model-choice').addEventListener('change', (event) => {
  model = event.target.value;
  refresh();
});

// --- who serves -----------------------------------------------------------

let again = 0;

/** refresh shows which model answers and where; it asks again until one does. */
async function refresh() {
  clearTimeout(again);
  let models = [];
  try {
    const response = await fetch('v1/models', { headers: key ? { Authorization: 'Bearer ' + key } : {} });
    $('key-form').hidden = response.status !== 401;
    if (response.status === 401) {
      serving('down', 'An API key is needed');
      return;
    }
    if (!response.ok) throw new Error((await response.json()).error.message);
    models = (await response.json()).data;
  } catch {
    serving('down', 'The cluster cannot be reached');
    again = setTimeout(refresh, 2000);
    return;
  }
  choices(models);
  const chosen = models.find((m) => m.id === model) ?? models[0];
  if (!chosen) serving('wait', 'No model is loaded yet');
  else serving(chosen.shoal.state === 'ready' ? 'ready' : chosen.shoal.state === 'failed' ? 'down' : 'wait', chosen.id, chosen.shoal);
  if (chosen?.shoal.state !== 'ready') again = setTimeout(refresh, 2000);
}

function serving(state, name, facts) {
  $('state').dataset.state = state;
  $('model-name').textContent = name;
  const words = [];
  if (facts) {
    if (facts.state !== 'ready') words.push(facts.reason || facts.state);
    if (facts.precision) words.push(facts.precision);
    if (facts.layers) words.push(facts.layers + ' layers');
  }
  $('model-facts').textContent = words.join(' · ');
  route(facts?.stages ?? []);
}

/** choices offers the models when there is more than one. */
function choices(models) {
  const select = $('model-choice');
  select.hidden = models.length < 2;
  $('model-name').hidden = !select.hidden;
  if (select.hidden) return;
  const names = models.map((m) => m.id);
  if (names.join('\n') !== [...select.options].map((o) => o.value).join('\n')) {
    select.replaceChildren(...names.map((n) => new Option(n, n, false, n === model)));
  }
}

/** route draws the stages as wide as their share of the layers. */
function route(stages) {
  $('route').hidden = stages.length === 0;
  $('stages').replaceChildren(...stages.map((stage, place) => {
    // "node/device [first..end) embed head", where only the layers are always there
    const [, node, device, first, end] = /^(.*?)(?:\/(\d+))?\s*\[(\d+)\.\.(\d+)\)/.exec(stage) ?? [null, stage, , 0, 1];
    const short = node.length > 12 ? node.slice(0, 8) + '…' : node;
    const item = element('li', '', short + ' ');
    item.append(element('span', 'layers', `[${first}..${end})`));
    item.title = `${node}${device ? ', device ' + device : ''}: layers ${first} to ${end - 1}`;
    item.style.flexGrow = Math.max(1, end - first);
    item.style.setProperty('--place', place);
    return item;
  }));
}

typed();
refresh();
